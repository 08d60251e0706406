// A configuration resolved into what a run needs: model, batch geometry, optimizer. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "app/config.h"
#include "elastic/plan/backups.h"
#include "elastic/plan/budget.h"
#include "io/base/clock.h"
#include "io/base/error.h"
#include "model/layers/context.h"
#include "model/optim/commit.h"
#include "model/spec/config.h"
#include "model/spec/memory.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/zero/store.h"

namespace elaswave::app {

enum class NonFinite { stop, skip };

/// Equal on all ranks: taking a checkpoint is collective.
struct CheckpointSpec {
  std::string directory;  // that holds step-*; empty: no checkpoints
  std::int64_t every = 0;
  bool last = true;
  std::int64_t keep = 3, keep_every = 0;
  bool verify = true;
};

/// How the work is laid out: nothing of it changes the trained bits, but for the tensor degree.
struct LayoutSpec {
  std::int32_t tensor = 1;                     // degree
  std::int32_t pipeline = 1;                   // stages
  std::int32_t chunks = 1;                     // of each stage
  std::optional<pipeline::Schedule> schedule;  // nothing: the best that the layout allows
};

/// What is kept against failures: nothing of it changes the trained bits. Equal on all ranks.
struct ElasticSpec {
  std::int32_t copies = 1;       // of each block beside its owner's; 0 without recovery
  std::int64_t fill_elems = 0;   // sent by an owner to new copies in a step, at most; 0: no limit
  bool rebalance = false;        // shares follow measured speed
  std::int64_t scrub_steps = 0;  // copies are compared once in so many steps; 0: never
  plan::Domains domains;         // by world rank; empty: every rank fails alone
  plan::RankLimits limits;       // of memory, by world rank; empty: nobody has any
};

struct RunSpec {
  spec::ModelConfig model;
  DType storage = DType::f32;  // of activations and matrices
  spec::Operands operands = spec::Operands::stored;
  spec::DeviceMemory device_memory = spec::DeviceMemory::shared;
  zero::SumMode sum_mode = zero::SumMode::exact;
  optim::AdamWConfig adamw;
  NonFinite non_finite = NonFinite::stop;
  LayoutSpec layout;
  layers::Recompute recompute = layers::Recompute::none;
  /// Rows of logits at once: by device.kind, so the numeric class tells of another.
  std::int64_t loss_chunk_tokens = kernels::kCpuLossChunkTokens;
  std::uint64_t seed = 0;
  std::int64_t steps = 0;          // the last step
  std::int64_t stop_at = 0;        // 0: never; otherwise stop after this step as if asked
  std::int64_t micro_batch = 0;    // samples
  std::int64_t micro_batches = 0;  // G
  std::int64_t val_every = 0;
  std::int64_t val_batches = 0;  // micro-batches; 0: the whole file
  bool val_last = true;
  std::int64_t digest_every = 0;
  CheckpointSpec checkpoint;
  ElasticSpec elastic;
  Nanoseconds timeout = 0;  // of any single wait

  std::int64_t global_batch() const { return micro_batch * micro_batches; }
  std::int64_t tokens_per_micro_batch() const { return micro_batch * model.context; }
  /// Addends of the head to an element of the tied embedding in a micro-batch.
  std::int64_t head_addends() const {
    return kernels::loss_contributions(tokens_per_micro_batch(), loss_chunk_tokens);
  }
  std::int64_t tokens_per_step() const { return global_batch() * model.context; }

  /// Everything that the trained bits depend on, apart from data and numeric class: ranks compare
  /// its hash at start.
  std::uint64_t recipe_hash() const;
};

/// The preset with the single sizes put over it, validated.
Result<spec::ModelConfig> resolve_model(const Config::Model& model);

/// Also checks the model's shape and that the exact sums can hold the run's gradients.
/// REQUIRES: train.global_batch is a multiple of train.micro_batch (cross_check() in options.h sees
/// to it).
Result<RunSpec> resolve(const Config& config);

}  // namespace elaswave::app
