// Lanes: by which messages between live ranks travel from device memory to device memory, without
// the host in between. What a rank starts on a lane moves in the order it was started, and a batch
// only as a whole, so lanes are safe where ranks start batches in orders that agree:
//   any two ranks meet in the same order, and no circle of ranks waits for one another
// (README, "The order of calls"). Whoever starts batches keeps that; nothing here can see it.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "parallel/comm/device_transport.h"
#include "parallel/comm/world.h"
#include "parallel/device/arithmetic.h"
#include "parallel/device/stream.h"

namespace elaswave::comm {

/// Messages of a rank that start together and are done together. Messages of a pair match in
/// order: both ends cut them alike.
struct LaneBatch {
  struct Send {
    int to = 0;  // world rank
    std::span<const std::byte> bytes;
  };
  struct Receive {
    int from = 0;
    std::span<std::byte> bytes;
  };
  Channel channel = Channel::reduce;  // whose messages they are: for reports
  std::vector<Send> sends;
  std::vector<Receive> receives;
};

/// MEMORY: of the device; the lane's from start() until test() or wait() told that the batch is
/// done, or DeviceLanes::stop() returned and the device came to rest. ERRORS, THROWS and THREADS:
/// as DeviceGroup (device_group.h). A lane knows no other order with the device's work than this:
/// batches begin after all that was issued on the compute stream before, and what is issued there
/// after test() or wait() comes after the batch. So the compute stream never waits for a peer.
class DeviceLane {
 public:
  virtual ~DeviceLane() = default;
  /// What is issued on the lane from now on begins after all that was issued on the compute stream.
  virtual void follow() = 0;
  /// Computes between batches, in order with them. Never waits.
  virtual device::Arithmetic& arithmetic() = 0;
  /// follow(), then the batch. Never waits for peers. `operation` is for errors. An empty batch is
  /// done with the one before.
  virtual Result<device::Mark> start(const LaneBatch& batch, std::string_view operation,
                                     Deadline deadline) = 0;
  /// All that was issued on the lane so far, as start() gives it.
  virtual device::Mark mark() = 0;
  /// Is it done? Never blocks.
  virtual Result<bool> test(device::Mark mark) = 0;
  /// Returns when it is done. Code::deadline as of World::wait(): names a rank that the
  /// oldest batch under way needs, what this rank is at, and in `why` all such ranks.
  virtual Result<void> wait(device::Mark mark, std::string_view operation, Deadline deadline) = 0;
};

/// A lane between all live ranks of a view. What it is for decides how much of a device it may
/// take while its messages wait.
struct LaneName {
  enum class Use : std::uint8_t { sums, slices, link } use = Use::sums;
  int number = 0;  // of a link
  auto operator<=>(const LaneName&) const = default;
};

/// For what is cut into batches; the same on all ranks.
struct LaneLimits {
  /// That a batch moves, about: enough for the links to be fast, small beside a device's memory.
  std::int64_t cut_bytes = std::int64_t{64} << 20;
  /// Batches under way. A device's queue of work is long but not endless,
  /// and who issues beyond its end waits inside the driver, without a deadline.
  std::size_t cuts = 32;
};

/// The lanes of a rank. THREADS: the rank's compute thread.
class DeviceLanes {
 public:
  virtual ~DeviceLanes() = default;

  /// COLLECTIVE over the live ranks: at the start, and in each view after adopt_view(). Frees the
  /// lanes of older views and decides how device memory travels in this one. Code::device_lost when
  /// the old ones cannot be freed. REQUIRES: after the first time, stop() was called.
  virtual Result<void> enter(Deadline deadline) = 0;
  virtual LaneLimits limits() const = 0;
  /// Since enter(): may lanes be asked for? The same on all live ranks. Otherwise device memory
  /// travels through the world.
  virtual bool direct() const = 0;
  /// COLLECTIVE over the live ranks, in the same order on all. Makes the lane if the view has none
  /// of this name, and connects it with `peers`, world ranks that name this one in their call:
  /// batches name connected ranks only. Lives until stop(). REQUIRES: direct().
  virtual Result<DeviceLane*> lane(LaneName name, std::span<const int> peers,
                                   Deadline deadline) = 0;
  /// Local; safe to repeat. Ends what is under way on every lane: of memory it was to write nothing
  /// is known. Lanes are of no use from then on. To be called before a newer view is entered, and
  /// before memory goes when a run ends with an error.
  virtual void stop() = 0;
  /// COLLECTIVE. The orderly end. REQUIRES: every batch is done.
  virtual Result<void> close(Deadline deadline) = 0;
};

/// COLLECTIVE over the live ranks, and a barrier for them: nobody has the answer before all came.
Result<TransportChoice> agree_on_transport(World& world, const DevicePlace& mine,
                                           Deadline deadline);

/// For a rank on a device without NCCL: says so to the others. `world` must outlive it.
class NoLanes final : public DeviceLanes {
 public:
  NoLanes(World& world, DevicePlace place) : world_(world), place_(place) {}
  Result<void> enter(Deadline deadline) override;
  LaneLimits limits() const override { return {}; }
  bool direct() const override { return false; }
  Result<DeviceLane*> lane(LaneName, std::span<const int>, Deadline) override;
  void stop() override {}
  Result<void> close(Deadline) override { return {}; }

 private:
  World& world_;
  DevicePlace place_;
};

}  // namespace elaswave::comm
