// Forward and backward of one micro-batch, again and again: the same arguments must give the same
// bits, wherever in memory everything lies and whatever else the device does.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/gpt/whole_model.h"

namespace elaswave::test {

/// sums_C[c] = fixed-point (ops.h, kFractionBits) sum of column c of x_NC in f32, in an order that
/// nothing fixes: by atomics on a GPU. The positive control of the check. Enqueues; memory of the
/// stream's device; scratch_C is written.
struct ColumnSum {
  device::ConstMat x_NC;
  std::span<float> scratch_C;
  std::span<std::int64_t> sums_C;
};
using UnorderedSum = std::function<void(device::Stream&, const ColumnSum&)>;

struct RepeatedModel {
  spec::ModelConfig config;  // its dropout too
  std::int64_t micro_batch = 1;
  DType storage = DType::f32;
  std::int64_t loss_chunk_tokens = kernels::kCpuLossChunkTokens;
  std::uint64_t seed = 1;
};

/// THREADS: one at a time; the machine must outlive it. Throws what the device throws.
class RepeatedStep {
 public:
  RepeatedStep(const kernels::Machine& machine, const RepeatedModel& model);
  ~RepeatedStep();
  RepeatedStep(const RepeatedStep&) = delete;
  RepeatedStep& operator=(const RepeatedStep&) = delete;

  /// Gives back all that a step works on and takes it anew, in another order and between other
  /// allocations, as `choice` says.
  void move(std::uint64_t choice);
  /// With `control` the gradient of the last bias is replaced by its sum. Returns a digest of every
  /// token's loss and of every gradient sum. Waits for the device. Errors: a gradient out of range.
  Result<std::uint64_t> run(const UnorderedSum* control = nullptr);

  /// Mean loss of the last run, nats per token.
  double loss() const { return loss_; }
  /// Differs when the step's memory lies elsewhere.
  std::uint64_t place() const;
  /// Of everything that move() takes anew.
  std::int64_t bytes() const;

 private:
  struct Held;  // what move() takes anew

  void initialize();
  void store_weights();
  std::uint64_t digest();

  kernels::Machine machine_;
  RepeatedModel model_;
  spec::Inventory inventory_;
  layout::BlockTable blocks_;
  layers::Context context_;
  device::Array<float> masters_;  // of all tensors, one after another
  std::vector<std::int64_t> positions_;
  std::vector<std::int32_t> ids_, targets_;
  std::unique_ptr<Held> held_;
  double loss_ = 0;
};

}  // namespace elaswave::test
