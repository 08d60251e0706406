// The step loop. trainer.cpp reads top to bottom: compute, reduce, commit, apply, gather.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "app/batches.h"
#include "app/checkpointing.h"
#include "app/engine.h"
#include "app/memory.h"
#include "app/restore.h"
#include "app/run_spec.h"
#include "app/speeds.h"
#include "elastic/member/view_board.h"
#include "elastic/recover/report.h"
#include "elastic/recover/transition.h"
#include "model/optim/update.h"
#include "parallel/comm/group.h"
#include "parallel/comm/world.h"
#include "parallel/layout/plan.h"

namespace elaswave::app {

/// Faults on purpose (chaos.*) in what the trainer itself does; each may be empty.
struct RankFaults {
  /// How many times as long as it needs an action takes here.
  std::function<double()> slow_factor;
  /// Asked in every step for each copy kept here; true: a bit of its state flips.
  std::function<bool()> spoils_copy;
  /// Told when the state of a checkpoint has taken the place of all ranks'.
  std::function<void(Step)> went_back;
};

/// What a rank brings to a run. References and pointers must outlive the Trainer.
struct TrainerParts {
  comm::World& world;
  kernels::Machine machine;
  const data::TokenSet& train;
  const data::TokenSet* val = nullptr;  // may be null
  bool (*stop)() = nullptr;             // asked once a step whether to leave after it; may be null
  const CheckpointSetup* checkpoint = nullptr;  // null: none are taken or looked for
  const layout::Plan* plan = nullptr;  // to start with; null: the healthy plan of RunSpec::layout
  member::ViewBoard* board = nullptr;  // null: a rank that fails ends the run
  RankFaults faults;
  /// By which device memory may travel past the world; null: it never does. The same on all ranks.
  comm::DeviceLanes* lanes = nullptr;
};

struct StepReport {
  optim::CommitRecord record;
  std::int64_t samples = 0, tokens = 0;  // trained on since step 1
  Nanoseconds duration = 0;              // of this step, validation apart
  std::optional<std::uint64_t> digest;
  std::optional<double> val_loss;  // nats per token
  std::optional<double> bubble;    // first step of a run: share of time outside of actions
};

/// Receives every committed step once, in order, on every rank. Called inside the step loop: must
/// not wait for peers.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual Result<void> on_step(const StepReport& report) = 0;
  /// The members have changed; before the next step of theirs is told. The lowest of them reports
  /// from now on: the steps that its predecessor did not get to are among those told to it last.
  virtual Result<void> on_view(const std::vector<std::int32_t>& members) {
    (void)members;
    return {};
  }
  /// A failure is overcome: the first step after it is committed.
  virtual void on_recovery(const recover::RecoveryReport& report) { (void)report; }
  /// Every block has its copies again; the report's exposure is set.
  virtual void on_redundancy(const recover::RecoveryReport& report) { (void)report; }
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

  /// From now on failures of other ranks are overcome: `board` is where this rank's agent posts
  /// views. As TrainerParts::board.
  void follow(member::ViewBoard& board) { parts_.board = &board; }

  /// What follows the last step within reach of recovery.
  struct Ending {
    /// COLLECTIVE; called when all is trained, and again after a failure in it. May be empty.
    std::function<Result<void>(const RunSummary&)> last;
    bool close_world = false;
  };
  /// COLLECTIVE. Trains to the last step, or to where it is asked to stop, and over failures of
  /// other ranks on the way. Code::excluded: the others go on without this rank.
  Result<RunSummary> run(StepObserver& observer, const Ending& ending);
  Result<RunSummary> run(StepObserver& observer) { return run(observer, Ending{}); }

  /// After run() has failed: true when all members have come to the same end, false when this rank
  /// is alone with its error.
  bool ended_together() const { return verdict_; }

  /// COLLECTIVE. Writes master weights and moments to an HDF5 file on the reporter (README.md,
  /// "State dump").
  Result<void> dump_state(const std::string& path);

  /// As allocated. What kernels and exchanges take while they run is not measured (0).
  spec::MemoryTable memory() const;
  const layout::Plan& plan() const { return engine_->plan(); }
  const spec::Inventory& inventory() const { return inventory_; }

 private:
  Trainer(const RunSpec& spec, const TrainerParts& parts, const layout::Plan& plan);

  RestoreRequest restore_request();
  Result<void> adopt(const checkpoint::Manifest& manifest);
  /// The engine of another plan, with what memory of the present one it can use. Throws
  /// device::OutOfMemory: then there is no engine, and `refused_` says more.
  void make_engine(const layout::Plan& plan, std::vector<replica::Copy> missing);

