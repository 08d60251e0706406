// Reduction of gradient sums to the owners of their blocks, unit by unit, while the backward pass
// goes on. Integers in exact mode: the order of arrival changes nothing. In fast mode the others'
// sums are added to the owner's own in the order of the members.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "parallel/comm/world.h"
#include "parallel/device/buffer.h"
#include "parallel/layout/blocks.h"
#include "parallel/zero/exchange.h"
#include "parallel/zero/reduction.h"
#include "parallel/zero/store.h"

namespace elaswave::zero {

/// Through the world: done() starts every unit that became complete, strictly in the order that
/// peers expect.
class Reducer final : public Reduction {
 public:
  /// Memory beside the sums, allocated here: for each peer what this rank owns of two units that
  /// follow each other, the largest such pair.
  Reducer(comm::World& world, const ExchangeMap& exchange, const layout::BlockTable& blocks,
          GradSums& sums, Nanoseconds timeout);

  std::int64_t buffer_bytes() const override;
  std::vector<comm::Expected> messages() override;
  Result<void> begin_step() override;
  Result<void> done(std::int32_t layer, bool tied) override;
  Result<void> done_rest() override;
  Result<void> progress() override;
  Result<void> finish() override;

 private:
  struct Incoming {
    std::int32_t unit = 0;
    std::int32_t member = 0;  // that sends it
    comm::Work work;
    std::span<std::byte> bytes;  // of the peer's buffer
  };
  /// Messages of a peer are added in the order they come in, so that of two neighbours one can lie
  /// at the front and one at the back of a buffer that holds any two neighbours.
  struct Peer {
    std::int32_t world_rank = 0;
    std::vector<std::int32_t> units;  // that this rank owns blocks of, in the peer's order
    std::size_t next = 0;             // of `units`, to be posted
    std::deque<Incoming> posted;      // at most kWindowUnits
    device::Buffer buffer;
  };
  struct Progress {  // of a unit
    bool started = false;
    std::int32_t next_member = 0;  // fast mode: whose addend comes next
  };

  Progress& progress_of(std::int32_t unit) { return progress_[static_cast<std::size_t>(unit)]; }
  Result<void> start_complete();
  void start(std::int32_t unit);
  void post(Peer& peer);
  bool addable(const Incoming& incoming);
  void add(Incoming& incoming);
  Result<bool> drain_once();
  std::int64_t owned_bytes(std::int32_t unit);
  Deadline deadline() const { return Deadline::after(world_.clock(), timeout_); }

  comm::World& world_;
  const ExchangeMap& exchange_;
  const layout::BlockTable& blocks_;
  GradSums& sums_;
  Nanoseconds timeout_;
  AwaitedSums awaited_;
  std::vector<Peer> peers_;
  std::vector<Progress> progress_;
  std::size_t started_ = 0;  // units, of order_of(self)
  std::vector<comm::Work> sends_;
};

}  // namespace elaswave::zero
