// What happens in the step loop when the members have changed. recover() reads top to bottom; a
// further failure anywhere in it throws out of it, and it starts again from what is there by then:
// every part either has not happened or is done (a record applied whole, a block moved whole).
#include <algorithm>
#include <iterator>
#include <utility>

#include "app/layout.h"
#include "app/phase.h"
#include "app/rank_device.h"
#include "app/trainer.h"
#include "elastic/recover/exchange.h"
#include "elastic/recover/gate.h"
#include "elastic/recover/inventory.h"
#include "elastic/recover/move.h"
#include "io/base/hash.h"
#include "io/base/log.h"
#include "io/base/mutant.h"
#include "parallel/layout/action.h"

namespace elaswave::app {
namespace {

// How long an error of the transport waits for the view that explains it: agents see a dead peer
// within milliseconds, a silent one within their limits.
constexpr Nanoseconds kExplanation = 5 * kSecond;
constexpr Nanoseconds kLook = kMillisecond;

/// What the step loop did last: what it was doing when it left the step.
std::string_view last_phase(const FlightRecorder& recorder) {
  const std::vector<FlightEvent> events = recorder.compute.snapshot();
  for (auto event = events.rbegin(); event != events.rend(); ++event) {
    if (event->kind == FlightKind::phase) {
      const auto phase = static_cast<FlightPhase>(event->detail);
      if (phase == FlightPhase::outside) continue;
      return phase == FlightPhase::update ? "apply" : name(phase);
    }
    if (event->kind == FlightKind::action)
      return event->detail == static_cast<std::uint8_t>(layout::Op::forward) ? "forward"
                                                                             : "backward";
    if (event->kind == FlightKind::wait &&
        event->detail == static_cast<std::uint8_t>(comm::Channel::gather))
      return "gather";
  }
  return "start";
}

}  // namespace

/// Local. An error of the transport may be the first sign of a failure that the agents are about to
/// agree on.
bool Trainer::view_changes(const Error& error) {
  if (parts_.board == nullptr) return false;
  if (verdict_) return false;
  if (error.code != Code::unrecoverable && error.code != Code::deadline) return false;
  Clock& clock = parts_.world.clock();
  const Deadline limit = Deadline::after(clock, kExplanation);
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::outside, "wait for a view");
  while (!parts_.board->fenced() &&
         parts_.board->newest().view.generation <= parts_.world.generation()) {
    if (limit.passed(clock)) return false;
    clock.sleep(kLook);
  }
  log_warn("a transfer failed before the new view was known: {}", error.text());
  return true;
}

/// Marks an error that all members come to alike: nothing is left to wait for.
tl::unexpected<Error> Trainer::verdict(Error error) {
  verdict_ = true;
  return fail(std::move(error));
}

/// What was issued last need not be what failed, but it is near: a device tells late.
tl::unexpected<Error> Trainer::end_by(const device::DeviceLost& lost) const {
  Error error = device_lost(lost);
  error.where = fmt::format("rank {}, step {}, noticed in: {}", parts_.world.world_rank(),
                            raw(computing_), last_phase(parts_.world.recorder()));
  return fail(std::move(error));
}

recover::RankInventory Trainer::inventory_now() const {
  recover::RankInventory mine{.world_rank = parts_.world.world_rank(),
                              .version = shard_.version,
                              .reported = told_,
                              .given_up = given_up_,
                              .trusted = trusted_,
                              .done = done_.has_value(),
                              .layout = recover::layout_of(engine_->plan())};
  if (record_) {
    mine.record_version = record_->version;
    mine.record = record_->words();
  }
  if (checkpointer_) mine.durable = checkpointer_->durable();
  mine.whole.resize(static_cast<std::size_t>(blocks_.count()));
  for (std::int64_t block = 0; block < blocks_.count(); ++block) {
    if (!shard_.whole(block)) continue;
    mine.whole[static_cast<std::size_t>(block)] = true;
    mine.whole_elems += blocks_.block(block).elems;
  }
  return mine;
}

Result<void> Trainer::set_off() {
  if (parts_.lanes != nullptr) EW_TRY(parts_.lanes->enter(deadline()));
  return engine_->gather();
}

