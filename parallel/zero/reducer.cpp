#include "parallel/zero/reducer.h"

#include <algorithm>

#include "io/base/error.h"
#include "io/base/mutant.h"

namespace elaswave::zero {
namespace {

template <typename T>
void add_in(device::Arithmetic& arithmetic, std::span<const std::byte> from,
            std::span<std::byte> into) {
  const std::size_t count = into.size() / sizeof(T);
  arithmetic.add(std::span(reinterpret_cast<T*>(into.data()), count),
                 std::span(reinterpret_cast<const T*>(from.data()), count));
}

/// What a mutant does to sums; only in host memory.
void round_to_f32(std::span<std::byte> sums) {
  const std::span all(reinterpret_cast<std::int64_t*>(sums.data()), sums.size() / 8);
  for (std::int64_t& sum : all) sum = static_cast<std::int64_t>(static_cast<float>(sum));
}

}  // namespace

Reducer::Reducer(comm::World& world, const ExchangeMap& exchange, const layout::BlockTable& blocks,
                 GradSums& sums, Nanoseconds timeout)
    : world_(world),
      exchange_(exchange),
      blocks_(blocks),
      sums_(sums),
      timeout_(timeout),
      awaited_(exchange) {
  for (const std::int32_t member : exchange.members()) {
    if (member == exchange.world_rank()) continue;
    Peer peer{.world_rank = member};
    for (const std::int32_t unit : exchange.order_of(member))
      if (!exchange.unit(unit).owned[static_cast<std::size_t>(exchange.self(unit))].empty())
        peer.units.push_back(unit);
    std::int64_t largest = 0, before = 0;
    for (const std::int32_t unit : peer.units) {
      const std::int64_t bytes = owned_bytes(unit);
      largest = std::max(largest, before + bytes);
      before = bytes;
    }
    peer.buffer = device::Buffer(sums.arithmetic().device(), largest);
    peers_.push_back(std::move(peer));
  }
}

// Sends wait for the next step, so that all are under way at once. Of receives there are never more
// than fit into the buffers.
std::vector<comm::Expected> Reducer::messages() {
  std::vector<comm::Expected> all;
  std::int64_t largest = 0;
  for (std::int32_t index = 0; index < exchange_.count(); ++index) {
    const Unit& unit = exchange_.unit(index);
    largest = std::max(largest, owned_bytes(index));
    for (std::size_t member = 0; member < unit.members.size(); ++member) {
      if (unit.members[member] == exchange_.world_rank()) continue;
      std::int64_t bytes = 0;
      for (const std::int64_t block : unit.owned[member])
        bytes += std::ssize(sums_.bytes(blocks_.block(block)));
      all.push_back({comm::Channel::reduce, comm::Direction::send, bytes, 1});
    }
  }
  const auto senders =
      std::ranges::count_if(peers_, [](const Peer& peer) { return !peer.units.empty(); });
  all.push_back({comm::Channel::reduce, comm::Direction::receive, largest,
                 senders * static_cast<std::int64_t>(kWindowUnits)});
  return all;
}

std::int64_t Reducer::owned_bytes(std::int32_t unit) {
  std::int64_t bytes = 0;
  for (const std::int64_t block :
       exchange_.unit(unit).owned[static_cast<std::size_t>(exchange_.self(unit))])
    bytes += std::ssize(sums_.bytes(blocks_.block(block)));
  return bytes;
}

std::int64_t Reducer::buffer_bytes() const {
  std::int64_t bytes = 0;
  for (const Peer& peer : peers_) bytes += peer.buffer.size_bytes();
  return bytes;
}

Result<void> Reducer::begin_step() {
  for (const comm::Work& work : sends_) EW_TRY(world_.wait(work, "send gradient sums", deadline()));
  sends_.clear();
  progress_.assign(static_cast<std::size_t>(exchange_.count()), {});
  awaited_.begin_step();
  started_ = 0;
  for (Peer& peer : peers_) peer.next = 0;
  return {};
}

Result<void> Reducer::done(std::int32_t layer, bool tied) {
  awaited_.done(layer, tied);
  return start_complete();
}

Result<void> Reducer::done_rest() {
  awaited_.done_rest();
  return start_complete();
}

/// A unit that is complete early waits for those before it: peers receive in this order.
Result<void> Reducer::start_complete() {
  if (exchange_.count() == 0) return {};
  const auto order = exchange_.order_of(exchange_.world_rank());
  for (; started_ < order.size(); ++started_) {
    if (!awaited_.complete(order[started_])) break;
    start(order[started_]);
  }
  return progress();
}

void Reducer::start(std::int32_t index) {
  const Unit& unit = exchange_.unit(index);
  for (const std::int32_t part : unit.parts) sums_.settle(part);
  const auto members = static_cast<std::int32_t>(unit.members.size());
  const std::int32_t self = exchange_.self(index);
  for (std::int32_t step = 1; step < members; ++step) {
    // Everybody starts with another peer: no rank is flooded.
    const auto to = static_cast<std::size_t>((self + step) % members);
    comm::ConstPieces pieces;
    for (const std::int64_t block : unit.owned[to])
      pieces.push_back(sums_.bytes(blocks_.block(block)));
    if (!pieces.empty())
      sends_.push_back(world_.send(unit.members[to], comm::Channel::reduce, std::move(pieces)));
  }
  progress_of(index).started = true;
  progress_of(index).next_member = self == 0 ? 1 : 0;
}

void Reducer::post(Peer& peer) {
  while (peer.next < peer.units.size() && peer.posted.size() < kWindowUnits) {
    const bool front = peer.next % kWindowUnits == 0;
    Incoming incoming{.unit = peer.units[peer.next++]};
    incoming.member = exchange_.member(incoming.unit, peer.world_rank);
    const std::int64_t bytes = owned_bytes(incoming.unit);
    incoming.bytes = {peer.buffer.data() + (front ? 0 : peer.buffer.size_bytes() - bytes),
                      static_cast<std::size_t>(bytes)};
    incoming.work = world_.receive(peer.world_rank, comm::Channel::reduce, {incoming.bytes});
    peer.posted.push_back(std::move(incoming));
  }
}

bool Reducer::addable(const Incoming& incoming) {
  // Own addends overwrite what is there: they come first.
  const Progress& unit = progress_of(incoming.unit);
  return unit.started && (sums_.mode() == SumMode::exact || unit.next_member == incoming.member);
}

void Reducer::add(Incoming& incoming) {
  const std::int32_t self = exchange_.self(incoming.unit);
  std::span<const std::byte> rest(incoming.bytes);
  for (const std::int64_t block :
       exchange_.unit(incoming.unit).owned[static_cast<std::size_t>(self)]) {
    const std::span<std::byte> sums = sums_.bytes(blocks_.block(block));
    if (sums_.mode() == SumMode::exact)
      add_in<std::int64_t>(sums_.arithmetic(), rest.first(sums.size()), sums);
    else
      add_in<float>(sums_.arithmetic(), rest.first(sums.size()), sums);
    if (mutant(Mutant::tied_sums_in_f32) && exchange_.unit(incoming.unit).tied_layer >= 0)
      round_to_f32(sums);
    rest = rest.subspan(sums.size());
  }
  std::int32_t& next = progress_of(incoming.unit).next_member;
  next = incoming.member + 1 == self ? incoming.member + 2 : incoming.member + 1;
}

/// Adds what has arrived, once round the peers. True when there was something.
Result<bool> Reducer::drain_once() {
  bool moved = false;
  for (Peer& peer : peers_) {
    post(peer);
    while (!peer.posted.empty() && addable(peer.posted.front()) &&
           world_.test(peer.posted.front().work)) {
      EW_TRY(world_.wait(peer.posted.front().work, "receive gradient sums",
                         deadline()));  // tells its error
      add(peer.posted.front());
      peer.posted.pop_front();
      moved = true;
      post(peer);
    }
  }
  return moved;
}

Result<void> Reducer::progress() {
  // Nothing can be added before the first unit of this rank is complete; until then the transport's
  // buffers are better used for activations.
  while (started_ > 0) {
    EW_ASSIGN(const bool moved, drain_once());
    if (!moved) return {};
  }
  return {};
}

Result<void> Reducer::finish() {
  EW_CHECK(exchange_.count() == 0 || started_ == exchange_.order_of(exchange_.world_rank()).size(),
           "{} of {} units are done", started_, exchange_.count());
  for (;;) {
    EW_TRY(progress());
    // All peers were served; now one of them is waited for. There is always one whose addend is
    // next: in fast mode that of the lowest rank with any outstanding, since all its own come
    // before everybody else's.
    const Incoming* next = nullptr;
    bool outstanding = false;
    for (const Peer& peer : peers_) {
      if (peer.posted.empty()) continue;
      outstanding = true;
      if (next == nullptr && addable(peer.posted.front())) next = &peer.posted.front();
    }
    if (!outstanding) return {};
    EW_CHECK(next != nullptr, "gradient sums wait for each other");
    EW_TRY(world_.wait(next->work, "receive gradient sums", deadline()));
  }
}

}  // namespace elaswave::zero
