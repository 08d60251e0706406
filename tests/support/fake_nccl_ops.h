// What the fake NCCL is made of. Internal to fake_nccl.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "tests/support/fake_nccl.h"

namespace elaswave::test {

struct FakeComm;

struct FakeMessage {
  bool send = false;
  int peer = 0;
  void* at = nullptr;
  std::size_t bytes = 0;
  bool done = false;
};

struct FakeOp {
  enum class Kind : std::uint8_t { all_reduce, reduce_scatter, all_gather, messages, local };
  Kind kind = Kind::messages;
  const void* in = nullptr;
  void* out = nullptr;
  std::size_t count = 0;  // as the call of this kind counts
  std::vector<FakeMessage> messages;
  std::function<void()> run;  // of a local one, which belongs to no communicator
  FakeComm* comm = nullptr;
  FakeStream* stream = nullptr;
  device::Stream* followed = nullptr;  // null: nobody
  device::Mark after{};
  Nanoseconds issued = 0;
  bool broken = false;  // never runs
  bool done = false;
};

struct FakeComm {
  enum class Doing : std::uint8_t { nothing, init, op, revoke, finalize };

  std::int64_t number = 0;
  int world_rank = 0, member = 0;
  FakeClique* clique = nullptr;
  Clock* clock = nullptr;
  ncclResult_t state = ncclSuccess;
  Doing doing = Doing::nothing;
  int polls_left = 0;
  bool hangs = false;
  bool revoke_tried = false, revoked = false, finalized = false, released = false;
  std::deque<std::shared_ptr<FakeOp>> ops;
  // Members it has ever exchanged messages with, and those whose first message it waits for: two
  // members are connected when both have named each other.
  std::set<int> named, to_meet;

  void begin(Doing what, int polls, bool for_ever) {
    state = ncclInProgress;
    doing = what;
    polls_left = polls;
    hangs = for_ever;
  }
  void end(ncclResult_t result) {
    state = result;
    doing = Doing::nothing;
  }
  bool others_came() const;
};

struct FakeClique {
  std::vector<FakeComm*> members;  // null: has not joined
};

inline bool FakeComm::others_came() const {
  return std::all_of(clique->members.begin(), clique->members.end(), [this](const FakeComm* other) {
    if (doing == Doing::init) return other != nullptr;
    if (doing == Doing::op && other != nullptr && to_meet.contains(other->member))
      return other->named.contains(member);
    return doing != Doing::finalize || other->finalized;
  });
}

}  // namespace elaswave::test

// The type that nccl.h leaves open.
struct ncclComm : elaswave::test::FakeComm {};
