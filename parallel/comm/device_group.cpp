#include "parallel/comm/device_group.h"

#include <algorithm>
#include <utility>

#include "parallel/comm/poll_pause.h"

namespace elaswave::comm {
namespace {

// Ranks named in an error; a longer list helps nobody.
constexpr std::size_t kRanksTold = 16;

Code code_of(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return Code::device_lost;
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return Code::bug;
    default:
      return Code::unrecoverable;
  }
}

std::string_view fix_of(Code code) {
  switch (code) {
    case Code::device_lost:
      return "look at the device's own log and memory; the process has to be started again";
    case Code::bug:
      return "report this, with what NCCL_DEBUG=WARN prints";
    default:
      return "look for the rank that is gone, then at the network between the hosts; "
             "NCCL_DEBUG=WARN tells more";
  }
}

}  // namespace

DeviceGroup::DeviceGroup(World& world, const NcclTable& nccl, Group group)
    : world_(world),
      nccl_(nccl),
      group_(std::move(group)),
      index_(group_.index_of(world.world_rank())) {
  EW_CHECK(index_ >= 0, "rank {} makes a device group it is not in", world.world_rank());
}

std::string DeviceGroup::where(std::string_view operation) const {
  const std::size_t told = std::min(group_.world_ranks.size(), kRanksTold);
  return fmt::format("rank {}, '{}', ranks {}{} of generation {}", world_.world_rank(), operation,
                     fmt::join(group_.world_ranks.begin(),
                               group_.world_ranks.begin() + static_cast<std::ptrdiff_t>(told), " "),
                     told < group_.world_ranks.size() ? " ..." : "", raw(group_.generation));
}

Error DeviceGroup::late(std::string_view operation, std::string_view what,
                        Nanoseconds waited) const {
  return {.code = Code::deadline,
          .what = fmt::format("device memory did not travel in time: {}", what),
          .where = where(operation),
          .why = fmt::format("waited {:.3f} s, and neither NCCL nor the agents know of a failure",
                             static_cast<double>(waited) / kSecond),
          .fix = "look at the ranks of the group that wait for nobody"};
}

Error DeviceGroup::nccl_error(ncclResult_t result, std::string_view operation) const {
  const Code code = code_of(result);
  return {.code = code,
          .what = fmt::format("NCCL failed: {}", nccl_.get_error_string(result)),
          .where = where(operation),
          .why = nccl_.get_last_error(comm_),
          .fix = std::string(fix_of(code))};
}

tl::unexpected<Error> DeviceGroup::give_up(Error error) {
  if (!failure_) failure_ = std::move(error);
  return fail(*failure_);
}

ncclResult_t DeviceGroup::state() const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = nccl_.comm_get_async_error(comm_, &state);
  return asked == ncclSuccess ? state : asked;
}

/// The agents' word: a wait for a transfer that is done returns at once, or throws.
Result<void> DeviceGroup::listen(std::string_view operation) {
  return world_.wait(Work(), operation, Deadline::after(world_.clock(), kSecond));
}

/// Waits for the end of an NCCL call. Nothing else may be asked of the communicator before.
Result<void> DeviceGroup::settle(ncclResult_t result, std::string_view operation,
                                 Deadline deadline) {
  PollPause pause(world_.clock(), deadline);
  in_progress_ = result == ncclInProgress;  // stays so when the view or the time ends
  while (in_progress_) {
    EW_TRY(listen(operation));
    result = state();
    in_progress_ = result == ncclInProgress;
    if (!in_progress_) break;
    if (pause.over())
      return give_up(late(operation, "a member does not take part", pause.waited()));
    pause.sleep();
  }
  if (result != ncclSuccess) return give_up(nccl_error(result, operation));
  return {};
}

Result<void> DeviceGroup::connect(const ncclUniqueId& id, int most_blocks, Deadline deadline) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  if (most_blocks > 0) config.maxCTAs = most_blocks;
  EW_TRY(settle(nccl_.comm_init_rank_config(&comm_, size(), id, index_, &config), "make a group",
                deadline));
  EW_CHECK(comm_ != nullptr, "NCCL made a communicator and did not return it");
  return {};
}

