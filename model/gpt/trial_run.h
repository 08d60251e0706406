// One micro-batch through a model of a run's shapes, forward and backward: for whoever wants to
// know what a step asks of the device (`elaswave tune`, benchmarks) rather than what comes out.
// What layers and kernels are given is what a training step gives them; weights are random, tokens
// too, and nothing is updated.
#pragma once

#include <cstdint>
#include <vector>

#include "model/gpt/whole_model.h"
#include "parallel/comm/slice_group.h"
#include "parallel/zero/store.h"

namespace elaswave::gpt {

/// `count` ids below `vocab`, a function of (seed, which) alone.
std::vector<std::int32_t> random_tokens(std::uint64_t seed, std::int64_t count, std::int64_t vocab,
                                        std::uint64_t which);

struct TrialSpec {
  spec::ModelConfig config;      // as deep as wanted: blocks are alike
  std::int64_t micro_batch = 0;  // samples
  DType storage = DType::f32;
  std::int64_t loss_chunk_tokens = 0;  // kernels::HeadLoss::chunk_tokens
  zero::SumMode sum_mode = zero::SumMode::exact;
  layers::Recompute recompute = layers::Recompute::none;
  comm::SliceGroup* slices = nullptr;  // null: tensor degree 1
};

/// THREADS: the stream's.
class TrialRun {
 public:
  /// Allocates everything; the machine and the slices must outlive it. REQUIRES: validate(config),
  /// check_tensor_degree() for the number of slices.
  TrialRun(const kernels::Machine& machine, const TrialSpec& spec);
  /// Waits for the device: it may still work on memory that goes.
  ~TrialRun();
  TrialRun(const TrialRun&) = delete;
  TrialRun& operator=(const TrialRun&) = delete;

  /// Forward and backward; waits for the device in between. COLLECTIVE over the slices; errors are
  /// those of their exchanges.
  Result<void> run();
  const spec::Inventory& inventory() const { return inventory_; }

 private:
  void fill_weights(std::int32_t part);

  kernels::Machine machine_;
  spec::ModelConfig config_;
  std::int64_t micro_batch_;
  spec::Inventory inventory_;
  layout::BlockTable blocks_;
  std::vector<bool> held_;
  zero::TensorStore working_;
  zero::GradSums sums_;
  layers::Context context_;
  layers::Parameters parameters_;
  layers::Gradients gradients_;
  WholeModel model_;
};

}  // namespace elaswave::gpt
