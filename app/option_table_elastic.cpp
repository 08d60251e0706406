// The keys of elastic.*.
#include "app/option_rows.h"

namespace elaswave::app {

void add_elastic(std::vector<Option>& table) {
  using E = Config::Elastic;
  constexpr auto kElastic = &Config::elastic;
  const auto free = ResumeClass::free;
  table.push_back({"elastic.enabled",
                   field<kElastic, &E::enabled>,
                   "",
                   {},
                   {},
                   free,
                   "go on when a rank fails; false: the run ends"});
  table.push_back({"elastic.copies",
                   field<kElastic, &E::copies>,
                   "copies",
                   between(0, 8),
                   {},
                   free,
                   "of master weights and moments, in other domains than their owner"});
  table.push_back({"elastic.domain",
                   field<kElastic, &E::domain>,
                   "",
                   {},
                   {},
                   free,
                   "what this rank fails together with; empty: its host"});
  table.push_back({"elastic.fill_mib",
                   field<kElastic, &E::fill_mib>,
                   "MiB",
                   between(0, 1'000'000),
                   {},
                   free,
                   "of state that a rank sends to new copies in one step; 0: all at once"});
  table.push_back({"elastic.rebalance",
                   field<kElastic, &E::rebalance>,
                   "",
                   {},
                   {},
                   free,
                   "slow ranks get fewer micro-batches, their siblings more"});
  table.push_back({"elastic.scrub_steps",
                   field<kElastic, &E::scrub_steps>,
                   "steps",
                   at_least(0),
                   {},
                   free,
                   "in which every copy is compared with its owner once; 0: never"});
  // Times are held in nanoseconds in an int64: a day leaves room for sums.
  table.push_back({"elastic.heartbeat_ms",
                   field<kElastic, &E::heartbeat_ms>,
                   "ms",
                   between(1, 60'000),
                   {},
                   free,
                   "between signs of life of a quiet rank"});
  table.push_back({"elastic.silence_ms",
                   field<kElastic, &E::silence_ms>,
                   "ms",
                   between(10, 86'400'000),
                   {},
                   free,
                   "a rank that gives no sign for so long is voted out"});
  table.push_back({"elastic.patience_ms",
                   field<kElastic, &E::patience_ms>,
                   "ms",
                   between(10, 86'400'000),
                   {},
                   free,
                   "a rank that cannot reach enough others for so long leaves"});
  table.push_back({"elastic.hang_ms",
                   field<kElastic, &E::hang_ms>,
                   "ms",
                   between(0, 86'400'000),
                   {},
                   free,
                   "a rank that waits for nobody and does nothing for so long, and for 8 times its "
                   "longest pause so far, ends; 0: never"});
}

}  // namespace elaswave::app
