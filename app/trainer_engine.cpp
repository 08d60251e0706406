// The engines of a run, one for each plan, and the memory they take.
#include <utility>

#include "app/trainer.h"

namespace elaswave::app {

void Trainer::make_engine(const layout::Plan& plan, std::vector<replica::Copy> missing) {
  parts_.machine.ops.release_memory(parts_.machine.stream);  // of another plan's shapes
  try {
    engine_ = std::make_unique<Engine>(EngineParts{.world = parts_.world,
                                                   .spec = spec_,
                                                   .inventory = inventory_,
                                                   .blocks = blocks_,
                                                   .machine = parts_.machine,
                                                   .shard = shard_,
                                                   .slow_factor = parts_.faults.slow_factor,
                                                   .plan = plan,
                                                   .missing = std::move(missing),
                                                   .lanes = parts_.lanes},
                                       std::move(engine_));
  } catch (const device::OutOfMemory& full) {
    refused_ = memory_refused(spec_, plan, parts_.world.world_rank(), full.what());
    throw;
  }
}

spec::MemoryTable Trainer::memory() const {
  using enum spec::MemoryTerm;
  const auto owned = static_cast<double>(shard_.owned_bytes());
  spec::MemoryTable use;
  use[optimizer] = owned * 3 / 4;
  use[log] = owned / 4;
  use[backups] = static_cast<double>(shard_.size_bytes()) - owned;
  engine_->add_memory(use);
  if (checkpointer_) use[checkpoint] = static_cast<double>(checkpointer_->counts().bytes);
  return use;
}

}  // namespace elaswave::app