/// COLLECTIVE over the members of the newest view.
Result<void> Trainer::recover(StepObserver& observer) {
  comm::World& world = parts_.world;
  const Nanoseconds left = world.clock().now();
  if (mutant(Mutant::fenced_rank_writes) && parts_.board->fenced()) EW_TRY(observer.on_step(last_));
  if (const auto why = parts_.board->fenced())
    return fail({.code = Code::excluded,
                 .what = "this rank is no member of the run any more",
                 .where = fmt::format("rank {}, after step {}", world.world_rank(),
                                      raw(shard_.version.step)),
                 .why = *why,
                 .fix = "nothing was written since; the others go on without it"});
  const member::Decision decision = parts_.board->newest();
  begin_report(decision.suspected_at);
  recover::RecoveryReport& report = recovering_->report;
  // Not the decision's: views that came and went since this rank last looked lost members as well.
  std::set_difference(group_.world_ranks.begin(), group_.world_ranks.end(),
                      decision.view.members.begin(), decision.view.members.end(),
                      std::back_inserter(report.lost));
  report.generation = decision.view.generation;
  report.members = decision.view.members;
  recovering_->lap(recover::Phase::agree, std::min(decision.decided_at, left));

  world.probe(Point::recover_begin);
  // Before anything else: what waits on the device for the dead has to end.
  if (parts_.lanes != nullptr) parts_.lanes->stop();
  if (checkpointer_) {
    const Phase phase(world, shard_.version.step, FlightPhase::outside, "abandon a checkpoint");
    checkpointer_->abandon();
  }
  world.adopt_view(decision.view.generation, decision.view.members);
  group_ = comm::everyone(world);
  speeds_ = {};          // not all may have seen the last ones
  stop_agreed_ = false;  // whoever asked asks again
  untold_.reset();
  recovering_->lap(recover::Phase::abort, world.clock().now());

  const Phase phase(world, shard_.version.step, FlightPhase::recovery, "recovery");
  // From here on memory of the old plan may go: no peer reaches in any more.
  if (parts_.lanes != nullptr) EW_TRY(parts_.lanes->enter(deadline()));
  EW_ASSIGN(const std::vector<recover::RankInventory> table,
            recover::exchange_inventories(world, group_, inventory_now(), deadline()));
  world.probe(Point::recover_inventory);
  const auto choice = recover::choose(table);
  if (!choice) return verdict(choice.error());
  trusted_ = choice->trusted;
  report.copies_differed = report.copies_differed || trusted_;
  if (!choice->given_up) roll_forward(*choice);
  recovering_->lap(recover::Phase::choose, world.clock().now());

  EW_TRY(transform(*choice));
  EW_TRY(pass_gate());

  {
    const Phase reporting(world, shard_.version.step, FlightPhase::outside, "report");
    EW_TRY(observer.on_view(report.members));
  }
  // Without a record nothing was committed here: the state is a checkpoint's, which was told.
  if (record_ && choice->reported < shard_.version.step) untold_ = report_of(*record_, 0);
  return {};
}

/// What goes on counts as one incident until a step is committed again.
void Trainer::begin_report(Nanoseconds began) {
  if (!recovering_ || recovering_->told) {
    recovering_ = Recovering();
    recovering_->began = recovering_->mark = began;
    recovering_->report.attempts = 0;
    recovering_->report.interrupted = last_phase(parts_.world.recorder());
  }
  ++recovering_->report.attempts;
}

/// COLLECTIVE. All members show each other that the plan and the state agree, then may run.
Result<void> Trainer::pass_gate() {
  comm::World& world = parts_.world;
  recover::GateWords words = recover::gate_words(engine_->plan(), shard_, world.world_rank());
  words.updates = updates_;
  if (record_) {
    const std::vector<std::int64_t> record = record_->words();
    words.record_hash = static_cast<std::int64_t>(hash_bytes(std::as_bytes(std::span(record))));
  }
  world.probe(Point::recover_gate);
  if (!mutant(Mutant::gate_skipped))
    EW_TRY(recover::pass_gate(world, group_, words, blocks_.count(), deadline()));
  if (!mutant(Mutant::gather_skipped)) EW_TRY(engine_->gather());
  world.probe(Point::recover_done);
  recovering_->lap(recover::Phase::gate, world.clock().now());
  return {};
}

