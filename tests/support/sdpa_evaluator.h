// Runs a list of attention operations (sdpa_ops.h) in double, operation by operation and element by
// element, through the strides of every tensor. For small shapes.
#pragma once

#include <array>
#include <map>
#include <span>
#include <vector>

#include "model/kernels/sdpa_ops.h"

namespace elaswave::testing {

/// Types are not rounded to. What is read before it was written is NaN; a stride that leaves a
/// tensor's memory is a failed check. THREADS: one at a time.
class SdpaEvaluator {
 public:
  /// Memory of one of the caller's tensors, from its first element on.
  void bind(kernels::SdpaBinding binding, std::span<double> memory) { memory_[binding] = memory; }
  void run(const kernels::SdpaGraph& graph);

 private:
  using Place = std::array<std::int64_t, 4>;
  struct Storage {
    std::vector<double> own;
    std::span<double> view;
  };

  void prepare();
  void run(const kernels::SdpaOp& op);
  void multiply_matrices(const kernels::SdpaOp& op);
  void reduce(const kernels::SdpaOp& op);
  double pointwise(const kernels::SdpaOp& op, const Place& at);
  const kernels::SdpaTensor& tensor(kernels::SdpaIndex index) const;
  double& at(kernels::SdpaIndex index, const Place& place);

  std::map<kernels::SdpaBinding, std::span<double>> memory_;
  const kernels::SdpaGraph* graph_ = nullptr;
  std::vector<Storage> storage_;
};

}  // namespace elaswave::testing