Result<void> DeviceGroup::ready_for(std::string_view operation) {
  EW_TRY(listen(operation));
  if (failure_) return fail(*failure_);
  EW_CHECK(!stopped_ && !in_progress_ && group_.generation == world_.generation(),
           "'{}' in a device group of generation {} that has ended", operation,
           raw(group_.generation));
  return {};
}

Result<void> DeviceGroup::all_reduce_sum(const DeviceQueue& queue, std::span<std::int64_t> inout,
                                         std::string_view operation, Deadline deadline) {
  EW_TRY(ready_for(operation));
  if (inout.empty()) return {};
  return settle(nccl_.all_reduce(inout.data(), inout.data(), inout.size(), ncclInt64, ncclSum,
                                 comm_, queue.handle),
                operation, deadline);
}

Result<void> DeviceGroup::reduce_scatter_sum(const DeviceQueue& queue,
                                             std::span<const std::int64_t> in,
                                             std::span<std::int64_t> out,
                                             std::string_view operation, Deadline deadline) {
  EW_CHECK(in.size() == out.size() * group_.world_ranks.size(), "'{}': {} elements for {} x {}",
           operation, in.size(), size(), out.size());
  EW_TRY(ready_for(operation));
  if (out.empty()) return {};
  return settle(nccl_.reduce_scatter(in.data(), out.data(), out.size(), ncclInt64, ncclSum, comm_,
                                     queue.handle),
                operation, deadline);
}

Result<void> DeviceGroup::all_gather(const DeviceQueue& queue, std::span<const std::byte> in,
                                     std::span<std::byte> out, std::string_view operation,
                                     Deadline deadline) {
  EW_CHECK(out.size() == in.size() * group_.world_ranks.size(), "'{}': {} bytes for {} x {}",
           operation, out.size(), size(), in.size());
  EW_TRY(ready_for(operation));
  if (in.empty()) return {};
  return settle(nccl_.all_gather(in.data(), out.data(), in.size(), ncclUint8, comm_, queue.handle),
                operation, deadline);
}

Result<void> DeviceGroup::exchange(const DeviceQueue& queue, std::span<const Outgoing> sends,
                                   std::span<const Incoming> receives, std::string_view operation,
                                   Deadline deadline) {
  EW_TRY(ready_for(operation));
  ncclResult_t result = nccl_.group_start();
  if (result != ncclSuccess) return give_up(nccl_error(result, operation));
  // A group that was started must be ended, whatever its calls say.
  auto note = [&](ncclResult_t told) {
    if (result == ncclSuccess && told != ncclInProgress) result = told;
  };
  auto check = [&](int member) {
    EW_CHECK(0 <= member && member < size(), "'{}' names member {} of {}", operation, member,
             size());
  };
  for (const auto& [member, bytes] : sends) {
    check(member);
    if (!bytes.empty())
      note(nccl_.send(bytes.data(), bytes.size(), ncclUint8, member, comm_, queue.handle));
  }
  for (const auto& [member, bytes] : receives) {
    check(member);
    if (!bytes.empty())
      note(nccl_.recv(bytes.data(), bytes.size(), ncclUint8, member, comm_, queue.handle));
  }
  EW_TRY(settle(nccl_.group_end(), operation, deadline));
  if (result != ncclSuccess) return give_up(nccl_error(result, operation));
  return {};
}

Result<bool> DeviceGroup::test(device::Stream& stream, device::Mark mark,
                               std::string_view operation) {
  EW_TRY(ready_for(operation));
  // In this order: kernels that an error has ended leave the queue as finished ones do.
  const bool reached = stream.reached(mark);
  const ncclResult_t result = state();
  if (result != ncclSuccess && result != ncclInProgress)
    return give_up(nccl_error(result, operation));
  return reached && result == ncclSuccess;
}

Result<void> DeviceGroup::wait(device::Stream& stream, device::Mark mark,
                               std::string_view operation, Deadline deadline) {
  PollPause pause(world_.clock(), deadline);
  for (;;) {
    EW_ASSIGN(const bool done, test(stream, mark, operation));
    if (done) return {};
    if (pause.over())
      return give_up(late(operation, "the queue did not come to its end", pause.waited()));
    pause.sleep();
  }
}

}  // namespace elaswave::comm
