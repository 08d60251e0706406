// Runs cases and holds them to the oracles.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/chaos/case.h"

namespace elaswave::test {

/// What was seen in a campaign.
struct Tally {
  std::int64_t runs = 0, repeated = 0, recoveries = 0;
  std::int64_t fired = 0, exposed = 0;  // faults
  std::int64_t lost = 0;      // runs that ended because blocks or ranks were gone, and might be
  std::int64_t alone = 0;     // runs that ended because no quorum was left
  std::int64_t excluded = 0;  // ranks that fenced themselves
  std::map<Point, std::int64_t> hits;
  void add(const ElasticRun& run);
};

/// How each rank ended, for people.
std::string ends(const ElasticRun& run);

/// THREADS: one.
class Bench {
 public:
  Bench();

  /// Called with true before something is run that others are held to, and with false after it.
  std::function<void(bool)> truth;

  ElasticRun run(const Case& what) const;
  /// Empty when the run is as it should be, else what is not.
  std::string judge(const Case& what, const ElasticRun& run);
  /// Hits of each point by each rank when nothing goes wrong; empty: this layout cannot be run.
  const HitTable& hits(const Case& what);
  /// Runs, judges and counts; a run in 20 is run twice and must be the same, event for event.
  std::string try_case(const Case& what);

  const Tally& tally() const { return tally_; }

 private:
  app::Config config_of(const Case& what) const;
  /// Undisturbed, on as few ranks as the tensor degree allows.
  const std::vector<app::StepReport>& reference(const Case& what);
  std::string judge_ends(const Case& what, const ElasticRun& run, bool& finished);
  std::string judge_steps(const Case& what, const ElasticRun& run, bool finished);

  TemporaryFolder folder_;
  std::map<std::string, std::vector<app::StepReport>> references_;
  std::map<std::string, HitTable> hits_;
  Tally tally_;
};

}  // namespace elaswave::test
