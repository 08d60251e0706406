#include "elastic/plan/costs.h"

#include <algorithm>
#include <cmath>

#include "elastic/plan/traffic.h"
#include "model/spec/flops.h"

namespace elaswave::plan {
namespace {

using pipeline::ChunkCost;

// A model's cost in counted units: small enough that 10^9 micro-batches of it fit an int64, large
// enough that the smallest layer is told from its neighbours.
constexpr std::int64_t kModelUnits = 1'000'000'000;

std::int64_t nanoseconds(double time) {
  return static_cast<std::int64_t>(std::clamp(std::round(time), 1.0, kMostNanoseconds));
}

void add(ChunkCost& sum, const ChunkCost& layer) {
  sum.forward += layer.forward;
  sum.input_gradient += layer.input_gradient;
  sum.weight_gradient += layer.weight_gradient;
  sum.recompute += layer.recompute;
}

}  // namespace

std::int64_t LayerCosts::of_layer(std::int32_t layer, spec::Recompute recompute) const {
  const ChunkCost& cost = layers[static_cast<std::size_t>(layer)];
  return cost.forward + cost.input_gradient + cost.weight_gradient +
         (recompute == spec::Recompute::full ? cost.recompute : 0);
}

LayerCosts counted_costs(const spec::ModelConfig& config) {
  std::int64_t total = 0;
  for (std::int64_t layer = 0; layer < config.layers + 2; ++layer) {
    const spec::LayerFlops flops = spec::layer_flops(config, layer);
    total += flops.forward + flops.input_gradient + flops.weight_gradient;
  }
  const std::int64_t unit = std::max<std::int64_t>(1, total / kModelUnits);
  const auto scaled = [unit](std::int64_t flops) {
    return std::max<std::int64_t>(1, flops / unit);
  };
  LayerCosts costs;
  for (std::int64_t layer = 0; layer < config.layers + 2; ++layer) {
    const spec::LayerFlops flops = spec::layer_flops(config, layer);
    costs.layers.push_back({.forward = scaled(flops.forward),
                            .input_gradient = scaled(flops.input_gradient),
                            .weight_gradient = scaled(flops.weight_gradient),
                            .recompute = scaled(flops.recompute)});
  }
  return costs;
}

pipeline::Costs chunk_costs(const LayerCosts& costs,
                            const std::vector<std::int32_t>& chunk_of_layer, std::int32_t chunks) {
  pipeline::Costs sums;
  sums.message = costs.message;
  sums.chunks.assign(static_cast<std::size_t>(chunks), ChunkCost{0, 0, 0, 0});
  for (std::size_t layer = 0; layer < chunk_of_layer.size(); ++layer)
    add(sums.chunks[static_cast<std::size_t>(chunk_of_layer[layer])], costs.layers[layer]);
  return sums;
}

CostProfile profile_of_rate(const spec::ModelConfig& config, std::int64_t micro_batch,
                            double flops_per_second, double bytes_per_second) {
  CostProfile profile{.tokens = micro_batch * config.context, .bytes_per_second = bytes_per_second};
  const double scale = 1e9 / flops_per_second * static_cast<double>(profile.tokens);
  const auto cost = [&](std::int64_t layer) {
    const spec::LayerFlops flops = spec::layer_flops(config, layer);
    return ChunkCost{
        .forward = nanoseconds(static_cast<double>(flops.forward) * scale),
        .input_gradient = nanoseconds(static_cast<double>(flops.input_gradient) * scale),
        .weight_gradient = nanoseconds(static_cast<double>(flops.weight_gradient) * scale),
        .recompute = nanoseconds(static_cast<double>(flops.recompute) * scale)};
  };
  profile.embedding = cost(0);
  profile.block = cost(1);
  profile.head = cost(config.layers + 1);
  return profile;
}

LayerCosts profiled_costs(const CostProfile& profile, const CostShape& shape) {
  const double tokens =
      static_cast<double>(shape.micro_batch) * static_cast<double>(shape.config.context);
  const auto slices = static_cast<double>(shape.tensor);
  const double share =
      tokens / static_cast<double>(profile.tokens) * static_cast<double>(profile.tensor) / slices;
  const double byte_time = profile.bytes_per_second > 0 ? 1e9 / profile.bytes_per_second : 0;
  const auto time = [&](std::int64_t computing, double bytes) {
    return nanoseconds(static_cast<double>(computing) * share + bytes / slices * byte_time);
  };
  const spec::LayerFlops block = spec::layer_flops(shape.config, 1);
  std::int64_t repeated = 0;
  if (shape.recompute == spec::Recompute::selective)
    repeated =
        nanoseconds(static_cast<double>(profile.block.forward) *
                    static_cast<double>(block.selective) / static_cast<double>(block.forward));
  LayerCosts costs;
  for (std::int64_t layer = 0; layer < shape.config.layers + 2; ++layer) {
    const bool is_block = layer > 0 && layer <= shape.config.layers;
    const ChunkCost& base = layer == 0                         ? profile.embedding
                            : layer == shape.config.layers + 1 ? profile.head
                                                               : profile.block;
    const SliceTraffic traffic = slice_traffic(shape, layer);
    costs.layers.push_back(
        {.forward = time(base.forward, traffic.forward),
         .input_gradient = time(base.input_gradient, traffic.input_gradient),
         .weight_gradient =
             time(base.weight_gradient + (is_block ? repeated : 0), traffic.weight_gradient),
         .recompute = time(base.recompute, traffic.recompute)});
  }
  costs.message =
      profile.latency + (byte_time > 0 ? nanoseconds(boundary_bytes(shape) * byte_time) : 0);
  return costs;
}

}  // namespace elaswave::plan
