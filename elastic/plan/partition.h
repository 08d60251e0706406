// Layers into chunks. Pure; integers only; ties have one answer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace elaswave::plan {

/// Chunk of each layer: contiguous, none empty, the heaviest chunk as light as can be; among those
/// the sum of squares least, and among those later chunks begin earliest. Weights are what a layer
/// costs in any unit; their sum fits an int64. REQUIRES: 1 <= chunks <= weights.size(), weights >=
/// 0.
std::vector<std::int32_t> chunk_layers(std::span<const std::int64_t> weights, std::int32_t chunks);

/// `total` replicas over stages of these weights, every stage at least one: the same number each,
/// and the rest one by one to the stage whose replicas then bear most. REQUIRES: total >= stages.
std::vector<std::int32_t> deal_replicas(std::span<const std::int64_t> weights, std::int32_t total);

}  // namespace elaswave::plan
