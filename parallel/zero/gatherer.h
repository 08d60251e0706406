// Working weights from their owners to every replica of the stage, layer by layer in the order the
// next forward needs them.
#pragma once

#include <cstdint>
#include <vector>

#include "io/base/types.h"
#include "parallel/comm/group.h"
#include "parallel/zero/reducer.h"
#include "parallel/zero/store.h"

namespace elaswave::zero {

class Gatherer {
 public:
  /// `group` as for Reducer; `working` is the storage of working weights.
  Gatherer(comm::World& world, comm::Group group, const layout::BlockTable& blocks,
           const OwnerLists& owners, TensorStore& working, Nanoseconds timeout);

  /// This rank's owned blocks of `working` hold `version`: sends them to all and receives the
  /// others' in the background.
  void start(Version version);
  /// Returns when all of `layer` is at the version of the last start().
  Result<void> wait(std::int32_t layer);
  Result<void> wait_all();
  /// Waits until owned blocks are no longer being sent; then they may be updated.
  Result<void> begin_apply();

  /// The version a layer's working weights stand at; the forward pass asserts it.
  Version version(std::int32_t layer) const { return versions_[static_cast<std::size_t>(layer)]; }

 private:
  comm::World& world_;
  comm::Group group_;
  int self_;
  const layout::BlockTable& blocks_;
  const OwnerLists& owners_;
  TensorStore& working_;
  Nanoseconds timeout_;
  Version target_{};
  std::vector<Version> versions_;
  std::vector<std::vector<comm::Work>> receives_;  // by layer
  std::vector<comm::Work> sends_;
};

}  // namespace elaswave::zero
