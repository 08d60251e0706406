// What layers cost: counted, or measured on a machine. Pure; what plans are made from is integers,
// so ranks that agree on the model and the profile agree on the plan.
#pragma once

#include <cstdint>
#include <vector>

#include "model/spec/config.h"
#include "model/spec/stash.h"
#include "parallel/layout/plan.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::plan {

/// By layer, for one micro-batch on one slice; any unit of time, but one.
struct LayerCosts {
  std::vector<pipeline::ChunkCost> layers;
  std::int64_t message = 0;  // between chunks on different replicas

  /// F + I + W, and R under full recompute.
  std::int64_t of_layer(std::int32_t layer, spec::Recompute recompute) const;
};

/// Counted floating-point operations (spec/flops.h), scaled to about 10^9 over the model, none
/// below 1; messages cost nothing. For want of anything measured.
LayerCosts counted_costs(const spec::ModelConfig& config);

pipeline::Costs chunk_costs(const LayerCosts& costs,
                            const std::vector<std::int32_t>& chunk_of_layer, std::int32_t chunks);

/// Computing times by kind of layer, in nanoseconds, of a micro-batch of `tokens` on one of
/// `tensor` slices, waiting for peers left out; and how fast ranks reach each other.
struct CostProfile {
  std::int64_t tokens = 0;
  std::int64_t tensor = 1;
  pipeline::ChunkCost embedding, block, head;
  std::int64_t latency = 0;     // of a message, ns
  double bytes_per_second = 0;  // of a rank, each way; 0: moving bytes takes no time
};

/// Counted operations at a rate.
CostProfile profile_of_rate(const spec::ModelConfig& config, std::int64_t micro_batch,
                            double flops_per_second, double bytes_per_second);

/// What a profile is applied to.
struct CostShape {
  const spec::ModelConfig& config;
  std::int64_t micro_batch = 1;  // samples
  std::int64_t tensor = 1;
  DType storage = DType::f32;
  spec::Recompute recompute = spec::Recompute::none;
};

/// Longest time of one part of a step, ns: eleven days, so that sums over a step fit an int64.
inline constexpr double kMostNanoseconds = 1e15;

/// Longest step, and of it the longest reduction or gather, ns: both with a step fit an int64.
inline constexpr double kMostStep = 4e18, kMostExposed = 2e18;

/// Computing in proportion to tokens and to 1 / tensor, and what slices exchange (traffic.h) at the
/// profile's speed, which does not overlap with anything. Selective recompute adds what it computes
/// again to W, as the share of a forward that spec::layer_flops() counts for it.
LayerCosts profiled_costs(const CostProfile& profile, const CostShape& shape);

}  // namespace elaswave::plan
