// Metric: simulated training runs a second on one core: 8 ranks of a tiny model (2 layers, hidden
// 16), 6 steps, digests every step, a new scheduler seed each run. Usage: schedule_bench [RUNS]
#include <cstdio>
#include <cstdlib>
#include <set>

#include "tests/support/training.h"

int main(int argc, char** argv) {
  using namespace elaswave;
  const int runs = argc > 1 ? std::atoi(argv[1]) : 300;
  test::TemporaryFolder folder;
  test::write_tokens(folder.file("train.bin"), 2000, 37);
  const app::Config config = test::tiny_config(folder.file("train.bin"));
  RealClock clock;
  const Nanoseconds begin = clock.now();
  std::set<std::uint64_t> digests;
  std::int64_t chunks = 0, switches = 0;
  for (int run = 0; run < runs; ++run) {
    const test::SimulatedRun result =
        test::train_simulated(config, {.ranks = 8, .seed = static_cast<std::uint64_t>(run) + 1});
    digests.insert(result.summary.digest);
    chunks += result.report.chunks;
    switches += result.report.switches;
  }
  const double seconds = static_cast<double>(clock.now() - begin) / static_cast<double>(kSecond);
  std::printf(
      "%d runs in %.2f s: %.0f schedules/s; %lld chunks and %lld switches a run; %zu digest\n",
      runs, seconds, runs / seconds, static_cast<long long>(chunks / runs),
      static_cast<long long>(switches / runs), digests.size());
  return digests.size() == 1 ? 0 : 1;
}
