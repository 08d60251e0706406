// The operations of the fake NCCL, and the streams they run in.
#include "tests/support/fake_nccl_ops.h"

#include <cstring>
#include <utility>

#include "io/base/error.h"

namespace elaswave::test {
namespace {

constexpr Nanoseconds kLatency = 20'000;  // of an operation, so that waits have to wait

using Kind = FakeOp::Kind;
using Ops = std::vector<FakeOp*>;  // one of each member

std::uint64_t value(const FakeOp& op, std::size_t i) {
  std::uint64_t value;
  std::memcpy(&value, static_cast<const std::byte*>(op.in) + i * 8, 8);
  return value;
}

void run_sums(const Ops& ops) {
  const bool scatter = ops[0]->kind == Kind::reduce_scatter;
  std::vector<std::uint64_t> sums(ops[0]->count * (scatter ? ops.size() : 1));
  for (const FakeOp* op : ops)
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += value(*op, i);
  for (std::size_t member = 0; member < ops.size(); ++member)
    std::memcpy(ops[member]->out, sums.data() + (scatter ? member * ops[0]->count : 0),
                ops[0]->count * 8);
}

void run_gather(const Ops& ops) {
  std::vector<std::byte> rows;
  for (const FakeOp* op : ops) {
    const auto* row = static_cast<const std::byte*>(op->in);
    rows.insert(rows.end(), row, row + op->count);
  }
  for (FakeOp* op : ops) std::memcpy(op->out, rows.data(), rows.size());
}

void finish(FakeOp& op) {
  op.done = true;
  op.comm->ops.pop_front();
}

/// What the kernels of a stopped operation leave: anything.
void spoil(FakeOp& op) {
  const std::size_t members = op.comm->clique->members.size();
  const std::size_t bytes =
      op.kind == Kind::all_gather ? op.count * members : op.count * sizeof(std::int64_t);
  if (op.out != nullptr) std::memset(op.out, static_cast<int>(kGarbage), bytes);
  for (const FakeMessage& message : op.messages)
    if (!message.send) std::memset(message.at, static_cast<int>(kGarbage), message.bytes);
}

}  // namespace

FakeStream::FakeStream(FakeNccl& nccl, int world_rank, Clock& clock)
    : nccl_(nccl), world_rank_(world_rank), clock_(clock) {
  nccl_.streams_.push_back(this);
}
FakeStream::~FakeStream() {
  std::erase(nccl_.streams_, this);
  for (const auto& op : ops_) op->stream = nullptr;
}
void FakeStream::synchronize() {
  nccl_.note(world_rank_, "a stream is synchronized: that wait has no deadline");
}
void FakeStream::copy(void*, const void*, std::int64_t) {
  nccl_.note(world_rank_, "the fake stream copies nothing");
}
void FakeStream::zero(void*, std::int64_t) {
  nccl_.note(world_rank_, "the fake stream clears nothing");
}
void FakeStream::follow(device::Stream& other, device::Mark mark) {
  followed_ = &other;
  after_ = mark;
}

void FakeStream::enqueue(std::function<void()> run) {
  ops_.push_back(std::make_shared<FakeOp>(FakeOp{.kind = Kind::local,
                                                 .run = std::move(run),
                                                 .stream = this,
                                                 .followed = followed_,
                                                 .after = after_}));
  ++issued_;
}

bool FakeStream::reached(device::Mark mark) {
  if (nccl_.faults(world_rank_).device_lost)
    throw device::DeviceLost("cudaEventQuery: a planted illegal address");
  nccl_.progress(clock_.now());
  for (; !ops_.empty() && ops_.front()->done; ++done_) ops_.pop_front();
  return done_ >= static_cast<std::uint64_t>(mark);
}

void FakeNccl::add_operations(comm::NcclTable& table, int world_rank) {
  auto collective = [this, world_rank](Kind kind, const void* in, void* out, std::size_t count,
                                       bool types_known, ncclComm_t comm, cudaStream_t stream) {
    if (!usable(world_rank, comm, "collective")) return ncclInvalidArgument;
    if (!types_known) note(world_rank, "a collective of a type or operator not provided for");
    return issue(world_rank,
                 std::make_shared<FakeOp>(FakeOp{.kind = kind,
                                                 .in = in,
                                                 .out = out,
                                                 .count = count,
                                                 .comm = comm,
                                                 .stream = reinterpret_cast<FakeStream*>(stream)}));
  };
  table.all_reduce = [collective](const void* in, void* out, std::size_t count, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    return collective(Kind::all_reduce, in, out, count, type == ncclInt64 && op == ncclSum, comm,
                      stream);
  };
  table.reduce_scatter = [collective](const void* in, void* out, std::size_t count,
                                      ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                                      cudaStream_t stream) {
    return collective(Kind::reduce_scatter, in, out, count, type == ncclInt64 && op == ncclSum,
                      comm, stream);
  };
  table.all_gather = [collective](const void* in, void* out, std::size_t count, ncclDataType_t type,
                                  ncclComm_t comm, cudaStream_t stream) {
    return collective(Kind::all_gather, in, out, count, type == ncclUint8, comm, stream);
  };
  table.send = [this, world_rank](const void* at, std::size_t bytes, ncclDataType_t, int peer,
                                  ncclComm_t comm, cudaStream_t stream) {
    return message(world_rank, comm, stream, true, peer, const_cast<void*>(at), bytes);
  };
  table.recv = [this, world_rank](void* at, std::size_t bytes, ncclDataType_t, int peer,
                                  ncclComm_t comm, cudaStream_t stream) {
    return message(world_rank, comm, stream, false, peer, at, bytes);
  };
  table.group_start = [this, world_rank] {
    ++rank(world_rank).group_depth;
    return ncclSuccess;
  };
  table.group_end = [this, world_rank] {
    if (--rank(world_rank).group_depth != 0) note(world_rank, "groups inside groups");
    auto op = std::exchange(rank(world_rank).grouped, nullptr);
    return op == nullptr ? ncclSuccess : issue(world_rank, std::move(op));
  };
}

ncclResult_t FakeNccl::message(int world_rank, ncclComm_t comm, cudaStream_t stream, bool send,
                               int peer, void* at, std::size_t bytes) {
  if (!usable(world_rank, comm, send ? "send" : "recv")) return ncclInvalidArgument;
  Rank& mine = rank(world_rank);
  if (mine.group_depth == 0) note(world_rank, "a message outside of a group");
  if (mine.grouped == nullptr)
    mine.grouped = std::make_shared<FakeOp>(
        FakeOp{.comm = comm, .stream = reinterpret_cast<FakeStream*>(stream)});
  if (mine.grouped->comm != comm) note(world_rank, "a group of two communicators");
  mine.grouped->messages.push_back({.send = send, .peer = peer, .at = at, .bytes = bytes});
  return ncclSuccess;
}

ncclResult_t FakeNccl::issue(int world_rank, std::shared_ptr<FakeOp> op) {
  FakeComm& comm = *op->comm;
  if (comm.revoked || comm.finalized) {
    note(world_rank, "an operation on a communicator that has ended");
    return ncclInvalidUsage;
  }
  if (comm.state != ncclSuccess) return comm.state;
  Rank& mine = rank(world_rank);
  op->issued = comm.clock->now();
  op->broken = mine.ops++ == mine.faults.error_at_op;
  comm.ops.push_back(op);
  op->followed = op->stream->followed_;
  op->after = op->stream->after_;
  op->stream->ops_.push_back(op);
  ++op->stream->issued_;
  if (op->broken) {
    comm.end(mine.faults.async_error);
    return ncclSuccess;  // found out later, as by a network thread
  }
  const int polls = some_polls();
  comm.to_meet.clear();
  for (const FakeMessage& message : op->messages)
    if (comm.named.insert(message.peer).second) comm.to_meet.insert(message.peer);
  if (!mine.faults.op_stays_in_progress && polls == 0 && comm.to_meet.empty()) return ncclSuccess;
  comm.begin(FakeComm::Doing::op, polls, mine.faults.op_stays_in_progress);
  return ncclInProgress;
}

void FakeNccl::drop_ops(ncclComm_t comm) {
  for (const auto& op : comm->ops) {
    spoil(*op);
    op->done = true;
  }
  comm->ops.clear();
}

bool FakeNccl::can_run(const FakeOp& op, Nanoseconds now) const {
  const FakeComm& comm = *op.comm;
  if (dead(comm.world_rank) || op.broken || comm.revoked) return false;
  if (comm.state != ncclSuccess || comm.ops.front().get() != &op || op.stream == nullptr)
    return false;
  // Behind operations of other communicators in the same stream?
  const auto& queued = op.stream->ops_;
  const auto first =
      std::find_if(queued.begin(), queued.end(), [](const auto& ahead) { return !ahead->done; });
  return first->get() == &op && now >= op.issued + kLatency &&
         (op.followed == nullptr || op.followed->reached(op.after));
}

bool FakeNccl::run_local(FakeStream& stream) {
  bool moved = false;
  for (const auto& op : stream.ops_) {
    if (op->done) continue;
    if (op->kind != Kind::local || dead(stream.world_rank_)) break;
    if (op->followed != nullptr && !op->followed->reached(op->after)) break;
    op->run();
    op->done = moved = true;
  }
  return moved;
}

bool FakeNccl::run_collective(FakeClique& clique, Nanoseconds now) {
  Ops ops;
  for (const FakeComm* comm : clique.members) {
    if (comm == nullptr || comm->ops.empty()) return false;
    ops.push_back(comm->ops.front().get());
    if (!can_run(*ops.back(), now)) return false;
    if (ops.back()->kind == Kind::messages) return false;
    if (ops.back()->kind != ops[0]->kind || ops.back()->count != ops[0]->count) {
      note(comm->world_rank, "members call different collectives");
      ops.back()->broken = true;
      return false;
    }
  }
  if (ops.empty()) return false;
  ops[0]->kind == Kind::all_gather ? run_gather(ops) : run_sums(ops);
  for (FakeOp* op : ops) finish(*op);
  return true;
}

bool FakeNccl::run_messages(FakeClique& clique, Nanoseconds now) {
  // What a member may exchange now: its first operation, when that is of messages.
  std::vector<std::shared_ptr<FakeOp>> first;
  for (const FakeComm* comm : clique.members) {
    const bool runs = comm != nullptr && !comm->ops.empty() && can_run(*comm->ops.front(), now);
    first.push_back(runs && comm->ops.front()->kind == Kind::messages ? comm->ops.front()
                                                                      : nullptr);
  }
  bool moved = false;
  for (std::size_t from = 0; from < first.size(); ++from) {
    if (first[from] == nullptr) continue;
    for (FakeMessage& sent : first[from]->messages) {
      const auto& peer = first[static_cast<std::size_t>(sent.peer)];
      if (!sent.send || sent.done || peer == nullptr) continue;
      const auto got = std::find_if(
          peer->messages.begin(), peer->messages.end(), [&](const FakeMessage& message) {
            return !message.send && !message.done && message.peer == static_cast<int>(from);
          });
      if (got == peer->messages.end()) continue;
      if (got->bytes != sent.bytes)
        note(first[from]->comm->world_rank, "a message is not as long as its receiver thinks");
      std::memcpy(got->at, sent.at, std::min(got->bytes, sent.bytes));
      sent.done = got->done = moved = true;
    }
  }
  for (const auto& op : first)
    if (op != nullptr && std::all_of(op->messages.begin(), op->messages.end(),
                                     [](const FakeMessage& message) { return message.done; }))
      finish(*op);
  return moved;
}

void FakeNccl::progress(Nanoseconds now) {
  for (bool moved = true; moved;) {
    moved = false;
    for (FakeStream* stream : streams_) moved |= run_local(*stream);
    for (const auto& [number, clique] : cliques_) {
      moved |= run_collective(*clique, now);
      moved |= run_messages(*clique, now);
    }
  }
}

}  // namespace elaswave::test
