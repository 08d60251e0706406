#include "parallel/zero/gatherer.h"

#include <limits>

#include "io/base/mutant.h"

namespace elaswave::zero {
namespace {

// No state has this version: a layer that was never gathered fails the forward's check.
constexpr Version kNever{Step{-1}, Generation{0}};

}  // namespace

Gatherer::Gatherer(comm::World& world, const ExchangeMap& exchange,
                   const layout::BlockTable& blocks, TensorStore& working, Nanoseconds timeout)
    : world_(world),
      exchange_(exchange),
      blocks_(blocks),
      working_(working),
      timeout_(timeout),
      versions_(static_cast<std::size_t>(blocks.layers()), kNever),
      receives_(static_cast<std::size_t>(exchange.count())),
      arrive_(static_cast<std::size_t>(exchange.count())) {
  for (std::int32_t layer = 0; layer < blocks.layers(); ++layer)
    units_read_.push_back(exchange.units_read_by(layer));
}

Result<void> Gatherer::start(Version version) {
  target_ = version;
  for (std::int32_t index = 0; index < exchange_.count(); ++index) {
    if (lane_ == nullptr)
      start_unit(index);
    else if (exchange_.unit(index).members.size() > 1)
      arrive_[static_cast<std::size_t>(index)] = lane_->gather(index);
  }
  // Not later: a rank that waits for an activation starts nothing, and whoever makes that may wait
  // for weights.
  return lane_ == nullptr ? Result<void>{} : lane_->start_all("send working weights");
}

void Gatherer::start_unit(std::int32_t index) {
  const Unit& unit = exchange_.unit(index);
  const auto members = static_cast<std::int32_t>(unit.members.size());
  const std::int32_t self = exchange_.self(index);
  for (std::int32_t step = 1; step < members; ++step) {
    const auto to = static_cast<std::size_t>((self + step) % members);
    const auto from = static_cast<std::size_t>((self + members - step) % members);
    comm::Pieces in;
    for (const std::int64_t block : unit.owned[from])
      in.push_back(working_.bytes(blocks_.block(block)));
    if (!in.empty())
      receives_[static_cast<std::size_t>(index)].push_back(
          world_.receive(unit.members[from], comm::Channel::gather, std::move(in)));
    comm::ConstPieces out;
    for (const std::int64_t block : unit.owned[static_cast<std::size_t>(self)])
      out.push_back(working_.bytes(blocks_.block(block)));
    if (!out.empty())
      sends_.push_back(world_.send(unit.members[to], comm::Channel::gather, std::move(out)));
  }
}

std::vector<comm::Expected> Gatherer::messages() {
  std::vector<comm::Expected> all;
  for (std::int32_t index = 0; index < exchange_.count(); ++index) {
    const Unit& unit = exchange_.unit(index);
    const auto bytes_of = [&](std::size_t member) {
      std::int64_t bytes = 0;
      for (const std::int64_t block : unit.owned[member])
        bytes += std::ssize(working_.bytes(blocks_.block(block)));
      return bytes;
    };
    const auto self = static_cast<std::size_t>(exchange_.self(index));
    for (std::size_t member = 0; member < unit.members.size(); ++member) {
      if (member == self) continue;
      all.push_back({comm::Channel::gather, comm::Direction::receive, bytes_of(member), 1});
      all.push_back({comm::Channel::gather, comm::Direction::send, bytes_of(self), 1});
    }
  }
  return all;
}

Result<void> Gatherer::wait(std::int32_t layer) {
  for (const std::int32_t unit : units_read_[static_cast<std::size_t>(layer)]) {
    auto& receives = receives_[static_cast<std::size_t>(unit)];
    for (const comm::Work& work : receives)
      EW_TRY(world_.wait(work, "receive working weights", deadline()));
    receives.clear();
    auto& arrives = arrive_[static_cast<std::size_t>(unit)];
    if (arrives) EW_TRY(lane_->wait(*arrives, "receive working weights"));
    arrives.reset();
  }
  versions_[static_cast<std::size_t>(layer)] = target_;
  return {};
}

Result<void> Gatherer::wait_all() {
  for (std::int32_t layer = 0; layer < blocks_.layers(); ++layer) EW_TRY(wait(layer));
  return {};
}

Result<void> Gatherer::begin_apply() {
  if (mutant(Mutant::wait_without_deadline)) timeout_ = std::numeric_limits<Nanoseconds>::max() / 2;
  EW_TRY(wait_all());
  for (const comm::Work& work : sends_)
    EW_TRY(world_.wait(work, "send working weights", deadline()));
  sends_.clear();
  // By a lane a unit is sent when it has arrived, and each is read by a layer here.
  return {};
}

}  // namespace elaswave::zero
