#include "tests/support/fake_nccl.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "io/base/hash.h"
#include "tests/support/fake_nccl_ops.h"

namespace elaswave::test {

FakeNccl::FakeNccl(int ranks, std::uint64_t seed)
    : seed_(seed), ranks_(static_cast<std::size_t>(ranks)) {}
FakeNccl::~FakeNccl() = default;

void FakeNccl::note(int world_rank, std::string what) {
  misuse_.push_back(fmt::format("rank {}: {}", world_rank, what));
}

const std::vector<std::string>& FakeNccl::calls(int world_rank) const {
  return ranks_[static_cast<std::size_t>(world_rank)].calls;
}

int FakeNccl::live(int world_rank) const {
  return static_cast<int>(std::count_if(comms_.begin(), comms_.end(), [&](const auto& comm) {
    return comm->world_rank == world_rank && !comm->released;
  }));
}

/// How often a call is still in progress when it is asked about.
int FakeNccl::some_polls() {
  return static_cast<int>(combine64(seed_, ++draws_) % 4);
}

bool FakeNccl::usable(int world_rank, ncclComm_t comm, const char* call) {
  if (comm == nullptr || comm->world_rank != world_rank) {
    note(world_rank, fmt::format("{} of a communicator that is not its own", call));
    return false;
  }
  if (comm->released) {
    note(world_rank, fmt::format("{} of a communicator that was released", call));
    return false;
  }
  if (comm->state == ncclInProgress) {
    note(world_rank, fmt::format("{} of a communicator in progress", call));
    return false;
  }
  rank(world_rank).calls.push_back(fmt::format("{} {}", call, comm->number));
  return true;
}

comm::NcclTable FakeNccl::table(int world_rank, Clock& clock) {
  comm::NcclTable table;
  add_calls(table, world_rank, clock);
  add_operations(table, world_rank);
  return table;
}

void FakeNccl::add_calls(comm::NcclTable& table, int world_rank, Clock& clock) {
  table.get_version = [](int* version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
  };
  table.get_error_string = [](ncclResult_t result) {
    return result == ncclRemoteError ? "remote error" : "fake error";
  };
  table.get_last_error = [](ncclComm_t) { return "a planted error"; };
  table.get_unique_id = [this, world_rank](ncclUniqueId* id) {
    std::memset(id, 0, sizeof *id);
    if (rank(world_rank).faults.id_error != ncclSuccess) return rank(world_rank).faults.id_error;
    ++ids_made_;
    std::memcpy(id->internal, &ids_made_, sizeof ids_made_);
    cliques_[ids_made_] = std::make_unique<FakeClique>();
    return ncclSuccess;
  };
  table.comm_init_rank_config = [this, world_rank, &clock](ncclComm_t* comm, int members,
                                                           ncclUniqueId id, int member,
                                                           ncclConfig_t* config) {
    return init(world_rank, clock, comm, members, id, member, config);
  };
  table.comm_get_async_error = [this, world_rank](ncclComm_t comm, ncclResult_t* state) {
    return poll(world_rank, comm, state);
  };
  table.comm_revoke = [this, world_rank](ncclComm_t comm, int flags) {
    return revoke(world_rank, comm, flags);
  };
  table.comm_finalize = [this, world_rank](ncclComm_t comm) { return finalize(world_rank, comm); };
  table.comm_abort = [this, world_rank](ncclComm_t comm) {
    return release(world_rank, comm, true);
  };
  table.comm_destroy = [this, world_rank](ncclComm_t comm) {
    return release(world_rank, comm, false);
  };
}

comm::StartCall FakeNccl::start(int world_rank) {
  return [this, world_rank](std::function<void()> call) -> comm::HasReturned {
    if (NcclFaults& faults = rank(world_rank).faults; faults.aborts_to_hang > 0) {
      --faults.aborts_to_hang;
      return [] { return false; };
    }
    call();
    // Seen as done one look later.
    return [looked = false]() mutable { return std::exchange(looked, true); };
  };
}

ncclResult_t FakeNccl::init(int world_rank, Clock& clock, ncclComm_t* comm, int members,
                            const ncclUniqueId& id, int member, const ncclConfig_t* config) {
  std::int64_t number = 0;
  std::memcpy(&number, id.internal, sizeof number);
  const auto clique = cliques_.find(number);
  if (config == nullptr || config->size != sizeof *config || config->magic != 0xcafebeef ||
      config->blocking != 0 || clique == cliques_.end() || member < 0 || member >= members) {
    note(world_rank, "a communicator of wrong arguments");
    return ncclInvalidArgument;
  }
  FakeClique& its = *clique->second;
  if (its.members.empty()) its.members.assign(static_cast<std::size_t>(members), nullptr);
  FakeComm*& place = its.members[static_cast<std::size_t>(member)];
  if (its.members.size() != static_cast<std::size_t>(members) || place != nullptr) {
    note(world_rank, "members disagree about their communicator");
    return ncclInvalidArgument;
  }
  comms_.push_back(std::make_unique<ncclComm>());
  ncclComm& made = *comms_.back();
  made.number = number;
  made.world_rank = world_rank;
  made.member = member;
  made.clique = &its;
  made.clock = &clock;
  made.state = ncclInProgress;
  made.polls_left = some_polls();
  made.doing = FakeComm::Doing::init;
  made.hangs = rank(world_rank).faults.init_hangs;
  place = &made;
  *comm = &made;
  rank(world_rank).calls.push_back(fmt::format("init {}", number));
  return ncclInProgress;
}

ncclResult_t FakeNccl::poll(int world_rank, ncclComm_t comm, ncclResult_t* state) {
  if (comm == nullptr || comm->released || comm->world_rank != world_rank) {
    note(world_rank, "a look at a communicator that is not there");
    return ncclInvalidArgument;
  }
  const NcclFaults& faults = rank(world_rank).faults;
  if (comm->doing == FakeComm::Doing::init && faults.init_error != ncclSuccess)
    comm->end(faults.init_error);
  if (comm->state == ncclInProgress && !comm->hangs && comm->polls_left-- <= 0 &&
      comm->others_came()) {
    if (comm->doing == FakeComm::Doing::revoke) drop_ops(comm);
    comm->end(ncclSuccess);
  }
  *state = comm->state;
  return ncclSuccess;
}

ncclResult_t FakeNccl::revoke(int world_rank, ncclComm_t comm, int flags) {
  if (!usable(world_rank, comm, "revoke")) return ncclInvalidArgument;
  if (flags != 0 || comm->revoke_tried || comm->finalized) {
    note(world_rank, "a communicator is revoked that was ended before");
    return ncclInvalidArgument;
  }
  comm->revoke_tried = true;
  if (comm->state != ncclSuccess) return comm->state;
  const NcclFaults& faults = rank(world_rank).faults;
  if (faults.revoke_error != ncclSuccess) return faults.revoke_error;
  comm->revoked = true;
  comm->begin(FakeComm::Doing::revoke, some_polls(), faults.revoke_hangs);
  return ncclInProgress;
}

ncclResult_t FakeNccl::finalize(int world_rank, ncclComm_t comm) {
  if (!usable(world_rank, comm, "finalize")) return ncclInvalidArgument;
  if (comm->revoked || comm->finalized || !comm->ops.empty()) {
    note(world_rank, "a communicator is finalized after revoke, twice or before its end");
    return ncclInvalidUsage;
  }
  comm->finalized = true;
  comm->begin(FakeComm::Doing::finalize, some_polls(), rank(world_rank).faults.finalize_hangs);
  return ncclInProgress;
}

/// A communicator in use: kernels of it may keep what frees another from returning.
bool FakeNccl::in_use(const ncclComm* comm) const {
  return !comm->released && !comm->revoke_tried && !comm->finalized && comm->state == ncclSuccess;
}

ncclResult_t FakeNccl::release(int world_rank, ncclComm_t comm, bool abort) {
  const char* const call = abort ? "abort" : "destroy";
  if (comm == nullptr || comm->released || comm->world_rank != world_rank) {
    note(world_rank, fmt::format("{} of a communicator that is not there", call));
    return ncclInvalidArgument;
  }
  if (!abort && (!comm->finalized || comm->state != ncclSuccess))
    note(world_rank, "a communicator is destroyed that was not finalized");
  for (const auto& other : comms_)
    if (abort && other.get() != comm && other->world_rank == world_rank && in_use(other.get()))
      note(world_rank, "a communicator is aborted while another was not even revoked");
  rank(world_rank).calls.push_back(fmt::format("{} {}", call, comm->number));
  drop_ops(comm);
  comm->released = true;
  return ncclSuccess;
}

}  // namespace elaswave::test
