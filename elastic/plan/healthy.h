// The plan of a healthy world: what runs when every rank is there and alike. Pure and
// deterministic: ranks that agree on the arguments agree on the plan without talking.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "elastic/plan/backups.h"
#include "elastic/plan/costs.h"
#include "elastic/plan/rows.h"
#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Schedules with more actions than this are not proved by pipeline::check_schedule(), which runs
/// them: a plan for very many micro-batches would take longer to check than to make. Those of equal
/// pipelines are copies of a few anyway.
inline constexpr std::int64_t kMostCheckedActions = 1'000'000;

/// Forwards of a step, over all chunks: a plan holds a few dozen bytes for each.
inline constexpr std::int64_t kMostForwards = std::int64_t{1} << 26;

struct HealthyRequest {
  std::int32_t world_size = 1;
  std::int32_t tensor = 1;                     // slices of a replica
  std::int32_t pipeline = 1;                   // stages
  std::int32_t chunks = 1;                     // of each stage
  std::optional<pipeline::Schedule> schedule;  // none: auto, whatever is predicted to be fastest
  spec::Recompute recompute = spec::Recompute::none;
  Backward backward = Backward::as_scheduled;
  std::int64_t micro_batches = 1;
  LayerCosts costs;         // no layers: every layer costs the same
  Domains domains;          // empty: every rank is a domain of its own
  std::int32_t copies = 0;  // of each block beside its owner's
  Generation generation{};
};

/// A plan and what made its rows ("1f1b", "list").
struct HealthyPlan {
  layout::Plan plan;
  std::string schedule;
};

/// World ranks: slice fastest, then replica, then stage; where several domains are told and one has
/// several ranks, instead so that a replica stands in one domain and a stage in several
/// (README.md). world_size / tensor replicas are dealt over the stages, as evenly as can be
/// (deal_replicas). Layers: chunk_layers(). Micro-batch m runs on replica m mod R of a stage with R
/// replicas, so with equal stages pipelines are columns.
///
/// Owners: the blocks of layer l's sliced parts are dealt round-robin over the replicas of its
/// stage from replica l mod R on, each in its own slice; those of replicated parts over all
/// R * tensor members from member l mod (R * tensor) on, so that small layers spread. Copies:
/// deal_backups().
///
/// `blocks` are those of the tensor degree asked for. ERRORS: Code::usage naming what would do:
/// ranks that form no whole replica, fewer replicas than stages, fewer layers than chunks, more
/// than kMostForwards, a schedule whose precondition does not hold.
Result<HealthyPlan> make_healthy_plan(const layout::BlockTable& blocks,
                                      const HealthyRequest& request);

/// The plan alone.
Result<layout::Plan> healthy_plan(const layout::BlockTable& blocks, const HealthyRequest& request);

/// Data parallelism alone: one stage, one replica a rank.
Result<layout::Plan> healthy_plan(const layout::BlockTable& blocks, std::int32_t world_size,
                                  std::int64_t micro_batches, Generation generation);

}  // namespace elaswave::plan
