// The communicators of a rank: how they come to be and how they end.
#include <algorithm>
#include <cstring>
#include <utility>

#include "io/base/hash.h"
#include "io/base/log.h"
#include "parallel/comm/device_group.h"
#include "parallel/comm/poll_pause.h"

namespace elaswave::comm {
namespace {

constexpr std::uint64_t kInvitationMagic = 0x3144495043434E45;  // "ENCCPID1"

/// What the first member tells the others. Keyed by generation and members: a communicator of ranks
/// that hold different ids, or of different groups, would wait for itself for ever.
struct Invitation {
  std::uint64_t magic = kInvitationMagic;
  std::uint64_t members = 0;  // hash of the world ranks in their order
  std::uint32_t generation = 0;
  std::int32_t result = 0;  // ncclResult_t of making the id: all hear when there is none
  ncclUniqueId id{};
};
static_assert(sizeof(Invitation) == 24 + NCCL_UNIQUE_ID_BYTES);

std::uint64_t members_hash(const Group& group) {
  return hash_bytes(std::as_bytes(std::span(group.world_ranks)));
}

}  // namespace

ShareBytes share_over(World& world, const Group& group) {
  return [&world, group](std::span<std::byte> bytes, Deadline deadline) {
    return broadcast(world, group, 0, bytes, "id of a device group", deadline);
  };
}

DeviceGroups::DeviceGroups(World& world, NcclTable nccl, StartCall start)
    : world_(world), nccl_(std::move(nccl)), start_(std::move(start)) {}

DeviceGroups::~DeviceGroups() {
  if (!groups_.empty())
    log_warn("{} NCCL communicators of rank {} were not released", groups_.size(),
             world_.world_rank());
}

Result<ncclUniqueId> DeviceGroups::agree_on_id(const DeviceGroup& group, const ShareBytes& share,
                                               Deadline deadline) {
  const Invitation expected{.members = members_hash(group.group_),
                            .generation = raw(group.group_.generation)};
  Invitation invitation = expected;
  if (group.index_ == 0) invitation.result = nccl_.get_unique_id(&invitation.id);
  EW_TRY(share(std::as_writable_bytes(std::span(&invitation, 1)), deadline));
  if (invitation.magic != expected.magic || invitation.generation != expected.generation ||
      invitation.members != expected.members)
    return fail({.code = Code::unrecoverable,
                 .what = "a device group was offered the id of another one",
                 .where = group.where("make a group"),
                 .why = fmt::format("the id is of generation {}, members {:016x} (here {:016x})",
                                    invitation.generation, invitation.members, expected.members),
                 .fix = "report this: ranks make their groups in different orders"});
  if (invitation.result != ncclSuccess)
    return fail(
        group.nccl_error(static_cast<ncclResult_t>(invitation.result), "id of a device group"));
  return invitation.id;
}

Result<DeviceGroup*> DeviceGroups::make(const Group& group, const ShareBytes& share,
                                        Deadline deadline, int most_blocks) {
  EW_CHECK(group.generation == world_.generation(),
           "a device group of generation {}, the world is at {}", raw(group.generation),
           raw(world_.generation()));
  for (const auto& other : groups_)
    EW_CHECK(other->group_.generation == group.generation && !other->stopped_,
             "a device group of generation {} was not released", raw(other->group_.generation));
  std::unique_ptr<DeviceGroup> made(new DeviceGroup(world_, nccl_, group));
  EW_ASSIGN(const ncclUniqueId id, agree_on_id(*made, share, deadline));
  groups_.push_back(std::move(made));  // before the call: its communicator must not be lost
  DeviceGroup* const begun = groups_.back().get();
  EW_TRY(begun->connect(id, most_blocks, deadline));
  return begun;
}

int DeviceGroups::stop_all(Deadline deadline) {
  // All are told before one is waited for, and none is freed before all were: memory of one may
  // only be free when the kernels of another have ended (github.com/NVIDIA/nccl issues 549, 564).
  std::vector<DeviceGroup*> told;
  int restless = 0;
  for (const auto& group : groups_) {
    if (std::exchange(group->stopped_, true) || group->comm_ == nullptr) continue;
    if (group->in_progress_ && group->state() == ncclInProgress) {
      ++restless;  // it may be asked for nothing now; only an abort ends it
      continue;
    }
    group->in_progress_ = true;
    const ncclResult_t result = nccl_.comm_revoke(group->comm_, NCCL_REVOKE_DEFAULT);
    group->in_progress_ = result == ncclInProgress;
    if (result == ncclInProgress)
      told.push_back(group.get());
    else if (result != ncclSuccess)
      ++restless;
  }
  PollPause pause(world_.clock(), deadline);
  auto at_rest = [&restless](DeviceGroup* group) {
    const ncclResult_t result = group->state();
    group->in_progress_ = result == ncclInProgress;
    if (!group->in_progress_ && result != ncclSuccess) ++restless;
    return !group->in_progress_;
  };
  for (;;) {
    std::erase_if(told, at_rest);
    if (told.empty() || pause.over()) return restless + static_cast<int>(told.size());
    pause.sleep();
  }
}

Result<void> DeviceGroups::release_all(Deadline deadline) {
  for (const auto& group : groups_) {
    EW_CHECK(group->stopped_, "device groups are released that were not stopped");
    if (group->released_) continue;
    if (group->comm_ == nullptr)
      group->released_ = [] { return true; };
    else  // each beside the others: one that hangs must not keep the rest
      group->released_ =
          start_([abort = nccl_.comm_abort, comm = group->comm_] { (void)abort(comm); });
  }
  return await_released("ncclCommAbort", deadline);
}

Result<void> DeviceGroups::await_released(std::string_view call, Deadline deadline) {
  PollPause pause(world_.clock(), deadline);
  for (;;) {
    std::erase_if(groups_, [](const auto& group) { return group->released_(); });
    if (groups_.empty()) return {};
    if (pause.over()) break;
    pause.sleep();
  }
  return fail({.code = Code::device_lost,
               .what = fmt::format("NCCL does not let go of {} of this rank's groups", count()),
               .where = groups_.front()->where("release"),
               .why = fmt::format("{} has not returned in {:.3f} s; it was left behind, with its "
                                  "memory on the device",
                                  call, static_cast<double>(pause.waited()) / kSecond),
               .fix = "start the process again: it joins as a new member"});
}

Result<void> DeviceGroups::close_all(Deadline deadline) {
  for (const auto& group : groups_) {
    EW_TRY(group->ready_for("close"));
    group->stopped_ = true;  // it cannot be revoked any more
    const ncclResult_t result = nccl_.comm_finalize(group->comm_);
    group->in_progress_ = result == ncclInProgress;
    if (result != ncclSuccess && result != ncclInProgress)
      return group->give_up(group->nccl_error(result, "close"));
  }
  for (const auto& group : groups_)
    EW_TRY(group->settle(group->in_progress_ ? ncclInProgress : ncclSuccess, "close", deadline));
  for (const auto& group : groups_)
    group->released_ =
        start_([destroy = nccl_.comm_destroy, comm = group->comm_] { (void)destroy(comm); });
  return await_released("ncclCommDestroy", deadline);
}

}  // namespace elaswave::comm
