#include "app/trainer.h"

#include <algorithm>
#include <cstring>

#include "app/layout.h"
#include "app/state_dump.h"
#include "io/base/log.h"
#include "model/gpt/init.h"
#include "model/optim/digest.h"
#include "parallel/comm/group.h"

namespace elaswave::app {
namespace {

/// The first names of a list that can have hundreds: a spike in one tensor soon reaches all.
std::string first_names(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  if (names.empty()) return "none on this rank";
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, names.size()); ++i)
    text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

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

/// What the rank does between actions: entered in the flight recorder, named in hang reports.
class Phase {
 public:
  Phase(comm::World& world, Step step, FlightPhase phase, std::string_view name)
      : world_(world),
        handle_(world.recorder().compute.start({.begin = world.clock().now(),
                                                .step = step,
                                                .kind = FlightKind::phase,
                                                .detail = static_cast<std::uint8_t>(phase)})) {
    world.set_activity({step, name});
  }
  ~Phase() { world_.recorder().compute.finish(handle_, world_.clock().now()); }
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  comm::World& world_;
  std::uint64_t handle_;
};

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(const RunSpec& spec, const TrainerParts& parts) {
  EW_TRY(parts.train.sample_count(spec.model.context));
  EW_TRY(parts.train.check_vocab(spec.model.vocab));
  if (parts.val != nullptr) {
    EW_TRY(parts.val->sample_count(spec.model.context));
    EW_TRY(parts.val->check_vocab(spec.model.vocab));
  }
  EW_ASSIGN(layout::Plan plan, make_plan(spec, parts));
  std::unique_ptr<Trainer> trainer(new Trainer(spec, parts, std::move(plan)));
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

Trainer::Trainer(const RunSpec& spec, const TrainerParts& parts, layout::Plan plan)
    : spec_(spec),
      parts_(parts),
      plan_(std::move(plan)),
      group_(comm::everyone(parts.world)),
      inventory_(spec.model, spec.storage, spec.layout.tensor),
      blocks_(inventory_.blocks()),
      place_(layout::place_of(plan_, parts.world.world_rank())),
      share_(std::ssize(layout::micro_batches_of(plan_, place_))),
      exchange_(blocks_, plan_, parts.world.world_rank()),
      shard_(blocks_, plan_, parts.world.world_rank()),
      working_(blocks_, gpt::working_bytes(inventory_, zero::held_parts(plan_, blocks_,
                                                                        parts.world.world_rank()))),
      sums_(blocks_, spec.sum_mode, zero::held_parts(plan_, blocks_, parts.world.world_rank())),
      reducer_(parts.world, exchange_, blocks_, sums_, spec.timeout),
      gatherer_(parts.world, exchange_, blocks_, working_, spec.timeout),
      parameters_(inventory_, working_, place_.slice),
      gradients_(inventory_, sums_, spec.micro_batches, spec.tokens_per_micro_batch(),
                 place_.slice),
      runner_({.world = parts.world,
               .spec = spec_,
               .plan = plan_,
               .place = place_,
               .inventory = inventory_,
               .ops = parts.ops,
               .stream = parts.stream,
               .parameters = parameters_,
               .gradients = gradients_,
               .ready = [this](std::int32_t layer) { return ready(layer); },
               .sums_done = [this](std::int32_t layer,
                                   bool tied) { return reducer_.done(layer, tied); },
               .between = [this] { return reducer_.progress(); }}),
      batches_(parts.train, spec.seed, spec.model.context, spec.model.vocab, spec.micro_batch,
               spec.global_batch()) {
  if (parts.val != nullptr)
    val_batches_.emplace(*parts.val, spec.seed, spec.model.context, spec.model.vocab,
                         spec.micro_batch, spec.global_batch());
  gpt::initialize(parts.stream, inventory_, blocks_, spec.seed, shard_, working_);
}

Result<std::optional<Restored>> Trainer::resume(const Accept& accept) {
  if (!checkpointer_) return std::optional<Restored>();
  EW_ASSIGN(std::optional<Restored> restored, restore({.world = parts_.world,
                                                       .group = group_,
                                                       .files = parts_.checkpoint->files,
                                                       .directory = parts_.checkpoint->directory,
                                                       .session = parts_.checkpoint->session,
                                                       .inventory = inventory_,
                                                       .blocks = blocks_,
                                                       .shard = shard_,
                                                       .timeout = spec_.timeout,
                                                       .accept = accept}));
  if (restored) EW_TRY(adopt(restored->manifest));
  return restored;
}

Result<void> Trainer::adopt(const checkpoint::Manifest& manifest) {
  for (const zero::OwnedBlock& owned : shard_.owned()) {
    const layout::Block& block = blocks_.block(owned.block);
    gpt::store_working(shard_.master(owned),
                       inventory_.tensor(inventory_.part(block.part).tensor).storage,
                       working_.bytes(block));
  }
  updates_ = manifest.updates;
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

Result<RunSummary> Trainer::run(StepObserver& observer) {
  gatherer_.start(shard_.version);
  if (reached_stop()) return finish(last_, true);  // before the run was resumed
  for (Step step = next(shard_.version.step); raw(step) <= spec_.steps; step = next(step)) {
    EW_ASSIGN(last_, run_step(step));
    EW_TRY(observer.on_step(last_));
    if (raw(step) == spec_.steps) break;
    if (stop_agreed_ || reached_stop()) return finish(last_, true);
    if (checkpointer_ && checkpointer_->due(step)) checkpointer_->begin(state_of(last_));
  }
  return finish(last_, false);
}

Result<StepReport> Trainer::run_step(Step step) {
  comm::World& world = parts_.world;
  const Nanoseconds begin = world.clock().now();
  world.probe(Point::step_begin);

  optim::CommitVote vote;
  EW_TRY(compute(step, vote));
  const pipeline::RunTime compute_time = runner_.time();

  world.probe(Point::before_reduce);
  {
    const Phase phase(world, step, FlightPhase::reduce, "reduce");
    EW_TRY(reducer_.finish());
  }
  world.probe(Point::after_reduce);
  {
    const Phase phase(world, step, FlightPhase::log, "log");
    optim::log_gradients(parts_.ops, parts_.stream, blocks_, shard_, sums_, spec_.micro_batches,
                         vote);
  }
  world.probe(Point::after_log);

  EW_ASSIGN(const optim::CommitRecord record, commit(step, vote));

  if (checkpointer_) checkpointer_->wait_captured();
  {
    const Phase phase(world, step, FlightPhase::update, "update");
    EW_TRY(gatherer_.begin_apply());
    world.probe(Point::during_apply);
    optim::apply(parts_.ops, parts_.stream, inventory_, blocks_, shard_, record, working_);
    updates_ = record.updates;
  }
  world.probe(Point::after_apply);

  gatherer_.start(shard_.version);  // overlaps with the next forward pass
  world.probe(Point::after_gather);

  if (!std::exchange(profiled_, true)) EW_TRY(measure_bubble(compute_time));

  StepReport report{.record = record,
                    .samples = batches_.samples_after(step),
                    .tokens = last_.tokens + spec_.tokens_per_step(),
                    .duration = world.clock().now() - begin,
                    .bubble = std::exchange(bubble_, std::nullopt)};
  const bool last = raw(step) == spec_.steps || raw(step) == spec_.stop_at || stop_agreed_;
  if (last || (spec_.digest_every > 0 && raw(step) % spec_.digest_every == 0)) {
    EW_ASSIGN(report.digest, digest());
  }
  if (val_batches_ &&
      ((last && spec_.val_last) || (spec_.val_every > 0 && raw(step) % spec_.val_every == 0))) {
    EW_ASSIGN(report.val_loss, validate());
  }
  return report;
}

Result<void> Trainer::ready(std::int32_t layer) {
  EW_TRY(gatherer_.wait(layer));
  EW_CHECK(gatherer_.version(layer) == shard_.version,
           "layer {} has working weights of step {}, the state is at {}", layer,
           raw(gatherer_.version(layer).step), raw(shard_.version.step));
  return {};
}

Result<void> Trainer::compute(Step step, optim::CommitVote& vote) {
  EW_TRY(reducer_.begin_step());
  sums_.begin_step();
  gradients_.clear_flags();
  parts_.world.probe(Point::before_forward);
  EW_ASSIGN(
      const Tally tally,
      runner_.train(
          step,
          [&](std::int64_t index) { return batches_.training(step, index, spec_.model.dropout); },
          [&](std::int64_t index) { return batches_.blank(step, index, spec_.model.dropout); }));
  parts_.world.probe(Point::after_backward);
  // A replica without a share still owes its peers its (empty) sums.
  if (share_ == 0) EW_TRY(reducer_.done_rest());
  computed_ += share_;
  add(tally, vote);
  if (!gradients_.bad_tensors().empty()) vote.bad_ranks = 1;
  vote.stop_requests = asked_to_stop() ? 1 : 0;
  if (checkpointer_) checkpointer_->vote(vote);
  return {};
}

Result<void> Trainer::measure_bubble(const pipeline::RunTime& time) {
  const std::int64_t mine[] = {time.actions, time.span};
  std::vector<std::int64_t> all(2 * static_cast<std::size_t>(group_.size()));
  EW_TRY(comm::all_gather(parts_.world, group_, std::as_bytes(std::span(mine)),
                          std::as_writable_bytes(std::span(all)), "bubble", deadline()));
  std::int64_t actions = 0, longest = 0;
  for (std::size_t rank = 0; rank < all.size(); rank += 2) {
    actions += all[rank];
    longest = std::max(longest, all[rank + 1]);
  }
  if (longest > 0)
    bubble_ = 1 - static_cast<double>(actions) / (static_cast<double>(longest) * group_.size());
  return {};
}

void Trainer::add(const Tally& tally, optim::CommitVote& vote) {
  vote.loss.add(tally.loss);
  vote.tokens += tally.tokens;
  vote.micro_batches += tally.micro_batches;
  if (tally.bad) vote.bad_ranks = 1;
  if (tally.data_error) data_error_ = tally.data_error;
  vote.data_failures = data_error_ ? 1 : 0;
}

Result<optim::CommitRecord> Trainer::commit(Step step, const optim::CommitVote& vote) {
  const Phase phase(parts_.world, step, FlightPhase::commit, "commit");
  parts_.world.probe(Point::before_commit);
  std::vector<std::int64_t> words = vote.words();
  EW_TRY(comm::all_reduce_sum(parts_.world, group_, words, "commit point", deadline()));
  const optim::CommitVote total = optim::CommitVote::from_words(words);
  const optim::CommitRecord record = optim::decide(total, {step, plan_.generation}, updates_,
                                                   batches_.sample_hash(step), spec_.adamw);
  if (checkpointer_) EW_TRY(checkpointer_->advance(total));
  if (auto checked = check_commit(record, total); !checked) {
    // All ranks leave here, in good order: the checkpoint under way is worth having.
    if (checkpointer_) (void)checkpointer_->finish(std::nullopt);
    return fail(std::move(checked).error());
  }
  stop_agreed_ = total.stop_requests > 0;
  parts_.world.probe(Point::after_commit);
  return record;
}

Result<void> Trainer::check_commit(const optim::CommitRecord& record,
                                   const optim::CommitVote& total) {
  const std::int64_t step = raw(record.version.step);
  if (total.data_failures > 0) return data_failure(total);
  EW_CHECK(total.micro_batches == spec_.micro_batches, "{} micro-batches computed, {} in a step",
           total.micro_batches, spec_.micro_batches);
  EW_CHECK(total.blocks_logged == blocks_.count(), "{} blocks logged, the model has {}",
           total.blocks_logged, blocks_.count());
  if (!record.skip) return {};

  const std::string tensors = first_names(gradients_.bad_tensors());
  if (spec_.non_finite == NonFinite::skip) {
    log_warn("step {} skipped: non-finite loss or gradient on {} of {} ranks (tensors: {})", step,
             total.bad_ranks, group_.size(), tensors);
    return {};
  }
  return fail({.code = Code::non_finite,
               .what = "the loss or a gradient is not finite, or out of range",
               .where = fmt::format("step {}, samples {:016x}, tensors: {}", step,
                                    record.sample_hash, tensors),
               .why = fmt::format("{} of {} ranks saw it; nothing of this step was applied",
                                  total.bad_ranks, group_.size()),
               .fix = "lower train.lr, or set train.non_finite=skip to leave such steps out"});
}

tl::unexpected<Error> Trainer::data_failure(const optim::CommitVote& total) const {
  if (data_error_) return fail(*data_error_);
  return fail({.code = Code::data,
               .what = "another rank could not read its samples",
               .where = fmt::format("after step {}", raw(shard_.version.step)),
               .why = fmt::format("{} of {} ranks reported it", total.data_failures, group_.size()),
               .fix = "see the message of that rank"});
}

Result<std::uint64_t> Trainer::digest() {
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::digest, "digest");
  optim::DigestSums sums =
      optim::digest_sums(parts_.ops, parts_.stream, inventory_, blocks_, shard_);
  EW_TRY(comm::all_reduce_sum(parts_.world, group_, sums, "state digest", deadline()));
  return optim::state_digest(inventory_, sums);
}

Result<std::optional<double>> Trainer::validate() {
  const std::int64_t available = val_batches_->in_order_count();
  const std::int64_t count =
      spec_.val_batches == 0 ? available : std::min(spec_.val_batches, available);
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::validation, "validation");
  optim::CommitVote sum;
  for (std::int64_t first = 0; first < count && !stop_agreed_; first += spec_.micro_batches) {
    EW_ASSIGN(const optim::CommitVote round,
              validate_round(first, std::min(spec_.micro_batches, count - first)));
    if (round.data_failures > 0) return data_failure(round);
    stop_agreed_ = round.stop_requests > 0;
    sum.loss.add(round.loss);
    sum.tokens += round.tokens;
    sum.micro_batches += round.micro_batches;
    sum.bad_ranks += round.bad_ranks;
  }
  if (sum.micro_batches < count) return std::optional<double>();  // broken off: no loss to tell
  if (sum.bad_ranks > 0) return std::optional(std::numeric_limits<double>::quiet_NaN());
  return std::optional(sum.loss.value() / static_cast<double>(sum.tokens));
}

Result<optim::CommitVote> Trainer::validate_round(std::int64_t first, std::int64_t count) {
  EW_ASSIGN(const Tally tally,
            runner_.evaluate(
                shard_.version.step, count,
                [&](std::int64_t index) { return val_batches_->in_order(first + index); },
                [&](std::int64_t index) { return val_batches_->blank(Step{0}, index, 0); }));
  optim::CommitVote vote;
  add(tally, vote);
  vote.stop_requests = asked_to_stop() ? 1 : 0;
  std::vector<std::int64_t> words = vote.words();
  parts_.world.set_activity({shard_.version.step, "validation"});  // no longer the last action
  EW_TRY(comm::all_reduce_sum(parts_.world, group_, words, "validation loss", deadline()));
  return optim::CommitVote::from_words(words);
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

Result<RunSummary> Trainer::finish(StepReport last, bool stopped) {
  if (!last.digest) {  // nothing left to do after a resume, or stopped by a validation
    EW_ASSIGN(last.digest, digest());
  }
  RunSummary summary{.last_step = last.record.version.step,
                     .loss = last.record.loss,
                     .digest = last.digest.value_or(0),
                     .stopped = stopped};
  RankWork mine{.micro_batches = computed_};
  for (const zero::OwnedBlock& owned : shard_.owned())
    mine.optimizer_bytes +=
        3 * blocks_.block(owned.block).elems * static_cast<std::int64_t>(sizeof(float));
  summary.work.resize(static_cast<std::size_t>(group_.size()));
  EW_TRY(comm::all_gather(parts_.world, group_, std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(summary.work)), "end of run",
                          deadline()));
  if (checkpointer_) {
    const bool wanted = stopped || parts_.checkpoint->last || checkpointer_->due(summary.last_step);
    EW_ASSIGN(summary.durable,
              checkpointer_->finish(wanted ? std::optional(state_of(last)) : std::nullopt));
    summary.checkpoints = checkpointer_->counts();
  }
  EW_TRY(gatherer_.begin_apply());  // nothing of ours is under way when the caller closes the world
  EW_TRY(reducer_.begin_step());
  return summary;
}

Result<void> Trainer::dump_state(const std::string& path) {
  EW_ASSIGN(const std::uint64_t state_digest, digest());
  return app::dump_state({.world = parts_.world,
                          .group = group_,
                          .plan = plan_,
                          .inventory = inventory_,
                          .blocks = blocks_,
                          .shard = shard_,
                          .digest = state_digest,
                          .timeout = spec_.timeout},
                         path);
}

spec::MemoryTable Trainer::memory() const {
  using enum spec::MemoryTerm;
  const auto state = static_cast<double>(shard_.size_bytes());
  const gpt::ActivationBytes activations = runner_.activation_bytes();
  spec::MemoryTable use;
  use[weights] = static_cast<double>(working_.size_bytes());
  use[sums] = static_cast<double>(sums_.size_bytes());
  use[optimizer] = state * 3 / 4;
  use[log] = state / 4;
  use[stashes] = static_cast<double>(activations.stash);
  use[head] = static_cast<double>(activations.keep);
  use[weight_stashes] = static_cast<double>(activations.weight_stash);
  use[scratch] = static_cast<double>(activations.scratch);
  use[boundaries] = static_cast<double>(runner_.boundary_bytes());
  use[exchange] = static_cast<double>(reducer_.buffer_bytes());
  if (checkpointer_) use[checkpoint] = static_cast<double>(checkpointer_->counts().bytes);
  return use;
}

}  // namespace elaswave::app
