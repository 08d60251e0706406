// Tiny training runs for tests: a token file, a configuration, and runs in the simulated world.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/config.h"
#include "app/rank_device.h"
#include "app/trainer.h"
#include "model/kernels/cpu_ops.h"
#include "parallel/comm/simulation.h"

namespace elaswave::test {

/// A folder that goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Writes `count` tokens below `vocab` that a model can learn something from, as a headerless u16
/// file.
void write_tokens(const std::string& path, std::int64_t count, std::int64_t vocab);

/// 2 layers, 2 heads, hidden 16, context 7, vocabulary 37, dropout on, decay, clip; 6 steps of 5
/// micro-batches of 2. With data.val set, runs validate as train.val_* say.
app::Config tiny_config(const std::string& train_file);

struct SimulatedRun {
  std::vector<app::StepReport> steps;  // rank 0's
  app::RunSummary summary;
  Step resumed{};  // 0: from the start
  comm::SimulationReport report;
  std::vector<std::optional<Error>> errors;  // by rank; empty when the rank ended well
};

/// A rank's lanes; the worlds (`front` is before `world`, or is it) and the machine outlive them.
using MakeLanes = std::function<std::unique_ptr<comm::DeviceLanes>(
    comm::World& world, comm::World& front, const kernels::Machine& machine)>;

struct SimulatedWorld {
  int ranks = 1;
  int threads = 1;  // compute threads of each rank
  app::MakeRankDevice make_device = &app::make_cpu_rank;
  std::uint64_t seed = 1;
  std::int64_t loss_chunk_tokens = 0;  // 0: as device.kind has it
  FileSystem* files = nullptr;         // for checkpoints, in kCheckpoints; null: none
  FileSystem* other_files = nullptr;   // what all ranks but the lowest see instead; null: the same
  const layout::Plan* plan = nullptr;  // null: the healthy one
  bool (*stop)() = nullptr;            // asked by rank `stop_rank` alone
  int stop_rank = 0;
  std::function<ProbeHook(int world_rank)> probe;  // as SimulationOptions'
  MakeLanes make_lanes;                            // empty: none
};

/// Where checkpoints of test runs go.
inline constexpr const char* kCheckpoints = "/run/checkpoints";

/// Trains as one rank of `world`, with any transport, and closes it.
struct RankRun {
  std::vector<app::StepReport> steps;
  app::RunSummary summary;
  Step resumed{};  // 0: from the start
};
struct RankOptions {
  int threads = 1;  // compute threads
  kernels::Isa isa = kernels::Isa::automatic;
  app::MakeRankDevice make_device = &app::make_cpu_rank;
  std::int64_t loss_chunk_tokens = 0;  // 0: as device.kind has it
  FileSystem* files = nullptr;         // for checkpoints; null: none
  checkpoint::Beside beside = checkpoint::Beside::caller;
  const layout::Plan* plan = nullptr;     // null: the healthy one
  bool (*stop)() = nullptr;               // as TrainerParts'
  bool close = true;                      // the world, after the run
  member::ViewBoard* board = nullptr;     // where the rank's agent posts views; null: none
  app::StepObserver* observer = nullptr;  // null: steps are recorded in the result
  plan::Domains domains;
  plan::RankLimits limits;
  std::int64_t fill_elems = 0;
  app::RankFaults faults;
  MakeLanes make_lanes;  // empty: none
};
Result<RankRun> train_rank(const app::Config& config, const RankOptions& options,
                           comm::World& world);

/// Replaces token `index` of a file made by write_tokens().
void set_token(const std::string& path, std::int64_t index, std::uint16_t token);

/// Trains in the simulated world; a run that cannot even start is a test failure by exception.
SimulatedRun train_simulated(const app::Config& config, const SimulatedWorld& world);

}  // namespace elaswave::test
