// Bytes that a step moves, by what they are for; headers left out. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "elastic/plan/costs.h"
#include "model/spec/memory.h"

namespace elaswave::plan {

/// Bytes that all slices of a replica exchange for one layer and micro-batch, by action. With t
/// slices, gathering or summing N x C elements moves (t - 1) N C of them (Korthikanti et al., arXiv
/// 2205.05198). A block has two of each in F, I and R, and gathers its two normed inputs again in
/// W; the head gathers its input, exchanges three numbers a token, and sums its input's gradient,
/// all in F; the embedding sums in F and gathers in its backward.
struct SliceTraffic {
  double forward = 0, input_gradient = 0, weight_gradient = 0, recompute = 0;
};
SliceTraffic slice_traffic(const CostShape& shape, std::int64_t layer);

/// One message between chunks: what the largest slice sends.
double boundary_bytes(const CostShape& shape);

/// Of one stage, a rank on average; the tied embedding counts at its home.
struct StageTraffic {
  double reduce = 0, gather = 0;
};
std::vector<StageTraffic> stage_traffic(const spec::MemoryModel& model, const layout::Plan& plan);

/// Bytes of one step over all ranks.
struct StepTraffic {
  double pipeline = 0;                            // residual streams and their gradients
  double tensor = 0;                              // between slices
  double reduce = 0;                              // gradient sums to owners
  double gather = 0;                              // working weights from owners
  double reduce_of_rank = 0, gather_of_rank = 0;  // of the busiest stage, a rank

  double total() const { return pipeline + tensor + reduce + gather; }
};
StepTraffic step_traffic(const spec::MemoryModel& model, const layout::Plan& plan);

}  // namespace elaswave::plan
