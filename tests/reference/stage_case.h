// A step of a small model in any order of actions, over any cut into chunks and stages, on one
// slice of any number: what the tests of the stage and of its slices run and compare.
#pragma once

#include <cstdint>
#include <vector>

#include "model/gpt/stage.h"
#include "model/kernels/cpu_ops.h"
#include "model/spec/config.h"
#include "parallel/layout/action.h"

namespace elaswave::test {

/// A counter on a stream of random words.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : stream_(random_stream(seed, RandomUse::test)) {}
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(random_word(stream_, next_++)) % limit;
  }

 private:
  RandomStream stream_;
  std::uint64_t next_ = 0;
};

inline constexpr float kDropoutRate = 0.25f;  // in training, of every other model

struct SmallModel {
  spec::ModelConfig config;
  std::int64_t samples = 2;  // of a micro-batch
  std::int32_t micro_batches = 3;
  std::uint64_t seed = 1;
  std::int64_t loss_chunk_tokens = kernels::kCpuLossChunkTokens;
  float perturbation = 0;  // largest relative change of each weight, at random
};
SmallModel random_model(std::uint64_t seed, std::int64_t heads_multiple = 1);

inline std::int64_t head_addends(const SmallModel& model) {
  return kernels::loss_contributions(model.samples * model.config.context, model.loss_chunk_tokens);
}

/// Chunks as ranges of layers.
using Cut = std::vector<layout::LayerRange>;
/// Every way to cut `layers` layers into consecutive chunks: 2^(layers - 1) of them.
std::vector<Cut> all_cuts(std::int32_t layers);

enum class Backward { fused, split, mixed };

/// What runs where, and in which order: valid, otherwise random. Slots are the lowest free ones.
struct StepPlan {
  Cut cut;
  std::vector<std::int32_t> stage_of_chunk;
  std::vector<pipeline::Slots> slots;  // of each chunk
  std::vector<pipeline::Task> tasks;   // without matrices
  layers::Recompute recompute = layers::Recompute::none;
};
StepPlan random_plan(const Cut& cut, std::int32_t micro_batches, Backward backward,
                     layers::Recompute recompute, std::uint64_t seed);

/// Sums of all stages in units of 2^-40, [canonical tensor][element].
using CanonicalSums = std::vector<std::vector<std::int64_t>>;
struct StepResult {
  std::vector<std::vector<float>> losses;  // [micro-batch][token]
  std::vector<std::vector<float>> validation;
  CanonicalSums sums;  // this slice's part of them
  bool operator==(const StepResult&) const = default;
};

/// Runs the plan on the layers of one slice, and forward passes for validation after it. Checks, as
/// test failures, that no action reads memory nobody wrote, and that sums are announced once, when
/// they are complete.
StepResult run_step(const SmallModel& model, const StepPlan& plan, comm::SliceGroup* slices);

/// One chunk, one micro-batch after the other, nothing split: gpt::WholeModel.
StepResult run_whole(const SmallModel& model);

/// Adds the sums of another slice.
void add_slice(CanonicalSums& sums, const CanonicalSums& slice);

}  // namespace elaswave::test
