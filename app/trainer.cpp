#include "app/trainer.h"

#include <algorithm>
#include <cstring>

#include "app/layout.h"
#include "app/phase.h"
#include "app/rank_device.h"
#include "elastic/plan/rebalance.h"
#include "io/base/log.h"
#include "io/base/mutant.h"
#include "model/gpt/init.h"
#include "model/optim/digest.h"
#include "parallel/comm/group.h"

namespace elaswave::app {
namespace {

Result<layout::Plan> make_plan(const RunSpec& spec, const TrainerParts& parts) {
  if (parts.plan == nullptr) {
    EW_ASSIGN(plan::HealthyPlan made,
              healthy_plan(spec, parts.world.size(), parts.world.generation()));
    return std::move(made.plan);
  }
  const spec::Inventory inventory(spec.model, spec.storage, spec.layout.tensor);
  if (std::string fault = layout::find_fault(*parts.plan, inventory.blocks(), parts.world.size());
      !fault.empty())
    return fail({.code = Code::usage, .what = "the plan is not sound", .why = std::move(fault)});
  if (parts.plan->micro_batches != spec.micro_batches ||
      parts.plan->tensor_degree != spec.layout.tensor ||
      layout::place_of(*parts.plan, parts.world.world_rank()).stage < 0)
    return fail({.code = Code::usage,
                 .what = "the plan is for another run",
                 .where = fmt::format("rank {}", parts.world.world_rank()),
                 .why = "micro-batches, tensor degree or ranks differ from the run's",
                 .fix = "make the plan for these keys and ranks"});
  return *parts.plan;
}

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(const RunSpec& spec, const TrainerParts& parts) {
  EW_TRY(parts.train.sample_count(spec.model.context));
  EW_TRY(parts.train.check_vocab(spec.model.vocab));
  if (parts.val != nullptr) {
    EW_TRY(parts.val->sample_count(spec.model.context));
    EW_TRY(parts.val->check_vocab(spec.model.vocab));
  }
  EW_ASSIGN(const layout::Plan plan, make_plan(spec, parts));
  std::unique_ptr<Trainer> trainer(new Trainer(spec, parts, plan));
  if (parts.checkpoint != nullptr) {
    EW_ASSIGN(trainer->checkpointer_, Checkpointer::create({.setup = *parts.checkpoint,
                                                            .world = parts.world,
                                                            .group = trainer->group_,
                                                            .inventory = trainer->inventory_,
                                                            .blocks = trainer->blocks_,
                                                            .shard = trainer->shard_,
                                                            .timeout = spec.timeout}));
  }
  return trainer;
}

Trainer::Trainer(const RunSpec& spec, const TrainerParts& parts, const layout::Plan& plan)
    : spec_(spec),
      parts_(parts),
      group_(comm::everyone(parts.world)),
      inventory_(spec.model, spec.storage, spec.layout.tensor),
      blocks_(inventory_.blocks()),
      shard_(blocks_, plan, parts.world.world_rank(), parts.machine.stream.device()),
      engine_(std::make_unique<Engine>(EngineParts{.world = parts.world,
                                                   .spec = spec_,
                                                   .inventory = inventory_,
                                                   .blocks = blocks_,
                                                   .machine = parts.machine,
                                                   .shard = shard_,
                                                   .slow_factor = parts.faults.slow_factor,
                                                   .plan = plan,
                                                   .missing = {},
                                                   .lanes = parts.lanes})),
      batches_(parts.train, spec.seed, spec.model.context, spec.model.vocab, spec.micro_batch,
               spec.global_batch()) {
  if (parts.val != nullptr)
    val_batches_.emplace(*parts.val, spec.seed, spec.model.context, spec.model.vocab,
                         spec.micro_batch, spec.global_batch());
  gpt::initialize(parts.machine.host_stream, inventory_, blocks_, spec.seed, shard_);
  engine_->take_state();
}

RestoreRequest Trainer::restore_request() {
  return {.world = parts_.world,
          .group = group_,
          .files = parts_.checkpoint->files,
          .directory = parts_.checkpoint->directory,
          .session = parts_.checkpoint->session,
          .inventory = inventory_,
          .blocks = blocks_,
          .shard = shard_,
          .timeout = spec_.timeout,
          .accept = accept_,
          .newest = trusted_};
}

Result<std::optional<Restored>> Trainer::resume(const Accept& accept) {
  accept_ = accept;
  if (!checkpointer_) return std::optional<Restored>();
  EW_ASSIGN(std::optional<Restored> restored, restore(restore_request()));
  if (!restored) return restored;
  try {
    EW_TRY(adopt(restored->manifest));
  } catch (const device::DeviceLost& lost) {
    return end_by(lost);
  }
  told_ = restored->manifest.step;
  return restored;
}

Result<void> Trainer::adopt(const checkpoint::Manifest& manifest) {
  engine_->take_state();
  updates_ = manifest.updates;
  first_ = manifest.step;
  tokens_before_ = manifest.tokens;
  batches_.resume_after(manifest.step, manifest.samples);
  checkpointer_->resumed_from(manifest);
  last_ = {.record = {.version = shard_.version, .loss = manifest.loss},
           .samples = manifest.samples,
           .tokens = manifest.tokens};
  if (!manifest.digest) return {};
  EW_ASSIGN(last_.digest, digest());
  if (last_.digest == manifest.digest) return {};
  return fail(
      {.code = Code::corrupt,
       .what = "the state as loaded is not the state that was saved",
       .where = checkpoint::step_name(manifest.step),
       .why = fmt::format("state digest {:016x}, saved {:016x}", *last_.digest, *manifest.digest),
       .fix = "report this: every piece matched its checksum"});
}

Result<RunSummary> Trainer::run(StepObserver& observer, const Ending& ending) {
  auto summary = run_over_failures(observer, ending);
  // What waits on the device for peers would keep it from letting go of memory.
  if (!summary && parts_.lanes != nullptr) parts_.lanes->stop();
  return summary;
}

Result<RunSummary> Trainer::run_over_failures(StepObserver& observer, const Ending& ending) {
  for (;;) {
    // The one place where an aborted step ends up. Nothing waits in here.
    try {
      auto summary = attempt(observer, ending);
      if (summary || !view_changes(summary.error())) return summary;
    } catch (const comm::StepAborted&) {
    } catch (const device::DeviceLost& lost) {
      return end_by(lost);
    } catch (const device::OutOfMemory& full) {
      if (refused_) return fail(*refused_);
      return fail(memory_refused(spec_, engine_->plan(), parts_.world.world_rank(), full.what()));
    }
    aborted_ = true;
  }
}

Result<RunSummary> Trainer::attempt(StepObserver& observer, const Ending& ending) {
  if (std::exchange(aborted_, false)) {
    auto recovered = recover(observer);
    // Whoever is missing may have left in good order: then all had come as far as this rank.
    if (!recovered && done_) return *done_;
    EW_TRY(recovered);
  } else {
    EW_TRY(set_off());
  }
  return run_to_end(observer, ending);
}

Result<RunSummary> Trainer::run_to_end(StepObserver& observer, const Ending& ending) {
  for (;;) {
    if (untold_) EW_TRY(tell(observer));
    const Step step = shard_.version.step;
    const bool stopped = raw(step) < spec_.steps && (stop_agreed_ || reached_stop());
    if (stopped || raw(step) >= spec_.steps) break;
    if (checkpointer_ && checkpointer_->due(step) && step > checkpointer_->durable())
      begin_checkpoint();
    EW_TRY(follow_speed());
    auto stepped = run_step(next(step), observer);
    if (!stepped && distrusted_)
      stepped = go_back_in_place(*std::exchange(distrusted_, std::nullopt));
    EW_TRY(stepped);
  }
  EW_ASSIGN(RunSummary summary, finish(raw(shard_.version.step) < spec_.steps));
  if (ending.last) EW_TRY(ending.last(summary));
  done_ = summary;
  if (ending.close_world) {
    if (parts_.lanes != nullptr) EW_TRY(parts_.lanes->close(deadline()));
    EW_TRY(parts_.world.close(deadline()));
  }
  return summary;
}

void Trainer::begin_checkpoint() {
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::outside, "checkpoint");
  checkpointer_->begin(state_of(last_));
}

Result<void> Trainer::run_step(Step step, StepObserver& observer) {
  comm::World& world = parts_.world;
  const device::NamedRange range("step", raw(step));
  const Nanoseconds begin = world.clock().now();
  world.probe(Point::step_begin);
  computing_ = step;
  if (parts_.faults.spoils_copy) spoil_copies();

  optim::CommitVote vote;
  EW_TRY(compute(step, vote));
  const pipeline::RunTime compute_time = engine_->time();

  world.probe(Point::before_reduce);
  {
    const Phase phase(world, step, FlightPhase::reduce, "reduce");
    EW_TRY(engine_->reduce());
  }
  world.probe(Point::after_reduce);
  {
    const Phase phase(world, step, FlightPhase::log, "log");
    EW_TRY(engine_->log(step, vote));
  }
  world.probe(Point::after_log);

  EW_TRY(commit(step, vote));
  EW_TRY(apply());
  untold_ = report_of(*record_, world.clock().now() - begin);
  note_commit(observer);

  world.probe(Point::before_gather);
  EW_TRY(engine_->gather());  // overlaps with the next forward pass
  world.probe(Point::after_gather);
  if (step == next(first_)) EW_TRY(measure_bubble(compute_time));
  return {};
}

/// A fault on purpose: memory that changes by itself.
void Trainer::spoil_copies() {
  for (const zero::HeldBlock& held : shard_.backups())
    if (shard_.whole(held.block) && parts_.faults.spoils_copy())
      std::as_writable_bytes(shard_.master(held)).front() ^= std::byte{1};
}

Result<void> Trainer::compute(Step step, optim::CommitVote& vote) {
  EW_ASSIGN(
      const Tally tally,
      engine_->compute(
          step,
          [&](std::int64_t index) { return batches_.training(step, index, spec_.model.dropout); },
          [&](std::int64_t index) { return batches_.blank(step, index, spec_.model.dropout); }));
  computed_ += engine_->share();
  add(tally, vote);
  if (!engine_->bad_tensors().empty()) vote.bad_ranks = 1;
  vote.stop_requests = asked_to_stop() ? 1 : 0;
  if (checkpointer_) checkpointer_->vote(vote);
  return {};
}

Result<void> Trainer::apply() {
  if (checkpointer_) {
    const Phase phase(parts_.world, shard_.version.step, FlightPhase::outside, "checkpoint");
    checkpointer_->wait_captured();
  }
  const Phase phase(parts_.world, record_->version.step, FlightPhase::update, "update");
  EW_TRY(engine_->before_apply());
  parts_.world.probe(Point::during_apply);
  if (!mutant(Mutant::apply_before_commit)) engine_->apply(*record_);
  updates_ = record_->updates;
  parts_.world.probe(Point::after_apply);
  return {};
}

Result<void> Trainer::follow_speed() {
  const Step step = shard_.version.step;
  if (!spec_.elastic.rebalance || !engine_->backups().complete() || !speeds_.settled(step))
    return {};
  EW_ASSIGN(std::optional<layout::Plan> plan,
            plan::rebalance(blocks_, engine_->plan(), speeds_.costs(),
                            plan_request(spec_, parts_.world.size(), {})));
  if (!plan) return {};
  if (const auto shortage = find_shortage(spec_, inventory_, blocks_, *plan)) {
    if (parts_.world.world_rank() == group_.world_ranks.front())
      log_info("after step {} shares that follow speed would need {} on rank {}, which may use {}",
               raw(step), bytes_text(shortage->use.total()), shortage->world_rank,
               bytes_text(shortage->budget));
    speeds_.changed(step);
    return {};
  }
  EW_TRY(engine_->settle());
  if (parts_.world.world_rank() == group_.world_ranks.front())
    log_info("after step {} micro-batches follow the ranks' speeds: {}", raw(step),
             shares_text(*plan));
  make_engine(*plan, {});
  engine_->take_state();
  EW_TRY(engine_->gather());
  speeds_.changed(step);
  return {};
}

StepReport Trainer::report_of(const optim::CommitRecord& record, Nanoseconds duration) const {
  const Step step = record.version.step;
  return {.record = record,
          .samples = batches_.samples_after(step),
          .tokens = tokens_before_ + (raw(step) - raw(first_)) * spec_.tokens_per_step(),
          .duration = duration};
}

bool Trainer::is_last(Step step) const {
  return raw(step) == spec_.steps || raw(step) == spec_.stop_at || stop_agreed_;
}

/// COLLECTIVE: what is said of a step besides its record is found out first. Told again to nobody.
Result<void> Trainer::tell(StepObserver& observer) {
  StepReport& report = *untold_;
  const Step step = report.record.version.step;
  const bool last = is_last(step);
  report.bubble = std::exchange(bubble_, std::nullopt);
  if (last || (spec_.digest_every > 0 && raw(step) % spec_.digest_every == 0)) {
    EW_ASSIGN(report.digest, digest());
  }
  if (val_batches_ &&
      ((last && spec_.val_last) || (spec_.val_every > 0 && raw(step) % spec_.val_every == 0))) {
    EW_ASSIGN(report.val_loss, validate());
  }
  last_ = *std::exchange(untold_, std::nullopt);
  if (told_ >= step && !mutant(Mutant::step_written_twice)) return {};
  told_ = step;
  const Phase phase(parts_.world, step, FlightPhase::outside, "report");
  return observer.on_step(last_);
}

bool Trainer::reached_stop() const {
  const std::int64_t step = raw(shard_.version.step);
  return spec_.stop_at > 0 && step >= spec_.stop_at && step < spec_.steps;
}

TrainerState Trainer::state_of(const StepReport& report) const {
  return {.version = report.record.version,
          .updates = updates_,
          .samples = report.samples,
          .tokens = report.tokens,
          .loss = report.record.loss,
          .digest = report.digest};
}

Result<RunSummary> Trainer::finish(bool stopped) {
  if (!last_.digest) {  // nothing left to do after a resume, or stopped by a validation
    EW_ASSIGN(last_.digest, digest());
  }
  RunSummary summary{.last_step = last_.record.version.step,
                     .loss = last_.record.loss,
                     .digest = last_.digest.value_or(0),
                     .stopped = stopped};
  RankWork mine{.micro_batches = computed_};
  for (const zero::HeldBlock& owned : shard_.owned())
    mine.optimizer_bytes +=
        3 * blocks_.block(owned.block).elems * static_cast<std::int64_t>(sizeof(float));
  std::vector<RankWork> work(static_cast<std::size_t>(group_.size()));
  EW_TRY(comm::all_gather(parts_.world, group_, std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(work)), "end of run", deadline()));
  summary.work.resize(static_cast<std::size_t>(parts_.world.size()));
  for (std::size_t member = 0; member < work.size(); ++member)
    summary.work[static_cast<std::size_t>(group_.world_ranks[member])] = work[member];
  if (checkpointer_) {
    const bool wanted = stopped || parts_.checkpoint->last || checkpointer_->due(summary.last_step);
    const Phase phase(parts_.world, summary.last_step, FlightPhase::outside, "last checkpoint");
    EW_ASSIGN(summary.durable,
              checkpointer_->finish(wanted ? std::optional(state_of(last_)) : std::nullopt));
    summary.checkpoints = checkpointer_->counts();
  }
  EW_TRY(engine_->settle());  // nothing of ours is under way when the caller closes the world
  return summary;
}

}  // namespace elaswave::app
