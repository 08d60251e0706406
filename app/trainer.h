// The step loop. trainer.cpp reads top to bottom: compute, reduce, commit, apply, gather.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "app/batches.h"
#include "app/checkpointing.h"
#include "app/memory.h"
#include "app/restore.h"
#include "app/run_spec.h"
#include "app/stage_runner.h"
#include "model/optim/update.h"
#include "parallel/comm/world.h"
#include "parallel/layout/plan.h"
#include "parallel/zero/gatherer.h"
#include "parallel/zero/reducer.h"

namespace elaswave::app {

/// What a rank brings to a run. References and pointers must outlive the Trainer.
struct TrainerParts {
  comm::World& world;
  kernels::Ops& ops;
  device::CpuStream& stream;
  const data::TokenSet& train;
  const data::TokenSet* val = nullptr;  // may be null
  bool (*stop)() = nullptr;             // asked once a step whether to leave after it; may be null
  const CheckpointSetup* checkpoint = nullptr;  // null: none are taken or looked for
  const layout::Plan* plan = nullptr;           // to run; null: the healthy plan of RunSpec::layout
};

struct StepReport {
  optim::CommitRecord record;
  std::int64_t samples = 0, tokens = 0;  // trained on since step 1
  Nanoseconds duration = 0;              // of this step, validation apart
  std::optional<std::uint64_t> digest;
  std::optional<double> val_loss;  // nats per token
  std::optional<double> bubble;    // first step of a run: share of time outside of actions
};

/// Receives every committed step, in order, on every rank. Called inside the step loop: must not
/// wait for peers.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual Result<void> on_step(const StepReport& report) = 0;
};

struct RankWork {
  std::int64_t micro_batches = 0;    // computed in this run, through the layers held here
  std::int64_t optimizer_bytes = 0;  // master weights and moments owned
};

struct RunSummary {
  Step last_step{};
  double loss = 0;           // of the last step
  std::uint64_t digest = 0;  // of the final state
  bool stopped = false;      // asked to stop before the last step: exit 75
  bool durable = true;       // false: the last checkpoint that was wanted is not on disk: exit 8
  CheckpointCounts checkpoints;
  std::vector<RankWork> work;  // by world rank
};

/// THREADS: one caller. All members named COLLECTIVE must be called by every rank of the world.
class Trainer {
 public:
  /// Allocates everything, initialises the weights. Local.
  static Result<std::unique_ptr<Trainer>> create(const RunSpec& spec, const TrainerParts& parts);

  /// COLLECTIVE, before run(): goes on from the newest sound checkpoint, if there is one. `accept`
  /// as in RestoreRequest.
  using Accept = std::function<Result<void>(const checkpoint::Manifest&, const std::string&)>;
  Result<std::optional<Restored>> resume(const Accept& accept);

  /// COLLECTIVE. Trains to the last step, or to where it is asked to stop.
  Result<RunSummary> run(StepObserver& observer);

  /// COLLECTIVE. Writes master weights and moments to an HDF5 file on the reporter (README.md,
  /// "State dump").
  Result<void> dump_state(const std::string& path);

  /// As allocated. What kernels and exchanges take while they run is not measured (0).
  spec::MemoryTable memory() const;
  const layout::Plan& plan() const { return plan_; }
  const spec::Inventory& inventory() const { return inventory_; }

 private:
  Trainer(const RunSpec& spec, const TrainerParts& parts, layout::Plan plan);

  Result<void> adopt(const checkpoint::Manifest& manifest);
  Result<StepReport> run_step(Step step);
  Result<void> compute(Step step, optim::CommitVote& vote);
  /// Returns when the working weights of a layer are there, and asserts their version.
  Result<void> ready(std::int32_t layer);
  Result<optim::CommitRecord> commit(Step step, const optim::CommitVote& vote);
  Result<void> check_commit(const optim::CommitRecord& record, const optim::CommitVote& total);
  tl::unexpected<Error> data_failure(const optim::CommitVote& total) const;
  Result<std::uint64_t> digest();
  Result<std::optional<double>> validate();
  /// COLLECTIVE. Loss of `count` micro-batches from `first` on, summed over all ranks.
  Result<optim::CommitVote> validate_round(std::int64_t first, std::int64_t count);
  /// COLLECTIVE, once: the share of the longest rank's time in which ranks were not in actions.
  Result<void> measure_bubble(const pipeline::RunTime& time);
  void add(const Tally& tally, optim::CommitVote& vote);
  /// True when train.stop_at has been reached before the last step.
  bool reached_stop() const;
  TrainerState state_of(const StepReport& report) const;
  Result<RunSummary> finish(StepReport last, bool stopped);
  bool asked_to_stop() const { return parts_.stop != nullptr && parts_.stop(); }
  Deadline deadline() const { return Deadline::after(parts_.world.clock(), spec_.timeout); }

  RunSpec spec_;
  TrainerParts parts_;
  layout::Plan plan_;
  comm::Group group_;

  spec::Inventory inventory_;
  layout::BlockTable blocks_;
  layout::Place place_;
  std::int64_t share_ = 0;  // micro-batches of every step that pass through this rank

  zero::ExchangeMap exchange_;
  zero::Shard shard_;
  zero::TensorStore working_;
  zero::GradSums sums_;
  zero::Reducer reducer_;
  zero::Gatherer gatherer_;

  layers::Parameters parameters_;
  layers::Gradients gradients_;
  StageRunner runner_;

  Batches batches_;
  std::optional<Batches> val_batches_;
  std::optional<Error> data_error_;  // of this rank, reported to all at the commit point
  bool stop_agreed_ = false;
  std::int64_t updates_ = 0;   // AdamW's t
  std::int64_t computed_ = 0;  // micro-batches
  bool profiled_ = false;
  std::optional<double> bubble_;  // measured, to be reported
  StepReport last_;               // of the newest step, or of the checkpoint resumed from
  std::unique_ptr<Checkpointer> checkpointer_;  // may be null; last: it reads the state above
};

}  // namespace elaswave::app
