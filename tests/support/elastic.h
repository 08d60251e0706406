// Training runs in the simulated world with agents and faults: what the campaigns are made of.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "elastic/chaos/faults.h"
#include "elastic/member/agent_shell.h"
#include "tests/support/training.h"

namespace elaswave::test {

/// Comes over `rank` at the `hit`-th time that it passes `point`, counted from when all ranks
/// train.
struct Fault {
  enum class Kind : std::uint8_t {
    kill,
    stop,   // and nobody lets it go on
    pause,  // goes on after `lasts`
    cut     // off from all ranks but those in `also`, until it is healed after `lasts`
  } kind = Kind::kill;
  int rank = 0;
  Point point = Point::step_begin;
  std::int64_t hit = 1;   // counted over the whole run
  Nanoseconds delay = 0;  // after the hit
  Nanoseconds lasts = 0;
  /// Waits for the first hit from then on at which the copies of all earlier victims are whole.
  bool when_whole = false;
  std::vector<int> also;  // ranks that share its fate: a domain
  bool operator==(const Fault&) const = default;
};
std::string_view name(Fault::Kind kind);
std::string text(const Fault& fault);

struct ElasticOptions {
  int ranks = 8;
  std::uint64_t seed = 1;
  std::vector<Fault> faults;
  chaos::Faults copies_spoiled;  // chaos.corrupt=what=copy
  plan::Domains domains;
  plan::RankLimits limits;  // of memory
  bool claims = true;
  app::MakeRankDevice make_device = &app::make_cpu_rank;
  std::int64_t fill_elems = 0;
  std::int32_t copies = 1;  // as the configuration has it: what may be lost depends on it
  Nanoseconds silence = 50 * kMillisecond;
  Nanoseconds patience = 500 * kMillisecond;
  Nanoseconds latency_max = 50'000;
  FileSystem* files = nullptr;
  std::function<void(comm::SimulationControl&)> control;  // more faults; may be empty
  MakeLanes make_lanes;                                   // empty: none
};

struct ElasticRun {
  std::vector<app::StepReport> steps;  // as the reporters wrote them, one after the other
  std::vector<std::optional<app::RunSummary>> summaries;  // by rank; none: killed, fenced, failed
  std::vector<std::optional<Error>> errors;
  std::vector<bool> killed;
  std::vector<bool> stopped;                        // for good
  std::vector<recover::RecoveryReport> recoveries;  // of the reporters
  std::int64_t redundancies = 0;                    // times that full redundancy came back
  std::int64_t fired = 0;                           // faults
  std::int64_t fired_exposed = 0;       // those that came before the copies were whole again
  std::int64_t disturbed = 0;           // those that leave ranks alive and silent
  std::set<int> struck;                 // ranks that some fault may have taken from the others
  std::map<int, std::set<int>> across;  // by rank: as many as its own half that a cut took from it
  std::vector<std::optional<Nanoseconds>> ended_at;  // by rank: left, or was killed
  std::int64_t most_open = 0;          // domains struck and not yet made up for, at once
  Generation newest{};                 // view that any agent decided
  Generation recovered{};              // of the newest recovery that anybody finished
  Step recovered_at{};                 // the state it went on from
  Generation whole{};                  // of the newest recovery after which all copies followed
  std::map<Point, std::int64_t> hits;  // by all ranks
  comm::SimulationReport report;
  std::string failure;  // of the simulation itself: deadlock, livelock, an exception
  std::string wrong;    // the first thing a rank did that none may ever do
};

ElasticRun train_elastic(const app::Config& config, const ElasticOptions& options);

/// Hits of each point by each rank in a run without faults: what there is to choose from.
using HitTable = std::vector<std::map<Point, std::int64_t>>;
HitTable count_hits(const app::Config& config, const ElasticOptions& options);

}  // namespace elaswave::test
