// Collectives over device memory: a group with an NCCL communicator of its own, good for one
// generation. A communicator that lost a member is of no use and is replaced, never repaired:
//   view ends -> stop_all() -> adopt_view(), barrier of the survivors -> release_all() -> make()
// Every call comes back: at its deadline, or when the agents publish a newer view (StepAborted).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/nccl_table.h"
#include "parallel/comm/threaded_call.h"
#include "parallel/comm/world.h"
#include "parallel/device/stream.h"

namespace elaswave::comm {

/// One stream by its two names: NCCL enqueues on `handle`, `stream` tells how far it has come.
struct DeviceQueue {
  device::Stream& stream;
  cudaStream_t handle = nullptr;
};

/// Members are named by their place in the group.
struct Outgoing {
  int member = 0;
  std::span<const std::byte> bytes;
};
struct Incoming {
  int member = 0;
  std::span<std::byte> bytes;
};

/// MEMORY: spans are device memory, which nothing here reads or writes from the host; it belongs to
/// the call until the queue has passed it or the group was released and the queue has drained.
/// COLLECTIVES return when they are enqueued; all members call them in the same order with equal
/// sizes. Empty ones do nothing. Not one result depends on the order of arrival: sums are of
/// integers.
/// ERRORS: Code::deadline; Code::unrecoverable when NCCL reports a failure of a peer or the
/// network; Code::device_lost for a CUDA error inside NCCL; Code::bug when it refuses the call.
/// After any of them the group is of no more use and every call returns the same error.
/// THROWS: StepAborted once the world knows a newer view, device::DeviceLost.
/// THREADS: the rank's compute thread, the only one that speaks to NCCL (aborts excepted).
class DeviceGroup {
 public:
  DeviceGroup(const DeviceGroup&) = delete;
  DeviceGroup& operator=(const DeviceGroup&) = delete;
  ~DeviceGroup() = default;

  const Group& group() const { return group_; }
  int size() const { return group_.size(); }
  /// This rank's place in the group.
  int index() const { return index_; }

  /// Sums modulo 2^64 of all members.
  Result<void> all_reduce_sum(const DeviceQueue& queue, std::span<std::int64_t> inout,
                              std::string_view operation, Deadline deadline);
  /// `out` becomes part index() of the sums over all `in`, which have size() parts of out.size()
  /// elements. `out` may be that part of `in`, or lie apart from it.
  Result<void> reduce_scatter_sum(const DeviceQueue& queue, std::span<const std::int64_t> in,
                                  std::span<std::int64_t> out, std::string_view operation,
                                  Deadline deadline);
  /// Row i of the size() rows of `out` becomes the `in` of member i. `in` may be its own row.
  Result<void> all_gather(const DeviceQueue& queue, std::span<const std::byte> in,
                          std::span<std::byte> out, std::string_view operation, Deadline deadline);
  /// Of interest to the two members: what one sends, the other receives, message by message. All
  /// messages of a call move at once, so no order among them can make members wait in a circle.
  Result<void> exchange(const DeviceQueue& queue, std::span<const Outgoing> sends,
                        std::span<const Incoming> receives, std::string_view operation,
                        Deadline deadline);
  Result<void> send(const DeviceQueue& queue, int member, std::span<const std::byte> bytes,
                    std::string_view operation, Deadline deadline) {
    const Outgoing one{member, bytes};
    return exchange(queue, {&one, 1}, {}, operation, deadline);
  }
  Result<void> receive(const DeviceQueue& queue, int member, std::span<std::byte> bytes,
                       std::string_view operation, Deadline deadline) {
    const Incoming one{member, bytes};
    return exchange(queue, {}, {&one, 1}, operation, deadline);
  }

  /// Returns when `stream` has passed `mark` and the communicator knows of no error: then what was
  /// enqueued before is whole. That the peers' is, only the commit of the step tells.
  Result<void> wait(device::Stream& stream, device::Mark mark, std::string_view operation,
                    Deadline deadline);
  /// The same without waiting: true when it would return at once.
  Result<bool> test(device::Stream& stream, device::Mark mark, std::string_view operation);

