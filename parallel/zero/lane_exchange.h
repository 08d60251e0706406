// Gradient sums to their owners and working weights from them, by a lane: units one after another,
// in the order they are posted, which is one order on all ranks. A unit travels in cuts of bounded
// size. Of a cut, what goes to one rank is packed into one message, and what came is added or put
// in its place, all on the lane's stream: neither the compute thread nor the compute stream waits.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/comm/device_lanes.h"
#include "parallel/zero/exchange.h"
#include "parallel/zero/reduction.h"
#include "parallel/zero/store.h"

namespace elaswave::zero {

/// References must outlive the exchange.
struct LaneExchangeParts {
  comm::World& world;
  comm::DeviceLane& lane;  // connected with all members of the exchange
  const ExchangeMap& exchange;
  const layout::BlockTable& blocks;
  GradSums& sums;
  TensorStore& working;
  comm::LaneLimits limits;
  Nanoseconds timeout = 0;
};

/// THREADS: the rank's compute thread.
class LaneExchange {
 public:
  /// Allocates memory for what leaves and what comes in of the largest cut: about twice cut_bytes.
  explicit LaneExchange(const LaneExchangeParts& parts);

  std::int64_t buffer_bytes() const { return send_.size_bytes() + receive_.size_bytes(); }

  /// Tickets grow, and what they name is done in their order.
  using Ticket = std::uint64_t;
  /// Puts a unit's sums, or the working weights of its owned blocks, behind all that was posted.
  /// The sums are this rank's whole addend. REQUIRES: the unit has other members.
  Ticket reduce(std::int32_t unit);
  Ticket gather(std::int32_t unit);
  /// Starts what there is room for. Never waits for peers.
  Result<void> progress();
  /// Starts all that was posted, and waits for room. Peers do the same meanwhile, or have done it.
  Result<void> start_all(std::string_view operation);
  /// Returns when what the ticket names is done; then what is issued on the compute stream finds
  /// it.
  Result<void> wait(Ticket ticket, std::string_view operation);

 private:
  /// Some blocks of a unit, by the member that owns them.
  struct Cut {
    std::vector<std::vector<std::int64_t>> owned;
  };
  enum class Way : std::uint8_t { reduce, gather };
  struct Job {
    Way way = Way::reduce;
    std::int32_t unit = 0;
    std::vector<Cut> cuts;
    std::size_t next = 0;
  };
  struct InFlight {
    device::Mark mark{};
    Ticket done = 0;  // once the mark is reached
  };
  using Pieces = std::vector<std::span<std::byte>>;

  Pieces pieces(Way way, std::span<const std::int64_t> owned);
  std::vector<Cut> cuts_of(std::int32_t unit, Way way);
  Ticket post(Way way, std::int32_t unit);
  Result<void> start_next();
  Result<void> start_reduce(std::int32_t unit, const Cut& cut);
  Result<void> start_gather(std::int32_t unit, const Cut& cut);
  void add(const Pieces& own, std::int64_t stride_bytes, std::int64_t addends);
  Deadline deadline() const { return Deadline::after(parts_.world.clock(), parts_.timeout); }

  LaneExchangeParts parts_;
  device::Buffer send_, receive_;
  std::deque<Job> jobs_;  // not wholly started, oldest first
  std::deque<InFlight> in_flight_;
  Ticket posted_ = 0, started_ = 0, done_ = 0;
};

/// Reduction by a lane. Units are posted descending by layer, which is about the order that
/// backward passes complete them in, on all ranks alike; a rank holds back what it has earlier.
class LaneReducer final : public Reduction {
 public:
  LaneReducer(LaneExchange& lane, const ExchangeMap& exchange, GradSums& sums);

  std::int64_t buffer_bytes() const override { return lane_.buffer_bytes(); }
  Result<void> begin_step() override;
  Result<void> done(std::int32_t layer, bool tied) override;
  Result<void> done_rest() override;
  Result<void> progress() override;
  Result<void> finish() override;

 private:
  void settle(std::int32_t unit);

  LaneExchange& lane_;
  const ExchangeMap& exchange_;
  GradSums& sums_;
  AwaitedSums awaited_;
  std::vector<std::int32_t> order_;  // units with other members
  std::size_t posted_ = 0;           // of order_
  LaneExchange::Ticket last_ = 0;
};

}  // namespace elaswave::zero
