#include "parallel/zero/reducer.h"

#include <algorithm>
#include <cstring>

namespace elaswave::zero {
namespace {

// Receives posted ahead of their use: enough to keep links busy while one layer is added, little
// enough memory.
constexpr std::size_t kWindowLayers = 2;

template <typename T>
void add_in(std::span<const std::byte> in, std::span<std::byte> inout) {
  const auto* from = reinterpret_cast<const T*>(in.data());
  auto* to = reinterpret_cast<T*>(inout.data());
  for (std::size_t i = 0; i < inout.size() / sizeof(T); ++i) to[i] += from[i];
}

}  // namespace

OwnerLists::OwnerLists(const layout::BlockTable& blocks, const layout::Plan& plan,
                       std::int32_t stage)
    : replicas_(
          static_cast<std::int32_t>(plan.stages[static_cast<std::size_t>(stage)].replicas.size())),
      lists_(static_cast<std::size_t>(blocks.layers()) * static_cast<std::size_t>(replicas_)) {
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const std::int32_t layer = blocks.block(index).layer;
    if (plan.stage_of_layer(layer) != stage) continue;
    lists_[list_index(layer, plan.owner[static_cast<std::size_t>(index)])].push_back(index);
  }
}

std::span<const std::int64_t> OwnerLists::blocks_of(std::int32_t layer,
                                                    std::int32_t replica) const {
  return lists_[list_index(layer, replica)];
}

Reducer::Reducer(comm::World& world, comm::Group group, const layout::BlockTable& blocks,
                 const OwnerLists& owners, GradSums& sums, Nanoseconds timeout)
    : world_(world),
      group_(std::move(group)),
      self_(group_.index_of(world.world_rank())),
      blocks_(blocks),
      owners_(owners),
      sums_(sums),
      timeout_(timeout) {}

Result<void> Reducer::begin_step() {
  for (const comm::Work& work : sends_)
    EW_TRY(world_.wait(work, "send gradient sums", Deadline::after(world_.clock(), timeout_)));
  sends_.clear();
  return {};
}

Result<void> Reducer::start(std::int32_t layer) {
  for (int step = 1; step < group_.size(); ++step) {
    const int peer =
        (self_ + step) % group_.size();  // everybody starts with another peer: no rank is flooded
    comm::ConstPieces pieces;
    for (const std::int64_t index : owners_.blocks_of(layer, peer))
      pieces.push_back(sums_.bytes(blocks_.block(index)));
    if (!pieces.empty())
      sends_.push_back(world_.send(group_.world_ranks[static_cast<std::size_t>(peer)],
                                   comm::Channel::reduce, std::move(pieces)));
  }
  if (!owners_.blocks_of(layer, self_).empty()) {
    // Fast mode depends on the order of addition: by rank, whatever the order of arrival.
    for (int peer = 0; peer < group_.size(); ++peer)
      if (peer != self_) incoming_.push_back({.layer = layer, .peer = peer});
  }
  return progress();
}

void Reducer::post() {
  const std::size_t window = kWindowLayers * static_cast<std::size_t>(group_.size() - 1);
  for (std::size_t i = 0; i < std::min(window, incoming_.size()); ++i) {
    Incoming& incoming = incoming_[i];
    if (incoming.posted) continue;
    if (!spare_.empty()) {
      incoming.bytes = std::move(spare_.back());
      spare_.pop_back();
    }
    std::size_t total = 0;
    for (const std::int64_t index : owners_.blocks_of(incoming.layer, self_))
      total += sums_.bytes(blocks_.block(index)).size();
    incoming.bytes.resize(total);
    incoming.work = world_.receive(group_.world_ranks[static_cast<std::size_t>(incoming.peer)],
                                   comm::Channel::reduce, {std::span(incoming.bytes)});
    incoming.posted = true;
  }
}

void Reducer::add(Incoming& incoming) {
  std::span<const std::byte> rest(incoming.bytes);
  for (const std::int64_t index : owners_.blocks_of(incoming.layer, self_)) {
    const std::span<std::byte> sums = sums_.bytes(blocks_.block(index));
    if (sums_.mode() == SumMode::exact)
      add_in<std::int64_t>(rest.first(sums.size()), sums);
    else
      add_in<float>(rest.first(sums.size()), sums);
    rest = rest.subspan(sums.size());
  }
  spare_.push_back(std::move(incoming.bytes));
}

Result<void> Reducer::drain(bool wait) {
  while (!incoming_.empty()) {
    post();
    Incoming& front = incoming_.front();
    if (!wait && !world_.test(front.work)) return {};
    EW_TRY(world_.wait(front.work, "receive gradient sums",
                       Deadline::after(world_.clock(), timeout_)));
    add(front);
    incoming_.pop_front();
  }
  return {};
}

Result<void> Reducer::progress() {
  return drain(false);
}

Result<void> Reducer::finish() {
  return drain(true);
}

}  // namespace elaswave::zero
