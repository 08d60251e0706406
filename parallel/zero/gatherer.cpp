#include "parallel/zero/gatherer.h"

namespace elaswave::zero {
namespace {

// No state has this version: a layer that was never gathered fails the forward's check.
constexpr Version kNever{Step{-1}, Generation{0}};

}  // namespace

Gatherer::Gatherer(comm::World& world, comm::Group group, const layout::BlockTable& blocks,
                   const OwnerLists& owners, TensorStore& working, Nanoseconds timeout)
    : world_(world),
      group_(std::move(group)),
      self_(group_.index_of(world.world_rank())),
      blocks_(blocks),
      owners_(owners),
      working_(working),
      timeout_(timeout),
      versions_(static_cast<std::size_t>(blocks.layers()), kNever),
      receives_(static_cast<std::size_t>(blocks.layers())) {}

void Gatherer::start(Version version) {
  target_ = version;
  for (std::int32_t layer = 0; layer < blocks_.layers(); ++layer) {
    for (int step = 1; step < group_.size(); ++step) {
      const int to = (self_ + step) % group_.size();
      const int from = (self_ + group_.size() - step) % group_.size();
      comm::Pieces in;
      for (const std::int64_t index : owners_.blocks_of(layer, from))
        in.push_back(working_.bytes(blocks_.block(index)));
      if (!in.empty())
        receives_[static_cast<std::size_t>(layer)].push_back(
            world_.receive(group_.world_ranks[static_cast<std::size_t>(from)],
                           comm::Channel::gather, std::move(in)));
      comm::ConstPieces out;
      for (const std::int64_t index : owners_.blocks_of(layer, self_))
        out.push_back(working_.bytes(blocks_.block(index)));
      if (!out.empty())
        sends_.push_back(world_.send(group_.world_ranks[static_cast<std::size_t>(to)],
                                     comm::Channel::gather, std::move(out)));
    }
  }
}

Result<void> Gatherer::wait(std::int32_t layer) {
  auto& receives = receives_[static_cast<std::size_t>(layer)];
  for (const comm::Work& work : receives)
    EW_TRY(world_.wait(work, "receive working weights", Deadline::after(world_.clock(), timeout_)));
  receives.clear();
  versions_[static_cast<std::size_t>(layer)] = target_;
  return {};
}

Result<void> Gatherer::wait_all() {
  for (std::int32_t layer = 0; layer < blocks_.layers(); ++layer) EW_TRY(wait(layer));
  return {};
}

Result<void> Gatherer::begin_apply() {
  EW_TRY(wait_all());
  for (const comm::Work& work : sends_)
    EW_TRY(world_.wait(work, "send working weights", Deadline::after(world_.clock(), timeout_)));
  sends_.clear();
  return {};
}

}  // namespace elaswave::zero
