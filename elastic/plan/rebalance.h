// Shares that follow speed: a slow rank gets fewer micro-batches, its siblings of the stage more. A
// planned change: same members, same layers, same owners, other routes. Pure and deterministic.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "elastic/plan/healthy.h"
#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// A change must shorten the step, as predicted, by so many per cent: it costs a gather, and the
/// next one may take it back.
inline constexpr std::int64_t kLeastGainPercent = 10;

/// Micro-batches of each replica of a stage such that the longest share x cost is as short as can
/// be; among equals the lower replica has more. Costs of one micro-batch, any unit, all above 0.
std::vector<std::int32_t> fair_shares(std::span<const std::int64_t> costs,
                                      std::int64_t micro_batches);

/// `cost_ns` is what one micro-batch takes each world rank, waiting apart; 0: not known. Speeds are
/// told apart in sixteenths: what is measured wobbles more than that.
///
/// Of three ways to deal micro-batches the one whose step is predicted to be shortest:
/// - the same to all stages, pipelines as they are numbered;
/// - the same to all stages, the fast replicas of each stage in one pipeline, the slow in another;
/// - to each stage by its own speeds, which is best where slow ranks sit at different stages of
///   different pipelines, and the only way where stages differ in replicas.
/// Nothing when the present shares are good enough, or something is not known. ERRORS: of
/// make_rows().
Result<std::optional<layout::Plan>> rebalance(const layout::BlockTable& blocks,
                                              const layout::Plan& plan,
                                              std::span<const std::int64_t> cost_ns,
                                              const HealthyRequest& wish);

}  // namespace elaswave::plan