  // The step loop.
  Result<RunSummary> run_over_failures(StepObserver& observer, const Ending& ending);
  /// COLLECTIVE, once.
  Result<void> set_off();
  Result<RunSummary> attempt(StepObserver& observer, const Ending& ending);
  Result<RunSummary> run_to_end(StepObserver& observer, const Ending& ending);
  void begin_checkpoint();
  Result<void> run_step(Step step, StepObserver& observer);
  Result<void> compute(Step step, optim::CommitVote& vote);
  Result<void> commit(Step step, const optim::CommitVote& vote);
  Step newest_trusted(Step step) const;
  void spoil_copies();
  Result<void> check_commit(const optim::CommitRecord& record, const optim::CommitVote& total);
  Result<void> apply();
  Result<void> tell(StepObserver& observer);
  Result<RunSummary> finish(bool stopped);

  /// COLLECTIVE: at a step boundary, all ranks change to other shares or none.
  Result<void> follow_speed();

  // What can be asked between steps (trainer_evaluate.cpp).
  Result<std::uint64_t> digest();
  Result<std::optional<double>> validate();
  /// COLLECTIVE. Loss of `count` micro-batches from `first` on, summed over all ranks.
  Result<optim::CommitVote> validate_round(std::int64_t first, std::int64_t count);
  /// COLLECTIVE, once: the share of the longest rank's time in which ranks were not in actions.
  Result<void> measure_bubble(const pipeline::RunTime& time);
  void add(const Tally& tally, optim::CommitVote& vote);
  tl::unexpected<Error> data_failure(const optim::CommitVote& total) const;

  // What happens when the members change (trainer_recovery.cpp).
  Result<void> recover(StepObserver& observer);
  Result<void> go_back_in_place(Error found);
  void begin_report(Nanoseconds began);
  Result<void> pass_gate();
  Result<void> remake_checkpointer(Step durable);
  Result<void> transform(const recover::Choice& choice);
  Result<plan::RecoveryPlan> plan_after(const recover::Choice& choice,
                                        const plan::Holdings& holdings);
  Result<void> go_back(const recover::Choice& choice, const Error& lost);
  Result<checkpoint::Manifest> load_checkpoint(const Error& lost);
  tl::unexpected<Error> verdict(Error error);
  tl::unexpected<Error> end_by(const device::DeviceLost& lost) const;
  void roll_forward(const recover::Choice& choice);
  recover::RankInventory inventory_now() const;
  bool view_changes(const Error& error);
  void note_commit(StepObserver& observer);

  StepReport report_of(const optim::CommitRecord& record, Nanoseconds duration) const;
  bool is_last(Step step) const;
  /// True when train.stop_at has been reached before the last step.
  bool reached_stop() const;
  TrainerState state_of(const StepReport& report) const;
  bool asked_to_stop() const { return parts_.stop != nullptr && parts_.stop(); }
  Deadline deadline() const { return Deadline::after(parts_.world.clock(), spec_.timeout); }

  /// From the first abort until every block has its copies again.
  struct Recovering {
    recover::RecoveryReport report;
    Nanoseconds began = 0;  // when this rank's agent first doubted a peer
    Nanoseconds mark = 0;   // end of the last phase
    bool told = false;      // the first step is committed

    void lap(recover::Phase phase, Nanoseconds now) {
      report.phases[static_cast<std::size_t>(phase)] += now - mark;
      mark = now;
    }
  };

  RunSpec spec_;
  TrainerParts parts_;
  comm::Group group_;

  spec::Inventory inventory_;
  layout::BlockTable blocks_;
  zero::Shard shard_;
  std::unique_ptr<Engine> engine_;

  Batches batches_;
  std::optional<Batches> val_batches_;
  std::optional<Error> data_error_;  // of this rank, reported to all at the commit point
  bool stop_agreed_ = false;
  std::int64_t updates_ = 0;        // AdamW's t
  std::int64_t computed_ = 0;       // micro-batches
  std::int64_t tokens_before_ = 0;  // trained on before this run
  Step first_{};                    // the state this run began with
  Step computing_{};                // the step begun last
  std::optional<double> bubble_;    // measured, to be reported

  std::optional<optim::CommitRecord> record_;   // newest; decided, perhaps not yet applied
  std::optional<StepReport> untold_;            // of a step that was applied and not yet told
  StepReport last_;                             // newest step, or the checkpoint gone on from
  Step told_{};                                 // newest step told; below it steps are done again
  std::unique_ptr<Checkpointer> checkpointer_;  // may be null; it reads the state above

  Speeds speeds_;
  Accept accept_;                     // of resume()
  bool given_up_ = false;             // the state is to come from a checkpoint and is not there yet
  bool verdict_ = false;              // the error to return was decided by all members alike
  std::optional<Error> refused_;      // memory, for another engine
  std::optional<Error> distrusted_;   // why the state is not to be gone on with; all know
  std::optional<Step> trusted_;       // the state is damaged: a later checkpoint's may be, too
  std::optional<Step> went_back_to_;  // in place, the last time

  std::optional<RunSummary> done_;        // all but the end of the world
  bool aborted_ = false;                  // members have changed since the step under way began
  std::optional<Recovering> recovering_;  // from the first abort to full redundancy
};

}  // namespace elaswave::app