 private:
  friend class DeviceGroups;
  DeviceGroup(World& world, const NcclTable& nccl, Group group);

  Result<void> connect(const ncclUniqueId& id, int most_blocks, Deadline deadline);
  Result<void> listen(std::string_view operation);
  Result<void> ready_for(std::string_view operation);
  Result<void> settle(ncclResult_t result, std::string_view operation, Deadline deadline);
  ncclResult_t state() const;
  tl::unexpected<Error> give_up(Error error);
  Error late(std::string_view operation, std::string_view what, Nanoseconds waited) const;
  Error nccl_error(ncclResult_t result, std::string_view operation) const;
  std::string where(std::string_view operation) const;

  World& world_;
  const NcclTable& nccl_;
  Group group_;
  int index_ = -1;
  ncclComm_t comm_ = nullptr;
  bool in_progress_ = false;  // only its state may be asked for, and it may be aborted
  bool stopped_ = false;
  std::optional<Error> failure_;
  HasReturned released_;  // of the call that frees the communicator; empty before it
};

/// What the members of a group do so that all have the bytes of the first: a broadcast from member
/// 0 over host memory. COLLECTIVE over the group.
using ShareBytes = std::function<Result<void>(std::span<std::byte> bytes, Deadline deadline)>;
/// Over the world, which must outlive the result.
ShareBytes share_over(World& world, const Group& group);

/// The communicators of a rank. THREADS: the rank's compute thread.
class DeviceGroups {
 public:
  /// `world` must outlive this. `start` makes calls beside the compute thread: start_on_thread.
  DeviceGroups(World& world, NcclTable nccl, StartCall start);
  /// Waits for nothing and frees nothing of NCCL's: what was not released stays behind.
  ~DeviceGroups();
  DeviceGroups(const DeviceGroups&) = delete;
  DeviceGroups& operator=(const DeviceGroups&) = delete;

  /// COLLECTIVE over `group`, of the world's generation and with this rank in it. Groups that share
  /// ranks are made in the same order everywhere. The result lives until release_all() or
  /// close_all(). A group of one is a group. After an error or StepAborted what has come to be is
  /// held here, to be released like any other. `most_blocks`: of the device that its kernels may
  /// take at once; 0: as NCCL likes.
  /// REQUIRES: groups of older generations were released.
  Result<DeviceGroup*> make(const Group& group, const ShareBytes& share, Deadline deadline,
                            int most_blocks = 0);

  /// Ends what is under way on every group, so that queues drain; of no collective enqueued is
  /// known afterwards what it wrote. Local. Returns how many groups did not come to rest in time:
  /// release_all() ends those too. Groups told before are not told again, and not counted.
  int stop_all(Deadline deadline);
  /// Frees every group. Local; safe to repeat. Peers may still reach into memory of this rank until
  /// they have stopped: call it after a barrier of the survivors where there are any.
  /// Code::device_lost when NCCL does not let go in time: what hangs is left behind, its memory on
  /// the device is lost, and the process should leave. REQUIRES: stop_all() was called.
  Result<void> release_all(Deadline deadline);
  /// The orderly end. COLLECTIVE over all groups; after a failure stop_all() and release_all() take
  /// its place. REQUIRES: all queues have drained.
  Result<void> close_all(Deadline deadline);

  /// Groups held: made, or begun, and not released.
  int count() const { return static_cast<int>(groups_.size()); }

 private:
  Result<ncclUniqueId> agree_on_id(const DeviceGroup& group, const ShareBytes& share,
                                   Deadline deadline);
  Result<void> await_released(std::string_view call, Deadline deadline);

  World& world_;
  NcclTable nccl_;
  StartCall start_;
  std::vector<std::unique_ptr<DeviceGroup>> groups_;  // in the order they were made
};

}  // namespace elaswave::comm
