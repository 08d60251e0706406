// Runs a rank's program: one loop over its actions. Posts receives early, hands boundary matrices
// from action to action, sends as soon as there is something to send. What an action computes is
// the StageOps' business.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "parallel/comm/world.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"
#include "parallel/pipeline/program.h"
#include "parallel/pipeline/stage_ops.h"

namespace elaswave::pipeline {

struct ExecutorParts {
  comm::World& world;
  const layout::Plan& plan;
  std::int32_t slice = 0;
  StageOps& ops;
  BoundaryShape shape;  // of this rank's slice
  Nanoseconds timeout = 0;
  device::Stream& stream;  // that the stage works on
  /// Called after every action; lets other traffic move. Must not block.
  std::function<Result<void>()> between;
};

/// Of one run: from its begin to the end of its last action, and the part of that in actions, where
/// the work is done: in the stream's time. What an action waits for inside (other slices, weights)
/// counts as action.
struct RunTime {
  Nanoseconds span = 0, actions = 0;
};

/// THREADS: the rank's compute thread. References must outlive the executor.
class Executor {
 public:
  /// Allocates `boundaries` matrices: the most that any program to be run needs.
  Executor(const ExecutorParts& parts, std::int32_t boundaries);

  /// COLLECTIVE over the ranks of the plan that the programs were lowered from. Returns when all
  /// actions are done and no send of ours is under way.
  Result<void> run(const Program& program, Step step, bool evaluate);

  /// Local. Runs the first action of each kind and chunk of a program without a message, on
  /// whatever the matrices hold, so that the stage has met every shape before a step. Errors are
  /// the stage's.
  Result<void> rehearse(const Program& program, bool evaluate);
  /// That a run of the program may have under way.
  std::vector<comm::Expected> messages(const Program& program) const;

  /// After run(): finds out when its actions were done, for time() and for the flight recorder,
  /// which has known when they were issued. REQUIRES: the stream was synchronised since. Throws
  /// DeviceLost.
  void read_times();
  /// Of the last run() that read_times() followed.
  const RunTime& time() const { return time_; }
  std::int64_t boundary_bytes() const { return memory_.size_bytes(); }

 private:
  static constexpr std::int32_t kNone = -1;
  struct Sending {
    std::int32_t peer = 0;  // world rank
    std::int32_t matrix = kNone;
    comm::Work work;
  };
  /// An action by this rank's clock. Stamp 0 is the run's begin, action i has 2i + 1 and 2i + 2.
  struct Issued {
    std::uint64_t flight = 0;
    Nanoseconds begin = 0, end = 0;
  };
  /// What is known of one (chunk, micro-batch) while it is under way.
  struct Cell {
    std::int32_t input = kNone, gradient = kNone;  // matrices
  };

  void begin(const Program& program);
  Result<void> execute(const Instruction& instruction);
  Result<void> perform(const Task& task);
  void post_receives(std::int32_t until);
  Result<void> wait_for_send_slot(std::int32_t peer);
  Result<void> finish_sends();
  void start_send(const Message& message, std::int32_t matrix);
  std::int32_t acquire();
  void release(std::int32_t matrix) { free_.push_back(matrix); }
  void retire_sends();
  device::Mat matrix(std::int32_t index);
  std::span<std::byte> bytes(std::int32_t index);
  Cell& cell(std::int32_t chunk, std::int32_t micro_batch);
  std::int32_t peer_rank(const Message& message) const;
  Deadline deadline() const { return Deadline::after(parts_.world.clock(), parts_.timeout); }

  ExecutorParts parts_;
  device::Buffer memory_;
  std::int32_t boundaries_;
  std::vector<std::int32_t> free_;
  std::unique_ptr<device::Stopwatch> stopwatch_;
  RunTime time_;

  // Of the run under way.
  const Program* program_ = nullptr;
  Step step_{};
  bool evaluate_ = false;
  Nanoseconds began_ = 0;
  std::vector<Issued> issued_;
  std::int32_t posted_ = 0;
  std::vector<comm::Work> receives_;
  std::deque<Sending> sending_;  // oldest first
  std::vector<Cell> cells_;      // [chunk * micro_batches + micro_batch]
};

}  // namespace elaswave::pipeline
