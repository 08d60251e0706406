#include "tests/support/elastic.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

namespace elaswave::test {
namespace {

/// Claims of one run directory.
class SharedClaims final : public member::ClaimStore {
 public:
  std::optional<std::vector<std::byte>> claim(Generation generation,
                                              const std::vector<std::byte>& value) override {
    return values_.try_emplace(raw(generation), value).first->second;
  }

 private:
  std::map<std::uint32_t, std::vector<std::byte>> values_;
};

struct Campaign {
  const ElasticOptions& options;
  ElasticRun& run;
  comm::SimulationControl* control = nullptr;
  SharedClaims claims;
  std::vector<std::unique_ptr<member::ViewBoard>> boards;
  std::vector<member::AgentShell*> shells;
  HitTable hits;
  std::set<int> training;  // ranks that began their first step
  bool exposed = false;    // from a fault to the first rank that sees all copies whole
  Step written{};          // newest step that a reporter wrote

  void strike(const Fault& fault) {
    std::vector<int> victims = fault.also;
    victims.push_back(fault.rank);  // last: a rank that kills itself does nothing afterwards
    ++run.fired;
    if (std::exchange(exposed, true)) ++run.fired_exposed;
    for (const int victim : victims) {
      if (!control->alive(victim)) continue;
      if (fault.kind == Fault::Kind::kill) {
        run.killed[static_cast<std::size_t>(victim)] = true;
        control->kill(victim);
      } else {
        control->stop(victim);
      }
    }
  }

  /// Points count once every rank trains: what goes wrong at the start ends the run.
  void pass(int rank, Point point) {
    if (point == Point::step_begin) training.insert(rank);
    if (std::ssize(training) < options.ranks) return;
    const std::int64_t hit = ++hits[static_cast<std::size_t>(rank)][point];
    ++run.hits[point];
    for (const Fault& fault : options.faults) {
      if (fault.rank != rank || fault.point != point || fault.hit != hit) continue;
      if (fault.delay == 0)
        strike(fault);
      else
        control->at(control->now() + fault.delay, [this, &fault] { strike(fault); });
    }
  }
};

/// What the reporter of a real run does with its files: the lowest member writes, and a new one
/// first writes what its predecessor did not get to.
class Writer final : public app::StepObserver {
 public:
  Writer(Campaign& campaign, int rank) : campaign_(campaign), rank_(rank), reports_(rank == 0) {}

  Result<void> on_step(const app::StepReport& report) override {
    last_ = report;
    // The predecessor may have written it before it died.
    if (reports_ && report.record.version.step > campaign_.written) write(report);
    return {};
  }
  Result<void> on_view(const std::vector<std::int32_t>& members) override {
    const bool now = members.front() == rank_;
    if (now && !reports_ && last_ && last_->record.version.step > campaign_.written) write(*last_);
    reports_ = now;
    return {};
  }
  void on_recovery(const recover::RecoveryReport& report) override {
    if (reports_) campaign_.run.recoveries.push_back(report);
  }
  void on_redundancy(const recover::RecoveryReport&) override {
    campaign_.exposed = false;
    if (reports_) ++campaign_.run.redundancies;
  }

 private:
  void write(const app::StepReport& report) {
    campaign_.run.steps.push_back(report);
    campaign_.written = report.record.version.step;
  }

  Campaign& campaign_;
  int rank_;
  bool reports_;
  std::optional<app::StepReport> last_;
};

void run_rank(const app::Config& config, Campaign& campaign, comm::World& world) {
  const ElasticOptions& options = campaign.options;
  const auto rank = static_cast<std::size_t>(world.world_rank());
  Writer writer(campaign, world.world_rank());
  auto done = train_rank(config,
                         {.files = options.files,
                          .board = campaign.boards[rank].get(),
                          .observer = &writer,
                          .domains = options.domains,
                          .fill_elems = options.fill_elems},
                         world);
  if (done)
    campaign.run.summaries[rank] = std::move(done->summary);
  else
    campaign.run.errors[rank] = std::move(done).error();
  campaign.shells[rank]->leave(world.clock().now());
}

}  // namespace

std::string text(const Fault& fault) {
  std::string who = fmt::format("rank {}", fault.rank);
  for (const int other : fault.also) who += fmt::format("+{}", other);
  return fmt::format("{} {} at {} #{}{}", fault.kind == Fault::Kind::kill ? "kill" : "stop", who,
                     name(fault.point), fault.hit,
                     fault.delay > 0 ? fmt::format(" + {} ns", fault.delay) : "");
}

namespace {

ElasticRun run_campaign(const app::Config& config, const ElasticOptions& options, HitTable* hits) {
  ElasticRun run;
  const auto ranks = static_cast<std::size_t>(options.ranks);
  run.summaries.resize(ranks);
  run.errors.resize(ranks);
  run.killed.resize(ranks);
  Campaign campaign{.options = options, .run = run, .claims = {}, .boards = {}, .hits = {}};
  campaign.hits.resize(ranks);
  campaign.shells.resize(ranks);
  member::View first;
  for (std::int32_t rank = 0; rank < options.ranks; ++rank) first.members.push_back(rank);
  for (std::size_t rank = 0; rank < ranks; ++rank)
    campaign.boards.push_back(std::make_unique<member::ViewBoard>(first));
  comm::SimulationOptions simulation{
      .ranks = options.ranks, .seed = options.seed, .latency_max = options.latency_max};
  simulation.probe = [&](int rank) -> ProbeHook {
    return [&campaign, rank](Point point) { campaign.pass(rank, point); };
  };
  simulation.agent = [&](comm::World& world, comm::ControlLinks& links) {
    const auto rank = static_cast<std::size_t>(world.world_rank());
    auto shell = std::make_unique<member::AgentShell>(
        member::AgentShell::Parts{.agent = {.world_rank = world.world_rank(),
                                            .world_size = options.ranks,
                                            .run = 1,
                                            .incarnation = rank + 1,
                                            .heartbeat = options.silence / 10,
                                            .silence = options.silence,
                                            .patience = options.patience,
                                            .claims = options.claims},
                                  .world = world,
                                  .links = links,
                                  .board = *campaign.boards[rank],
                                  .claims = options.claims ? &campaign.claims : nullptr});
    campaign.shells[rank] = shell.get();
    return shell;
  };
  simulation.control = [&](comm::SimulationControl& control) {
    campaign.control = &control;
    if (options.control) options.control(control);
  };
  const auto report =
      comm::simulate(simulation, [&](comm::World& world) { run_rank(config, campaign, world); });
  if (report)
    run.report = *report;
  else
    run.failure = report.error().text();
  if (hits != nullptr) *hits = std::move(campaign.hits);
  return run;
}

}  // namespace

ElasticRun train_elastic(const app::Config& config, const ElasticOptions& options) {
  return run_campaign(config, options, nullptr);
}

HitTable count_hits(const app::Config& config, const ElasticOptions& options) {
  HitTable hits;
  (void)run_campaign(config, options, &hits);
  return hits;
}

}  // namespace elaswave::test
