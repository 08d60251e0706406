// Reduction of gradient sums to the owners of their blocks, layer by layer, while the backward pass
// goes on. Integers in exact mode: the order of arrival changes nothing. In fast mode peers are
// added in rank order.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/world.h"
#include "parallel/layout/plan.h"
#include "parallel/zero/store.h"

namespace elaswave::zero {

/// Which blocks of each layer each member of a group owns: the lists both ends of a transfer build
/// their pieces from.
class OwnerLists {
 public:
  OwnerLists(const layout::BlockTable& blocks, const layout::Plan& plan, std::int32_t stage);
  std::span<const std::int64_t> blocks_of(std::int32_t layer, std::int32_t replica) const;

 private:
  std::size_t list_index(std::int32_t layer, std::int32_t replica) const {
    return static_cast<std::size_t>(layer) * static_cast<std::size_t>(replicas_) +
           static_cast<std::size_t>(replica);
  }

  std::int32_t replicas_;
  std::vector<std::vector<std::int64_t>> lists_;  // [layer * replicas + replica]
};

/// Each layer is started once a step, last layer first, in the same order on every member.
class Reducer {
 public:
  /// `group` lists the world rank of each replica of the stage (tensor degree 1) in replica order.
  /// Memory beside the sums: receive buffers for kWindowLayers layers from every peer.
  Reducer(comm::World& world, comm::Group group, const layout::BlockTable& blocks,
          const OwnerLists& owners, GradSums& sums, Nanoseconds timeout);

  /// Waits until the sums of the last step are no longer being sent; then they may be overwritten.
  Result<void> begin_step();
  /// The local sums of `layer` are final: sends what others own, and gets ready to receive what
  /// this rank owns.
  Result<void> start(std::int32_t layer);
  /// Lets arrived sums be added; never blocks.
  Result<void> progress();
  /// Returns when this rank's owned blocks of all started layers hold the sums over the group.
  Result<void> finish();

 private:
  struct Incoming {
    std::int32_t layer = 0;
    int peer = 0;  // index in the group
    comm::Work work;
    std::vector<std::byte> bytes;
    bool posted = false;
  };

  void post();
  void add(Incoming& incoming);
  Result<void> drain(bool wait);

  comm::World& world_;
  comm::Group group_;
  int self_;
  const layout::BlockTable& blocks_;
  const OwnerLists& owners_;
  GradSums& sums_;
  Nanoseconds timeout_;
  std::deque<Incoming> incoming_;
  std::vector<std::vector<std::byte>> spare_;
  std::vector<comm::Work> sends_;
};

}  // namespace elaswave::zero
