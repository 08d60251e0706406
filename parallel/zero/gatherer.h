// Working weights from their owners to every rank that works with them, unit by unit in the order
// of layers, which is the order the next forward needs them in.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "io/base/types.h"
#include "parallel/comm/world.h"
#include "parallel/layout/blocks.h"
#include "parallel/zero/exchange.h"
#include "parallel/zero/lane_exchange.h"
#include "parallel/zero/store.h"

namespace elaswave::zero {

/// THREADS: the rank's compute thread.
class Gatherer {
 public:
  /// `working` is the storage of working weights; it holds held_parts().
  Gatherer(comm::World& world, const ExchangeMap& exchange, const layout::BlockTable& blocks,
           TensorStore& working, Nanoseconds timeout);

  /// From the next start() on weights travel by `lane`; on all ranks.
  void travel_by(LaneExchange& lane) { lane_ = &lane; }

  /// This rank's owned blocks of `working` hold `version`: sends them to all who read them and
  /// receives the others' in the background. REQUIRES: begin_apply() since the last start().
  Result<void> start(Version version);
  /// Returns when all that `layer` reads on this rank (the tied part too) is at the version of the
  /// last start().
  Result<void> wait(std::int32_t layer);
  Result<void> wait_all();
  /// Waits until owned blocks are no longer being sent; then they may be updated.
  Result<void> begin_apply();

  /// That one gather sends and receives, all at once.
  std::vector<comm::Expected> messages();

  /// The version a layer's working weights stand at; the forward pass asserts it.
  Version version(std::int32_t layer) const { return versions_[static_cast<std::size_t>(layer)]; }

 private:
  void start_unit(std::int32_t index);
  Deadline deadline() const { return Deadline::after(world_.clock(), timeout_); }

  comm::World& world_;
  const ExchangeMap& exchange_;
  const layout::BlockTable& blocks_;
  TensorStore& working_;
  Nanoseconds timeout_;
  Version target_{};
  std::vector<Version> versions_;
  std::vector<std::vector<std::int32_t>> units_read_;  // by layer
  std::vector<std::vector<comm::Work>> receives_;      // by unit
  std::vector<comm::Work> sends_;
  LaneExchange* lane_ = nullptr;                             // null: through the world
  std::vector<std::optional<LaneExchange::Ticket>> arrive_;  // by unit, while under way on the lane
};

}  // namespace elaswave::zero
