#include "tests/support/elastic.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "elastic/chaos/injector.h"
#include "tests/support/watched_world.h"

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
  Watch& watch;
  comm::SimulationControl* control = nullptr;
  SharedClaims claims;
  std::vector<std::unique_ptr<member::ViewBoard>> boards;
  std::vector<member::AgentShell*> shells;
  std::vector<chaos::Injector> injectors;
  HitTable hits;
  std::set<int> training;  // ranks that began their first step
  // Struck and, as far as anybody knows, still a member whose blocks count.
  std::set<int> open;
  /// Halves cut off from each other of which it is not known yet which one the views leave out.
  struct Halves {
    std::vector<int> one, other;
  };
  std::vector<Halves> ties;
  std::set<int> out;              // of the view, for good, whether they live or not
  std::vector<Generation> whole;  // by rank: the newest recovery after which it saw all copies
  Step written{};                 // newest step that a reporter wrote

  std::int32_t domain_of(int rank) const {
    return options.domains.empty() ? rank : options.domains[static_cast<std::size_t>(rank)];
  }

  bool exposed() const { return !open.empty() || !ties.empty(); }

  /// How many domains are open: what copies must make up for. Where fewer domains are left than
  /// copies want, ranks count.
  std::int64_t open_domains(const std::set<int>& gone) const {
    std::set<std::int32_t> left, struck;
    for (int rank = 0; rank < options.ranks; ++rank)
      if (gone.contains(rank) || (control->alive(rank) && !out.contains(rank)))
        left.insert(domain_of(rank));
    for (const int rank : gone) struck.insert(domain_of(rank));
    return std::ssize(left) > options.copies ? std::ssize(struck) : std::ssize(gone);
  }

  /// However the ties end: of each pair of halves one goes too.
  std::int64_t most_open() const {
    std::vector<std::set<int>> ways{open};
    for (const Halves& tie : ties)
      for (std::size_t left = ways.size(); left-- > 0;) {
        ways.push_back(ways[left]);
        ways.back().insert(tie.other.begin(), tie.other.end());
        ways[left].insert(tie.one.begin(), tie.one.end());
      }
    std::int64_t most = 0;
    for (const std::set<int>& gone : ways) most = std::max(most, open_domains(gone));
    return most;
  }

  void strike(const Fault& fault) {
    std::vector<int> victims = fault.also;
    victims.push_back(fault.rank);  // last: a rank that kills itself does nothing afterwards
    std::erase_if(victims, [this](int rank) { return !control->alive(rank); });
    if (victims.empty()) return;
    ++run.fired;
    if (exposed()) ++run.fired_exposed;
    if (fault.kind != Fault::Kind::kill) ++run.disturbed;
    std::vector<int> others;
    for (int rank = 0; rank < options.ranks; ++rank)
      if (control->alive(rank) && std::ranges::find(victims, rank) == victims.end())
        others.push_back(rank);
    const bool is_cut = fault.kind == Fault::Kind::cut;
    // Whoever is fewer goes; of two halves either may.
    const std::vector<int>& go = is_cut && others.size() < victims.size() ? others : victims;
    run.struck.insert(go.begin(), go.end());
    if (is_cut && others.size() == victims.size())
      halve(victims, others);
    else
      open.insert(go.begin(), go.end());
    run.most_open = std::max(run.most_open, most_open());
    if (is_cut)
      cut(fault, victims, others);
    else
      for (const int victim : victims) halt(fault, victim);
  }

  void halve(const std::vector<int>& one, const std::vector<int>& other) {
    ties.push_back({one, other});
    for (const int rank : one) run.across[rank].insert(other.begin(), other.end());
    for (const int rank : other) run.across[rank].insert(one.begin(), one.end());
  }

  void halt(const Fault& fault, int victim) {
    const auto index = static_cast<std::size_t>(victim);
    if (fault.kind == Fault::Kind::kill) {
      run.killed[index] = true;
      run.ended_at[index] = control->now();
      watch.end(victim);
      control->kill(victim);
      return;
    }
    run.stopped[index] = fault.kind == Fault::Kind::stop;
    if (fault.kind == Fault::Kind::pause)
      control->at(control->now() + fault.lasts, [this, victim] { control->go_on(victim); });
    control->stop(victim);
  }

  void cut(const Fault& fault, const std::vector<int>& victims, const std::vector<int>& others) {
    const auto for_all = [this, victims, others](void (comm::SimulationControl::*what)(int, int)) {
      for (const int one : victims)
        for (const int other : others) (control->*what)(one, other);
    };
    for_all(&comm::SimulationControl::cut);
    control->at(control->now() + fault.lasts,
                [for_all] { for_all(&comm::SimulationControl::heal); });
  }

  std::set<std::size_t> struck_with;  // faults that have come

  /// Points count once every rank trains: what goes wrong at the start ends the run.
  void pass(int rank, Point point) {
    if (point == Point::step_begin) training.insert(rank);
    if (std::ssize(training) < options.ranks) return;
    const std::int64_t hit = ++hits[static_cast<std::size_t>(rank)][point];
    ++run.hits[point];
    for (std::size_t index = 0; index < options.faults.size(); ++index) {
      const Fault& fault = options.faults[index];
      if (fault.rank != rank || fault.point != point || hit < fault.hit) continue;
      if (struck_with.contains(index) || (fault.when_whole ? exposed() : hit > fault.hit)) continue;
      struck_with.insert(index);
      if (fault.delay == 0)
        strike(fault);
      else
        control->at(control->now() + fault.delay, [this, &fault] { strike(fault); });
    }
  }

  /// A rank sees all copies. What was struck before is made up for once all members see it.
  void see_whole(int rank, const recover::RecoveryReport& report) {
    run.whole = std::max(run.whole, report.generation);
    whole[static_cast<std::size_t>(rank)] = report.generation;
    for (const std::int32_t seen : report.members)
      if (whole[static_cast<std::size_t>(seen)] < report.generation && !open.contains(seen)) return;
    const auto stays = [&](int one) {
      return std::ranges::find(report.members, one) != report.members.end();
    };
    for (int other = 0; other < options.ranks; ++other)
      if (!stays(other)) out.insert(other);
    std::erase_if(open, [&](int struck) { return !stays(struck); });
    std::erase_if(ties, [&](const Halves& tie) {
      return std::ranges::none_of(tie.one, stays) || std::ranges::none_of(tie.other, stays);
    });
  }
};

