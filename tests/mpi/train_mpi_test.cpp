// Under mpirun: training over MPI and in the simulated world gives one digest, every step compared.
// The simulated runs of several sizes are made by rank 0 after the real one; the verdict is its
// exit code.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "parallel/comm/group.h"
#include "parallel/comm/world_mpi.h"
#include "tests/support/training.h"

namespace elaswave {
namespace {

constexpr int kPathBytes = 256;

/// Rank 0 makes the folder and the token file; the others learn its name.
Result<std::string> share_folder(comm::World& world, const std::string& mine) {
  char path[kPathBytes] = {};
  std::snprintf(path, sizeof path, "%s", mine.c_str());
  EW_TRY(comm::broadcast(world, comm::everyone(world), 0, std::as_writable_bytes(std::span(path)),
                         "folder name", Deadline::after(world.clock(), 30 * kSecond)));
  return std::string(path);
}

int compare(const test::RankRun& real, const app::Config& config) {
  int differences = 0, runs = 0;
  for (const int ranks : {1, 2, 3, 5, 8}) {
    const test::SimulatedRun simulated = test::train_simulated(config, {.ranks = ranks});
    ++runs;
    if (simulated.steps.size() != real.steps.size()) ++differences;
    for (std::size_t i = 0; i < std::min(simulated.steps.size(), real.steps.size()); ++i) {
      const app::StepReport& a = real.steps[i];
      const app::StepReport& b = simulated.steps[i];
      if (a.digest != b.digest || a.record.loss != b.record.loss ||
          a.record.grad_norm != b.record.grad_norm || a.record.sample_hash != b.record.sample_hash)
        ++differences;
    }
  }
  std::printf(
      "campaign: %d simulated runs against a real one of %zu ranks, %zu steps, %d differences\n",
      runs, real.summary.work.size(), real.steps.size(), differences);
  return differences == 0 && !real.steps.empty() ? 0 : 1;
}

Result<int> run() {
  EW_ASSIGN(const std::unique_ptr<comm::World> world, comm::make_mpi_world({.checksum = true}));
  test::TemporaryFolder folder;
  EW_ASSIGN(const std::string shared, share_folder(*world, folder.path()));
  const std::string file = shared + "/train.bin";
  if (world->world_rank() == 0) test::write_tokens(file, 2000, 37);
  std::int64_t ready = 1;  // nobody opens the file before it is written
  EW_TRY(comm::all_reduce_sum(*world, comm::everyone(*world), std::span(&ready, 1), "token file",
                              Deadline::after(world->clock(), 30 * kSecond)));
  const app::Config config = test::tiny_config(file);
  EW_ASSIGN(const test::RankRun real, test::train_rank(config, {.threads = 1}, *world));
  return world->world_rank() == 0 ? compare(real, config) : 0;
}

}  // namespace
}  // namespace elaswave

int main() {
  const auto result = elaswave::run();
  if (!result) std::fprintf(stderr, "%s\n", result.error().text().c_str());
  return result ? *result : 1;
}
