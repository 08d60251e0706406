#include "parallel/comm/group_lanes.h"

#include <algorithm>
#include <set>
#include <utility>

#include "parallel/comm/poll_pause.h"

namespace elaswave::comm {
namespace {

// What waits for a peer holds on to multiprocessors that the peer's work here may need: a receive
// posted early must leave nearly all of them. A guess, not measured: boundary matrices are small
// beside sums and weights.
constexpr int kLinkBlocks = 4;
// For communicators to come to rest after they were told to; those that do not are aborted.
constexpr Nanoseconds kRest = 5 * kSecond;

int most_blocks(LaneName name) {
  return name.use == LaneName::Use::link ? kLinkBlocks : 0;
}

/// An entry in the flight recorder while it lives.
class Recorded {
 public:
  Recorded(World& world, const FlightEvent& event)
      : world_(world), handle_(world.recorder().compute.start(event)) {}
  ~Recorded() { world_.recorder().compute.finish(handle_, world_.clock().now()); }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;

 private:
  World& world_;
  std::uint64_t handle_;
};

}  // namespace

class GroupLanes::Lane final : public DeviceLane {
 public:
  Lane(GroupLanesParts& parts, LaneStream stream, DeviceGroup& group)
      : parts_(parts), stream_(std::move(stream)), group_(group) {}

  void follow() override { stream_.stream->follow(parts_.compute, parts_.compute.mark()); }
  device::Arithmetic& arithmetic() override { return *stream_.arithmetic; }
  Result<device::Mark> start(const LaneBatch& batch, std::string_view operation,
                             Deadline deadline) override;
  device::Mark mark() override { return last_ = stream_.stream->mark(); }
  Result<bool> test(device::Mark mark) override;
  Result<void> wait(device::Mark mark, std::string_view operation, Deadline deadline) override;

  bool at_rest() { return stream_.stream->reached(last_); }
  std::set<int>& connected() { return connected_; }

 private:
  struct Started {
    device::Mark mark{};
    Channel channel{};
    std::string operation;
    std::vector<int> peers;
    std::int64_t bytes = 0;
  };
  int member(int world_rank) const;
  void retire();
  Error late(std::string_view operation, Error error);