/// What the reporter of a real run does with its files: the lowest member writes, and a new one
/// first writes what its predecessor did not get to. Looks for what no observer may be told.
class Writer final : public app::StepObserver {
 public:
  Writer(Campaign& campaign, WatchedWorld& world)
      : campaign_(campaign), world_(world), reports_(world.world_rank() == 0) {}

  Result<void> on_step(const app::StepReport& report) override {
    look_at(report);
    told_ = report.record.version.step;
    last_ = report;
    // The predecessor may have written it before it died.
    if (reports_ && report.record.version.step > campaign_.written) write(report);
    return {};
  }
  Result<void> on_view(const std::vector<std::int32_t>& members) override {
    const bool now = members.front() == world_.world_rank();
    if (now && !reports_ && last_ && last_->record.version.step > campaign_.written) write(*last_);
    reports_ = now;
    return {};
  }
  void on_recovery(const recover::RecoveryReport& report) override {
    if (report.generation > campaign_.run.recovered) campaign_.run.recovered_at = report.step;
    campaign_.run.recovered = std::max(campaign_.run.recovered, report.generation);
    if (reports_) campaign_.run.recoveries.push_back(report);
  }
  void on_redundancy(const recover::RecoveryReport& report) override {
    campaign_.see_whole(world_.world_rank(), report);
    if (reports_) ++campaign_.run.redundancies;
  }

 private:
  void look_at(const app::StepReport& report) {
    const Version& version = report.record.version;
    const auto note = [&](std::string_view what) {
      campaign_.watch.note(
          fmt::format("rank {} tells step {} {}", world_.world_rank(), raw(version.step), what));
    };
    if (world_.aborted()) note("after it was voted out of its view");
    if (version.step <= told_) note("twice");
    if (version.step > next(told_)) note("and left one out");
    // A step that was rolled forward has no duration, and its record an older generation.
    if (report.duration > 0 && version.generation != world_.generation())
      note(fmt::format("of generation {} in generation {}", raw(version.generation),
                       raw(world_.generation())));
  }
  void write(const app::StepReport& report) {
    campaign_.run.steps.push_back(report);
    campaign_.written = report.record.version.step;
  }