/// COLLECTIVE, at the commit point, where all members have found alike that the state is damaged
/// and nobody has changed. The newest checkpoint from before takes its place; the view stays.
Result<void> Trainer::go_back_in_place(Error found) {
  comm::World& world = parts_.world;
  begin_report(world.clock().now());
  const Phase phase(world, shard_.version.step, FlightPhase::recovery, "recovery");
  recover::RecoveryReport& report = recovering_->report;
  report.generation = world.generation();
  report.members = group_.world_ranks;
  report.copies_differed = true;
  trusted_ = newest_trusted(computing_);  // before any wait: after a failure the others hear of it
  world.probe(Point::recover_begin);
  EW_TRY(engine_->settle());
  speeds_ = {};  // as after a view: what is under way is not gone on with
  stop_agreed_ = false;
  EW_ASSIGN(const std::vector<recover::RankInventory> table,
            recover::exchange_inventories(world, group_, inventory_now(), deadline()));
  world.probe(Point::recover_inventory);
  const auto choice = recover::choose(table);
  if (!choice) return verdict(choice.error());
  recovering_->lap(recover::Phase::choose, world.clock().now());
  EW_TRY(go_back(*choice, found));
  if (went_back_to_ == report.step) {
    found.why += fmt::format("; so it was when the checkpoint of step {} had been loaded before",
                             raw(report.step));
    return verdict(std::move(found));
  }
  went_back_to_ = report.step;
  return pass_gate();
}

/// Local: log before apply makes it safe (transition.h).
void Trainer::roll_forward(const recover::Choice& choice) {
  if (!choice.record.empty()) record_ = optim::CommitRecord::from_words(choice.record);
  if (shard_.version == choice.version) return;
  parts_.world.probe(Point::recover_roll_forward);
  engine_->roll_forward(*record_);
  updates_ = record_->updates;
  recovering_->report.rolled_forward = true;
}

/// Local; the same on all members.
Result<plan::RecoveryPlan> Trainer::plan_after(const recover::Choice& choice,
                                               const plan::Holdings& holdings) {
  comm::World& world = parts_.world;
  // What ranks hold now is in the way, also where a checkpoint's state takes its place.
  const auto shortage = [&](const layout::Plan& plan) {
    return find_shortage(spec_, inventory_, blocks_, plan,
                         plan::unused_bytes(blocks_, choice.holdings, plan));
  };
  auto next = plan::recover_plan(blocks_, {.previous = choice.previous,
                                           .holdings = holdings,
                                           .wish = plan_request(spec_, world.size(), {}),
                                           .generation = world.generation(),
                                           .id = choice.previous.id + 1,
                                           .shortage = shortage});
  recovering_->lap(recover::Phase::plan, world.clock().now());
  if (!next) return next;
  world.probe(Point::recover_planned);
  recover::RecoveryReport& report = recovering_->report;
  report.response = next->response;
  report.schedule = next->schedule;
  report.stages = std::ssize(next->plan.stages);
  report.replicas = std::ssize(next->plan.schedule);
  report.spares = std::ssize(next->plan.spares);
  return next;
}

/// COLLECTIVE. The plan of the new view, and everything that it needs in its place.
Result<void> Trainer::transform(const recover::Choice& choice) {
  comm::World& world = parts_.world;
  recover::RecoveryReport& report = recovering_->report;
  if (choice.given_up)
    return go_back(
        choice, {.code = trusted_ ? Code::corrupt : Code::unrecoverable,
                 .what = trusted_ ? "a copy of the state is not what its owner has" : "blocks lost",
                 .where = fmt::format("generation {}", raw(world.generation())),
                 .why = "another failure came while a checkpoint was being loaded",
                 .fix = "resume from a checkpoint"});
  auto planned = plan_after(choice, choice.holdings);
  if (!planned) return go_back(choice, planned.error());
  plan::RecoveryPlan& next = *planned;
  report.step = choice.version.step;
  if (computing_ > choice.version.step) report.micro_batches_lost = spec_.micro_batches;
  report.from_checkpoint = false;

  shard_.adopt(next.plan);
  EW_ASSIGN(const std::int64_t received,
            recover::move_state(world, shard_, next.moves, spec_.timeout));
  report.moved_bytes += received;
  world.probe(Point::recover_moved);
  std::vector<replica::Copy> missing;
  for (const plan::Move& refill : next.refills) {
    const std::int32_t owner = next.plan.owner_rank(blocks_, refill.block);
    missing.push_back({.block = refill.block, .owner = owner, .backup = refill.to});
    report.refilled_bytes +=
        3 * blocks_.block(refill.block).elems * static_cast<std::int64_t>(sizeof(float));
  }
  make_engine(next.plan, std::move(missing));
  engine_->take_state();
  if (checkpointer_) EW_TRY(remake_checkpointer(choice.durable));
  recovering_->lap(recover::Phase::promote, world.clock().now());
  return {};
}

