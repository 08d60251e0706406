#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {

using layout::Action;
using layout::Op;
using layout::Row;

Row split_backward(const Row& row) {
  Row split;
  split.reserve(row.size() + row.size() / 2);
  for (const Action& action : row) {
    if (action.op != Op::backward) {
      split.push_back(action);
      continue;
    }
    split.push_back({Op::input_gradient, action.chunk, action.micro_batch});
    split.push_back({Op::weight_gradient, action.chunk, action.micro_batch});
  }
  return split;
}

Row fuse_backward(const Row& row) {
  Row fused;
  fused.reserve(row.size());
  for (const Action& action : row) {
    const Action before{Op::input_gradient, action.chunk, action.micro_batch};
    if (action.op == Op::weight_gradient && !fused.empty() && fused.back() == before)
      fused.back().op = Op::backward;
    else
      fused.push_back(action);
  }
  return fused;
}

Row with_recompute(const Row& row) {
  Row result;
  result.reserve(row.size() + row.size() / 2);
  for (const Action& action : row) {
    const bool backward = action.op == Op::backward || action.op == Op::input_gradient;
    const Action own{Op::forward, action.chunk, action.micro_batch};
    // Directly after its forward everything is still there.
    if (backward && (result.empty() || result.back() != own))
      result.push_back({Op::recompute, action.chunk, action.micro_batch});
    result.push_back(action);
  }
  return result;
}

}  // namespace elaswave::pipeline
