// How gradient sums come to the owners of their blocks: the seam between the step and the two ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "io/base/error.h"
#include "parallel/comm/world.h"
#include "parallel/zero/exchange.h"

namespace elaswave::zero {

/// Units under way at once in a rank's buffers.
inline constexpr std::size_t kWindowUnits = 2;

/// A step: begin_step(), done() for every event of layout::sums_order() in its order, with
/// progress() in between, finish(). THREADS: the rank's compute thread.
class Reduction {
 public:
  virtual ~Reduction() = default;

  /// Memory beside the sums.
  virtual std::int64_t buffer_bytes() const = 0;

  /// That a step sends and receives through the world.
  virtual std::vector<comm::Expected> messages() { return {}; }

  /// Waits until the sums of the last step are no longer being sent; then they may be overwritten.
  virtual Result<void> begin_step() = 0;
  /// This rank's addends of `layer` are all there; `tied`: those of the layer to the tied part.
  /// Starts what may start. Never waits for peers.
  virtual Result<void> done(std::int32_t layer, bool tied) = 0;
  /// done() for all that is left, for a rank that stopped computing but still owes its peers.
  virtual Result<void> done_rest() = 0;
  /// Lets arrived sums be added; never waits for peers.
  virtual Result<void> progress() = 0;
  /// Returns when this rank's owned blocks of all its units hold the sums over their members.
  /// REQUIRES: every unit is done.
  virtual Result<void> finish() = 0;
};

/// What a rank has still to add to each of its units.
class AwaitedSums {
 public:
  explicit AwaitedSums(const ExchangeMap& exchange) : exchange_(exchange) {}

  void begin_step();
  void done(std::int32_t layer, bool tied);
  void done_rest() { units_.assign(units_.size(), {}); }
  bool complete(std::int32_t unit) const {
    const Awaited& awaited = units_[static_cast<std::size_t>(unit)];
    return !awaited.home && !awaited.tied;
  }

 private:
  struct Awaited {
    bool home = false, tied = false;
  };
  const ExchangeMap& exchange_;
  std::vector<Awaited> units_;
};

}  // namespace elaswave::zero
