// What one rank builds before it meets the others: device, data, plan, trainer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "app/backends.h"
#include "app/device_lanes.h"
#include "app/options.h"
#include "app/rank_device.h"
#include "app/start.h"
#include "app/trainer.h"
#include "elastic/plan/healthy.h"
#include "io/base/file_system.h"
#include "io/data/token_file.h"
#include "parallel/comm/staged_world.h"

namespace elaswave::app {

/// Of the GPU that set_up() will take; nothing on a CPU.
GpuMemory gpu_of_this_rank(const Config& config);

struct LocalSetup {
  plan::Domains domains;    // given: by world rank
  plan::RankLimits limits;  // given: of memory, by world rank
  RunSpec spec;
  std::unique_ptr<RankDevice> device;
  // In front of the world where host code cannot touch the device's memory. Everything after set_up
  // goes through it.
  std::optional<comm::StagedWorld> staged;
  std::unique_ptr<comm::DeviceLanes> lanes;  // of the device; null on a CPU
  std::optional<data::TokenSet> train, val;
  std::unique_ptr<FileSystem> files = make_file_system();
  std::optional<CheckpointSetup> checkpoint;
  std::unique_ptr<Trainer> trainer;
  plan::HealthyPlan plan;
  spec::MemoryTable memory;  // planned, of the rank that needs most
  StartIdentity identity;
  std::vector<std::pair<std::string, double>> timeline;  // phase, ms
};

/// Fills `setup`, or says what is in the way: peers must hear of it (start.h), also of memory that
/// the system refuses. `stop` and `faults` as in TrainerParts.
std::optional<Error> set_up(const Settings& settings, comm::World& world, bool (*stop)(),
                            RankFaults faults, LocalSetup& setup);

}  // namespace elaswave::app