/// COLLECTIVE. The plan needs state that nobody has any more: the newest sound checkpoint takes the
/// place of every member's. Interrupted anywhere in here, all members begin it anew.
Result<void> Trainer::go_back(const recover::Choice& choice, const Error& lost) {
  if (!checkpointer_ || choice.done) return verdict(lost);
  auto next = plan_after(choice, recover::all_whole(choice.holdings));
  if (!next) return verdict(next.error());  // too few ranks for any state

  given_up_ = true;
  record_.reset();
  shard_.adopt(next->plan);
  shard_.drop_unused();
  EW_ASSIGN(const checkpoint::Manifest manifest, load_checkpoint(lost));
  parts_.world.probe(Point::recover_moved);
  for (const auto blocks : {shard_.owned(), shard_.backups()})
    for (const zero::HeldBlock& held : blocks) shard_.set_whole(held.block, true);
  make_engine(next->plan, {});
  EW_TRY(adopt(manifest));
  given_up_ = false;
  trusted_.reset();
  recover::RecoveryReport& report = recovering_->report;
  report.step = manifest.step;
  report.from_checkpoint = true;
  report.undone = told_;
  if (parts_.faults.went_back) parts_.faults.went_back(manifest.step);
  EW_TRY(remake_checkpointer(manifest.step));
  recovering_->lap(recover::Phase::promote, parts_.world.clock().now());
  return {};
}

/// COLLECTIVE.
Result<checkpoint::Manifest> Trainer::load_checkpoint(const Error& lost) {
  if (group_.world_ranks.front() == parts_.world.world_rank())
    log_warn("{} ({}): going back to the newest checkpoint", lost.what, lost.why);
  auto restored = restore(restore_request());
  if (restored && *restored) return std::move((*restored)->manifest);
  if (!restored) {
    // Everybody's trouble, or the transport's and so this rank's alone: then nobody is met here.
    std::int64_t present = 1;
    if (!comm::all_reduce_sum(parts_.world, group_, {&present, 1}, "no checkpoint", deadline()))
      return fail(restored.error());
  }
  Error end = lost;
  end.why += restored && trusted_
                 ? fmt::format("; no checkpoint is of step {} or before", raw(*trusted_))
             : restored ? "; there is no checkpoint yet"
                        : "; the checkpoints are of no use: " + restored.error().text();
  end.fix = trusted_   ? "start again if the newest checkpoint may hold the damage, else over with "
                         "--train.fresh; suspect the memory of a host"
            : restored ? "start again; set checkpoint.every, or elastic.copies higher"
                       : "see to the checkpoints, then start again";
  return verdict(std::move(end));
}

/// Local. Ranges and members have changed; what is known of finished checkpoints stays.
Result<void> Trainer::remake_checkpointer(Step durable) {
  EW_ASSIGN(checkpointer_, Checkpointer::create({.setup = *parts_.checkpoint,
                                                 .world = parts_.world,
                                                 .group = group_,
                                                 .inventory = inventory_,
                                                 .blocks = blocks_,
                                                 .shard = shard_,
                                                 .timeout = spec_.timeout},
                                                std::move(checkpointer_), durable));
  return {};
}

/// Local, after every commit: the first one after a failure ends its recovery, the one that finds
/// every block with its copies ends the exposure.
void Trainer::note_commit(StepObserver& observer) {
  if (!recovering_) return;
  const Nanoseconds now = parts_.world.clock().now();
  const Phase phase(parts_.world, shard_.version.step, FlightPhase::outside, "report");
  recover::RecoveryReport& report = recovering_->report;
  if (!std::exchange(recovering_->told, true)) {
    recovering_->lap(recover::Phase::first_step, now);
    report.total = now - recovering_->began;
    observer.on_recovery(report);
  }
  if (!engine_->backups().complete()) return;
  report.exposure = now - recovering_->began;
  observer.on_redundancy(report);
  recovering_.reset();
}

}  // namespace elaswave::app