  GroupLanesParts& parts_;
  LaneStream stream_;
  DeviceGroup& group_;
  std::set<int> connected_;  // world ranks
  device::Mark last_{};
  std::deque<Started> under_way_;
};

int GroupLanes::Lane::member(int world_rank) const {
  EW_CHECK(connected_.contains(world_rank), "a lane is not connected with rank {}", world_rank);
  return group_.group().index_of(world_rank);
}

Result<device::Mark> GroupLanes::Lane::start(const LaneBatch& batch, std::string_view operation,
                                             Deadline deadline) {
  Started started{.channel = batch.channel, .operation = std::string(operation)};
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  std::set<int> peers;
  for (const auto& [to, bytes] : batch.sends) {
    sends.push_back({member(to), bytes});
    peers.insert(to);
    started.bytes += std::ssize(bytes);
  }
  for (const auto& [from, bytes] : batch.receives) {
    receives.push_back({member(from), bytes});
    peers.insert(from);
    started.bytes += std::ssize(bytes);
  }
  if (peers.empty()) return last_;
  started.peers.assign(peers.begin(), peers.end());
  follow();
  EW_TRY(group_.exchange({*stream_.stream, stream_.handle}, sends, receives, operation, deadline));
  last_ = started.mark = stream_.stream->mark();
  under_way_.push_back(std::move(started));
  return last_;
}

/// Forgets what is done, for reports of what is not.
void GroupLanes::Lane::retire() {
  while (!under_way_.empty() && stream_.stream->reached(under_way_.front().mark))
    under_way_.pop_front();
}

Result<bool> GroupLanes::Lane::test(device::Mark mark) {
  return group_.test(*stream_.stream, mark, "look at a lane");
}

Result<void> GroupLanes::Lane::wait(device::Mark mark, std::string_view operation,
                                    Deadline deadline) {
  // Messages that wait for the device go first: a peer may be waiting for them.
  EW_TRY(parts_.front.wait(Work(), operation, deadline));
  EW_ASSIGN(const bool done, group_.test(*stream_.stream, mark, operation));
  retire();
  if (done || under_way_.empty()) return group_.wait(*stream_.stream, mark, operation, deadline);
  const Started& oldest = under_way_.front();
  // So that agents see a rank that waits for another, and not one that hangs. In the step of what
  // it does now, which was entered last.
  const auto doing = parts_.world.recorder().compute.newest();
  const Recorded recorded(parts_.world, {.begin = parts_.world.clock().now(),
                                         .step = doing ? doing->step : Step{},
                                         .kind = FlightKind::wait,
                                         .detail = static_cast<std::uint8_t>(oldest.channel),
                                         .peer = oldest.peers.front(),
                                         .bytes = oldest.bytes});
  auto waited = group_.wait(*stream_.stream, mark, operation, deadline);
  if (waited || waited.error().code != Code::deadline) return waited;
  return fail(late(operation, std::move(waited).error()));
}

/// As the world tells a wait in vain: with this rank's step and activity, and what it has heard of
/// others that wait.
Error GroupLanes::Lane::late(std::string_view operation, Error error) {
  retire();
  if (under_way_.empty()) return error;
  const Started& oldest = under_way_.front();
  World& world = parts_.world;
  // No such message is ever sent: a lane's messages do not travel by the world.
  const Work none = world.receive(oldest.peers.front(), oldest.channel, {});
  if (auto told = world.wait(none, operation, Deadline{world.clock().now()}); !told)
    error = std::move(told).error();
  error.why += fmt::format("; by NCCL: '{}' has not moved, which needs ranks {}", oldest.operation,
                           fmt::join(oldest.peers, " "));
  return error;
}

GroupLanes::GroupLanes(GroupLanesParts parts)
    : parts_(std::move(parts)), groups_(parts_.world, parts_.nccl, parts_.start) {}
GroupLanes::~GroupLanes() = default;

Result<void> GroupLanes::enter(Deadline deadline) {
  direct_ = false;
  // Also the barrier that the release needs: until a peer has stopped it may reach in here.
  EW_ASSIGN(const TransportChoice choice, agree_on_transport(parts_.world, parts_.place, deadline));
  EW_TRY(release(deadline));
  direct_ = choice.transport == DeviceTransport::nccl;
  return {};
}

Result<void> GroupLanes::release(Deadline deadline) {
  EW_TRY(groups_.release_all(deadline));
  for (auto& [name, lane] : lanes_) lane->mark();
  PollPause pause(parts_.world.clock(), deadline);
  while (!std::ranges::all_of(lanes_, [](auto& lane) { return lane.second->at_rest(); })) {
    if (pause.over())
      return fail({.code = Code::device_lost,
                   .what = "the device does not come to rest",
                   .where = fmt::format("rank {}, after a view ended", parts_.world.world_rank()),
                   .why = "kernels of NCCL still run although their communicators were aborted",
                   .fix = "start the process again: it joins as a new member"});
    pause.sleep();
  }
  lanes_.clear();
  return {};
}

Result<GroupLanes::Lane*> GroupLanes::make(LaneName name, Deadline deadline) {
  LaneStream stream = parts_.make_stream();
  const Group group = everyone(parts_.world);
  EW_ASSIGN(DeviceGroup * made,
            groups_.make(group, share_over(parts_.world, group), deadline, most_blocks(name)));
  auto& lane = lanes_[name] = std::make_unique<Lane>(parts_, std::move(stream), *made);
  return lane.get();
}

Result<DeviceLane*> GroupLanes::lane(LaneName name, std::span<const int> peers, Deadline deadline) {
  EW_CHECK(direct_, "a lane, but device memory does not travel by lanes");
  // Loading kernels and finding ways between devices may take a minute: no rank's fault.
  const Recorded recorded(parts_.world,
                          {.begin = parts_.world.clock().now(),
                           .kind = FlightKind::phase,
                           .detail = static_cast<std::uint8_t>(FlightPhase::outside)});
  const auto known = lanes_.find(name);
  Lane* lane = known == lanes_.end() ? nullptr : known->second.get();
  if (lane == nullptr) {
    EW_ASSIGN(lane, make(name, deadline));
  }
  EW_TRY(connect(*lane, peers, deadline));
  return lane;
}

/// NCCL connects two ranks with the first message between them, and both have to be there. So that
/// no start() of a step waits for a peer, that happens here, with all peers at once.
Result<void> GroupLanes::connect(Lane& lane, std::span<const int> peers, Deadline deadline) {
  device::Device& device = parts_.compute.device();
  const auto size = static_cast<std::int64_t>(parts_.world.size());
  if (greetings_.size_bytes() == 0) greetings_ = device::Buffer(device, 2 * size);
  LaneBatch greeting{.channel = Channel::control};
  for (const int peer : peers) {
    if (!lane.connected().insert(peer).second) continue;
    greeting.sends.push_back({peer, {greetings_.data() + peer, 1}});
    greeting.receives.push_back({peer, {greetings_.data() + size + peer, 1}});
  }
  EW_ASSIGN(const device::Mark mark, lane.start(greeting, "connect a lane", deadline));
  return lane.wait(mark, "connect a lane", deadline);
}

void GroupLanes::stop() {
  direct_ = false;
  groups_.stop_all(Deadline::after(parts_.world.clock(), kRest));
}

Result<void> GroupLanes::close(Deadline deadline) {
  direct_ = false;
  EW_TRY(groups_.close_all(deadline));
  return release(deadline);
}

}  // namespace elaswave::comm
