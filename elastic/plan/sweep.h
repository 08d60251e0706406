// All layouts that a number of ranks allows, ranked. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "elastic/plan/evaluate.h"

namespace elaswave::plan {

/// Chunks of a stage are tried up to this number: bubbles shrink with 1 / chunks, messages grow.
inline constexpr std::int32_t kMostSweptChunks = 4;
/// Stages of unequal numbers of replicas are tried up to so many replicas in all: they have no
/// equal pipelines to stand for the rest. And up to so many forwards a step, over all chunks.
inline constexpr std::int32_t kMostUnevenReplicas = 64;
inline constexpr std::int64_t kMostUnevenForwards = 5'000;

struct SweepRequest {
  const spec::ModelConfig& config;
  std::int32_t world_size = 1;
  std::int64_t micro_batch = 1;  // samples
  std::int64_t micro_batches = 1;
  DType storage = DType::f32;
  spec::Operands operands = spec::Operands::stored;
  spec::SumWidth sums = spec::SumWidth::exact;
  spec::CheckpointImage checkpoints = spec::CheckpointImage::none;
  std::int64_t copies = 0;  // of each block beside its owner's
  double memory_limit = 0;  // bytes of a rank, of the host where the device has its own; 0: none
  double gpu_limit = 0;     // of the device
  CostProfile profile;
  std::int64_t loss_chunk_tokens = 0;  // as in spec::MemoryModel
  spec::DeviceMemory device = spec::DeviceMemory::shared;
};

struct SweepEntry {
  std::int32_t tensor = 1, pipeline = 1, chunks = 1;
  std::string schedule;  // as in parallel.schedule
  spec::Recompute recompute = spec::Recompute::none;
  bool uneven = false;  // stages differ in replicas
  StepPrediction step;
  /// Of the worst rank, bytes: all, or of the device where that has its own.
  double memory = 0;
  std::int32_t worst_stage = 0;
  spec::MemoryTerm largest = spec::MemoryTerm::weights;  // of its terms
};

/// (tp, pp, chunks) that were not tried because of the limits above.
struct LeftOut {
  std::int64_t uneven = 0, chunks = 0;
  bool any() const { return uneven + chunks > 0; }
};

struct Sweep {
  std::vector<SweepEntry> fitting;    // fastest first
  std::vector<SweepEntry> too_large;  // smallest first
  LeftOut left_out;
};

/// Tensor degrees that divide world and model, every number of stages and chunks that layers and
/// ranks allow (see the limits above), every published schedule whose precondition holds, `auto`
/// where stages differ, all three kinds of recompute. A single stage has one chunk, 1F1B and no
/// full recompute, which would recompute nothing. Equals are ordered by memory, then as tried.
/// Schedules are not proved here: that is done when one of them is planned.
///
/// ERRORS: when nothing could be evaluated, why the first layout was refused (Code::usage).
Result<Sweep> sweep(const SweepRequest& request);

}  // namespace elaswave::plan
