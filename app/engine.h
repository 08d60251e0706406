// What one rank runs one plan with: working weights, gradient sums, exchanges with peers, the stage
// it computes and the copies it keeps. A change of plan makes another engine; what outlives plans
// (the shard, the version) belongs to the trainer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "app/run_spec.h"
#include "app/stage_runner.h"
#include "elastic/replica/backups.h"
#include "model/optim/commit.h"
#include "model/optim/owned_state.h"
#include "model/spec/memory.h"
#include "parallel/comm/device_lanes.h"
#include "parallel/comm/lane_world.h"
#include "parallel/comm/world.h"
#include "parallel/layout/plan.h"
#include "parallel/zero/gatherer.h"
#include "parallel/zero/reduction.h"
#include "parallel/zero/shard.h"

namespace elaswave::app {

/// References must outlive the engine.
struct EngineParts {
  comm::World& world;
  const RunSpec& spec;
  const spec::Inventory& inventory;
  const layout::BlockTable& blocks;
  kernels::Machine machine;
  zero::Shard& shard;                   // has the plan's roles
  std::function<double()> slow_factor;  // as RankFaults'
  layout::Plan plan;                    // sound
  std::vector<replica::Copy> missing;   // copies of the plan that hold nothing yet
  comm::DeviceLanes* lanes = nullptr;   // entered before the first gather(); null: there are none
};

/// A step: compute, reduce, log, (commit), apply; then gather() for the next one. THREADS: the
/// rank's compute thread. After StepAborted or an error it can only be destroyed or handed to its
/// successor.
class Engine {
 public:
  /// Allocates everything, on a device of its own also what calls and messages take: steps allocate
  /// nothing there. `before`: takes over its memory where both plans want the same. Throws
  /// device::OutOfMemory.
  explicit Engine(EngineParts parts, std::unique_ptr<Engine> before = nullptr);
  /// Waits for the device: it may still work on memory that goes.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const layout::Plan& plan() const { return parts_.plan; }
  const layout::Place& place() const { return place_; }
  /// Micro-batches of every step that pass through this rank.
  std::int64_t share() const { return share_; }

  zero::TensorStore& working() { return stores_->working; }
  /// The engine is new, or others have written the shard: its state to where it is updated, and
  /// working weights of owned blocks from their master weights.
  void take_state();
  /// COLLECTIVE over all ranks of the view, the first time: chooses how exchanges travel. Starts
  /// the gather of working weights at the shard's version; overlaps with what comes next.
  Result<void> gather();

  /// COLLECTIVE. Forward and backward of a step, with the reduction and the filling of copies going
  /// on beside them.
  Result<Tally> compute(Step step, const StageRunner::Source& source,
                        const StageRunner::Source& blank);
  /// COLLECTIVE. Losses alone, of micro-batches [0, count).
  Result<Tally> evaluate(std::int64_t count, const StageRunner::Source& source,
                         const StageRunner::Source& blank);
  /// COLLECTIVE. Returns when owned blocks hold the sums of all ranks.
  Result<void> reduce();
  /// COLLECTIVE. Mean gradients into the log, here and at the copies.
  Result<void> log(Step step, optim::CommitVote& vote);
  /// What the votes of all ranks must add up to.
  std::int64_t copies_expected() const { return backups_.expected(); }
  /// Nothing of the state is being sent or received any more: it may change.
  Result<void> before_apply();
  /// No waits inside. Afterwards the shard stands at the record's version, at the latest when
  /// Shard::settle() returns.
  void apply(const optim::CommitRecord& record);
  /// Applies a record to the state alone, from the logs of owned blocks and of copies that were
  /// whole before its step: the engine's plan is about to be replaced.
  void roll_forward(const optim::CommitRecord& record);
  /// COLLECTIVE, at the end of the run: nothing of ours is under way when it returns.
  Result<void> settle();

  /// Tensors with a gradient out of range since the step began.
  std::vector<std::string> bad_tensors() const { return gradients_.bad_tensors(); }
  const replica::Backups& backups() const { return backups_; }
  /// What a micro-batch of the last pass took here, waits between actions apart; 0: none ran here.
  std::int64_t cost_ns() const;
  /// Of the last pass; none on a spare.
  pipeline::RunTime time() const;
  /// Adds what is allocated here.
  void add_memory(spec::MemoryTable& use) const;

 private:
  /// Memory that depends on the parts a rank holds alone: it outlives a plan that keeps them.
  struct Stores {
    std::vector<bool> held;
    zero::TensorStore working;
    zero::GradSums sums;
  };
  static std::unique_ptr<Stores> make_stores(const EngineParts& parts, Engine* before);
  std::unique_ptr<StageRunner> make_runner();
  void prepare_device();
  void add_device_memory(spec::MemoryTable& use) const;
  Result<void> send_log();
  /// COLLECTIVE. Exchanges travel by lanes where there are some.
  Result<void> connect();
  Result<void> connect_links();
  /// Returns when the working weights of a layer are there, and asserts their version.
  Result<void> ready(std::int32_t layer);

  EngineParts parts_;
  layout::Place place_;
  std::int64_t share_ = 0;
  zero::ExchangeMap exchange_;
  std::unique_ptr<Stores> stores_;
  std::unique_ptr<zero::LaneExchange> lane_;  // null: sums and weights travel through the world
  std::unique_ptr<zero::Reduction> reduction_;
  zero::Gatherer gatherer_;
  optim::OwnedState owned_;
  layers::Parameters parameters_;
  layers::Gradients gradients_;
  replica::Backups backups_;
  comm::LaneWorld boundary_world_;
  bool connected_ = false;
  std::unique_ptr<StageRunner> runner_;  // null on a spare; last: it refers to all above
};

}  // namespace elaswave::app
