#include "elastic/plan/recovery.h"

#include <fmt/format.h>

#include "elastic/plan/recovery_finish.h"
#include "elastic/plan/recovery_layouts.h"
#include "elastic/plan/recovery_routes.h"

namespace elaswave::plan {
namespace {

using layout::Plan;

Result<void> check_members(const RecoveryRequest& request) {
  EW_CHECK(request.previous.tensor_degree == request.wish.tensor, "tensor degree {} becomes {}",
           request.previous.tensor_degree, request.wish.tensor);
  const auto left = static_cast<std::int64_t>(request.holdings.members.size());
  if (left >= request.wish.tensor && left > 0) return {};
  return fail(
      {.code = Code::unrecoverable,
       .what = fmt::format("{}, one replica needs {}", left_text(left), request.wish.tensor),
       .where = "recovery",
       .why = fmt::format("the tensor degree is {}", request.wish.tensor),
       .fix = fmt::format("resume from a checkpoint with {} ranks or more", request.wish.tensor)});
}

/// The stages as they were, with the replicas given; members without one are spares.
Plan keep_stages(const RecoveryRequest& request, Survivors survivors) {
  Plan plan;
  plan.generation = request.generation;
  plan.id = request.id;
  plan.tensor_degree = request.wish.tensor;
  plan.micro_batches = request.wish.micro_batches;
  plan.chunk_of_layer = request.previous.chunk_of_layer;
  plan.stage_of_chunk = request.previous.stage_of_chunk;
  place_and_route(request.previous, std::move(survivors.stages), plan);
  plan.spares = std::move(survivors.others);
  return plan;
}

}  // namespace

Result<RecoveryPlan> recover_plan(const layout::BlockTable& blocks,
                                  const RecoveryRequest& request) {
  EW_TRY(check_members(request));
  const Holders holders(blocks, request);
  EW_TRY(holders.check_lost(blocks));
  Finisher finisher(blocks, request, holders);
  RecoveryPlan made;
  const Survivors survivors = find_survivors(request.previous, holders);
  if (survivors.complete()) {
    Survivors refilled = survivors;
    refill_stages(blocks, request.previous, request.wish, holders, refilled);
    const bool alike = refilled.others.size() == survivors.others.size();
    made.plan = keep_stages(request, std::move(refilled));
    EW_ASSIGN(bool fits, finisher.finish(made));
    if (!fits && !alike) {  // whoever computes needs more than a spare
      made.plan = keep_stages(request, survivors);
      EW_ASSIGN(fits, finisher.finish(made));
    }
    if (fits) return made;
  }
  made.response = Response::relayer;
  std::vector<Candidate> candidates = find_layouts(blocks, request, holders, survivors);
  while (!candidates.empty()) {
    made.plan = take_best(candidates);
    EW_ASSIGN(const bool fits, finisher.finish(made));
    if (fits) return made;
  }
  return fail(finisher.too_large());
}

}  // namespace elaswave::plan