  Campaign& campaign_;
  WatchedWorld& world_;
  bool reports_;
  Step told_{};
  std::optional<app::StepReport> last_;
};

app::RankFaults faults_of(chaos::Injector& injector) {
  if (!injector.hook()) return {};
  return {.slow_factor = {},
          .spoils_copy = [&injector] { return injector.corrupts(chaos::Target::copy); },
          .went_back = [&injector](Step step) { injector.at_step(step); }};
}

void run_rank(const app::Config& config, Campaign& campaign, comm::World& inner) {
  const ElasticOptions& options = campaign.options;
  WatchedWorld world(inner, campaign.watch);
  const auto rank = static_cast<std::size_t>(world.world_rank());
  Writer writer(campaign, world);
  auto done = train_rank(config,
                         {.make_device = options.make_device,
                          .files = options.files,
                          .board = campaign.boards[rank].get(),
                          .observer = &writer,
                          .domains = options.domains,
                          .limits = options.limits,
                          .fill_elems = options.fill_elems,
                          .faults = faults_of(campaign.injectors[rank]),
                          .make_lanes = options.make_lanes},
                         world);
  if (done)
    campaign.run.summaries[rank] = std::move(done->summary);
  else
    campaign.run.errors[rank] = std::move(done).error();
  campaign.run.ended_at[rank] = campaign.control->now();
  campaign.shells[rank]->leave(world.clock().now());
}

}  // namespace

std::string_view name(Fault::Kind kind) {
  constexpr std::string_view names[] = {"kill", "stop", "pause", "cut"};
  return names[static_cast<std::size_t>(kind)];
}

std::string text(const Fault& fault) {
  std::string who = fmt::format("rank {}", fault.rank);
  for (const int other : fault.also) who += fmt::format("+{}", other);
  return fmt::format("{} {} at {} #{}{}{}", name(fault.kind), who, name(fault.point), fault.hit,
                     fault.delay > 0 ? fmt::format(" + {} ns", fault.delay) : "",
                     fault.lasts > 0 ? fmt::format(" for {} ns", fault.lasts) : "");
}

namespace {

ElasticRun run_campaign(const app::Config& config, const ElasticOptions& options, HitTable* hits) {
  ElasticRun run;
  const auto ranks = static_cast<std::size_t>(options.ranks);
  run.summaries.resize(ranks);
  run.errors.resize(ranks);
  run.ended_at.resize(ranks);
  run.killed.resize(ranks);
  run.stopped.resize(ranks);
  Watch watch(options.ranks, config.comm.timeout_ms * kMillisecond);
  Campaign campaign{.options = options, .run = run, .watch = watch};
  campaign.whole.resize(ranks);
  campaign.hits.resize(ranks);
  campaign.shells.resize(ranks);
  member::View first;
  for (std::int32_t rank = 0; rank < options.ranks; ++rank) first.members.push_back(rank);
  for (std::size_t rank = 0; rank < ranks; ++rank)
    campaign.boards.push_back(std::make_unique<member::ViewBoard>(first));
  for (std::int32_t rank = 0; rank < options.ranks; ++rank)
    campaign.injectors.emplace_back(
        options.copies_spoiled,
        chaos::Self{.world_rank = rank, .world_size = options.ranks, .domain = ""},
        chaos::Effects{}, Step{0});
  comm::SimulationOptions simulation{
      .ranks = options.ranks, .seed = options.seed, .latency_max = options.latency_max};
  simulation.probe = [&](int rank) -> ProbeHook {
    return [&campaign, rank](Point point) {
      probe(campaign.injectors[static_cast<std::size_t>(rank)].hook(), point);
      campaign.pass(rank, point);
    };
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
  run.wrong = watch.wrong;
  for (const auto& board : campaign.boards)
    run.newest = std::max(run.newest, board->newest().view.generation);
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
