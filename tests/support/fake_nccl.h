// NCCL without devices: the collectives of the ranks of one simulation, done on host memory by the
// rules that nccl.h and NCCL's guide give. What a caller may not do is noted as misuse; failures
// are planted by rank. THREADS: the simulation's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/device_group.h"

namespace elaswave::test {

/// Of one rank; may be changed at any time.
struct NcclFaults {
  ncclResult_t id_error = ncclSuccess;    // making a unique id
  ncclResult_t init_error = ncclSuccess;  // reported while a communicator is made
  bool init_hangs = false;                // communicators made from now on never become ready
  std::int64_t error_at_op = -1;  // number of the rank's operation that never ends and is reported
  ncclResult_t async_error = ncclRemoteError;
  bool op_stays_in_progress = false;  // operations issued from now on: connections never come up
  ncclResult_t revoke_error = ncclSuccess;
  bool revoke_hangs = false;
  bool finalize_hangs = false;
  int aborts_to_hang = 0;  // so many of the next calls to abort or destroy never return
  bool device_lost = false;
};

/// What stands in memory that a stopped operation would have written.
inline constexpr std::byte kGarbage{0xDB};

struct FakeOp;
struct FakeClique;
class FakeNccl;

/// A queue of fake operations. An operation runs when every rank it needs has it first in line, not
/// when it is issued.
class FakeStream final : public device::Stream {
 public:
  FakeStream(FakeNccl& nccl, int world_rank, Clock& clock);
  ~FakeStream() override;
  FakeStream(const FakeStream&) = delete;
  FakeStream& operator=(const FakeStream&) = delete;
  comm::DeviceQueue queue() { return {*this, reinterpret_cast<cudaStream_t>(this)}; }

  device::Device& device() override { return device::host_device(); }
  void synchronize() override;
  void copy(void* to, const void* from, std::int64_t bytes) override;
  void zero(void* at, std::int64_t bytes) override;
  device::Mark mark() override { return device::Mark{issued_}; }
  bool reached(device::Mark mark) override;
  /// What is issued from now on runs only when `other` has passed `mark`.
  void follow(device::Stream& other, device::Mark mark) override;
  std::unique_ptr<device::Stream> beside() override {
    return std::make_unique<FakeStream>(nccl_, world_rank_, clock_);
  }
  std::unique_ptr<device::Stopwatch> stopwatch(const Clock& clock) override {
    return device::host_stopwatch(clock);
  }
  /// Done on the host when it comes first in line.
  void enqueue(std::function<void()> run);

 private:
  friend class FakeNccl;
  FakeNccl& nccl_;
  int world_rank_;
  Clock& clock_;
  std::deque<std::shared_ptr<FakeOp>> ops_;
  std::uint64_t issued_ = 0, done_ = 0;
  device::Stream* followed_ = nullptr;
  device::Mark after_{};
};

class FakeNccl {
 public:
  FakeNccl(int ranks, std::uint64_t seed);
  ~FakeNccl();
  FakeNccl(const FakeNccl&) = delete;
  FakeNccl& operator=(const FakeNccl&) = delete;

  /// The library as a rank sees it; both refer to this.
  comm::NcclTable table(int world_rank, Clock& clock);
  /// Calls beside the rank: done at once, or never where that is planted.
  comm::StartCall start(int world_rank);

  NcclFaults& faults(int world_rank) { return rank(world_rank).faults; }
  /// The rank's process has ended: its operations never meet those of others.
  void died(int world_rank) { rank(world_rank).dead = true; }
  /// Asked whether a rank's process lives, from now on.
  void ask_alive(std::function<bool(int world_rank)> alive) { alive_ = std::move(alive); }

  /// What was done against the rules, in order.
  const std::vector<std::string>& misuse() const { return misuse_; }
  /// The rank's calls that are no polls, in order: "init 7", "revoke 7": numbers of communicators.
  const std::vector<std::string>& calls(int world_rank) const;
  /// Communicators of the rank neither aborted nor destroyed.
  int live(int world_rank) const;
  /// Unique ids made; each belongs to one communicator of all its members.
  std::int64_t ids_made() const { return ids_made_; }

  /// Runs what can run by now. For streams.
  void progress(Nanoseconds now);

 private:
  friend class FakeStream;
  struct Rank {
    NcclFaults faults;
    bool dead = false;
    int group_depth = 0;
    std::shared_ptr<FakeOp> grouped;  // messages since the group began
    std::int64_t ops = 0;
    std::vector<std::string> calls;
  };
  Rank& rank(int world_rank) { return ranks_[static_cast<std::size_t>(world_rank)]; }

  void note(int world_rank, std::string what);
  int some_polls();
  bool dead(int world_rank) const {
    return ranks_[static_cast<std::size_t>(world_rank)].dead || (alive_ && !alive_(world_rank));
  }
  bool usable(int world_rank, ncclComm_t comm, const char* call);
  void add_calls(comm::NcclTable& table, int world_rank, Clock& clock);
  void add_operations(comm::NcclTable& table, int world_rank);
  ncclResult_t init(int world_rank, Clock& clock, ncclComm_t* comm, int members,
                    const ncclUniqueId& id, int member, const ncclConfig_t* config);
  ncclResult_t poll(int world_rank, ncclComm_t comm, ncclResult_t* state);
  ncclResult_t revoke(int world_rank, ncclComm_t comm, int flags);
  ncclResult_t finalize(int world_rank, ncclComm_t comm);
  ncclResult_t release(int world_rank, ncclComm_t comm, bool abort);
  ncclResult_t message(int world_rank, ncclComm_t comm, cudaStream_t stream, bool send, int peer,
                       void* at, std::size_t bytes);
  ncclResult_t issue(int world_rank, std::shared_ptr<FakeOp> op);
  void drop_ops(ncclComm_t comm);
  bool can_run(const FakeOp& op, Nanoseconds now) const;
  bool run_local(FakeStream& stream);
  bool run_collective(FakeClique& clique, Nanoseconds now);
  bool run_messages(FakeClique& clique, Nanoseconds now);
  bool in_use(const ncclComm* comm) const;

  std::uint64_t seed_;
  std::uint64_t draws_ = 0;
  std::vector<FakeStream*> streams_;
  std::int64_t ids_made_ = 0;
  std::vector<Rank> ranks_;
  std::function<bool(int)> alive_;
  std::map<std::int64_t, std::unique_ptr<FakeClique>> cliques_;  // by unique id
  std::vector<std::unique_ptr<ncclComm>> comms_;  // released ones too: to tell misuse
  std::vector<std::string> misuse_;
};

}  // namespace elaswave::test
