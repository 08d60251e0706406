// One sequence, token by token: the model's forward pass with keys and values of earlier positions
// kept, so that a new position costs one pass over the weights. Inference only: no dropout, nothing
// is kept for backward.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/kernels/ops.h"
#include "model/layers/activation.h"
#include "model/layers/parameters.h"
#include "model/spec/config.h"
#include "model/spec/inventory.h"

namespace elaswave::gpt {

/// Logits do not depend on the number of threads. How positions are cut into calls changes them
/// within rounding: products of one row and of many sum in different orders. THREADS: one caller.
class Decoder {
 public:
  /// Positions computed at a time: bounds the scratch memory for long prompts.
  static constexpr std::int64_t kChunkTokens = 64;

  /// Allocates everything it will ever need. The references must outlive it; `config` is copied.
  /// REQUIRES: f32 working weights of a model of this config.
  Decoder(kernels::Ops& ops, device::Stream& stream, const spec::ModelConfig& config,
          const spec::Inventory& inventory, const layers::Parameters& parameters);

  /// Appends tokens and returns the logits [vocab] that follow the last of them, valid until the
  /// next call. ERRORS: Code::usage when there are no ids, one is not below the vocabulary, or they
  /// do not fit into the context; the sequence is then as before.
  Result<std::span<const float>> advance(std::span<const std::int32_t> ids);

  /// Tokens so far.
  std::int64_t position() const { return position_; }
  std::int64_t capacity() const { return config_.context; }
  /// Forgets the sequence.
  void reset() { position_ = 0; }

 private:
  void append_chunk(std::span<const std::int32_t> ids);
  void run_block(std::int64_t block, std::int64_t rows);
  void norm(device::ConstMat x_NC, std::int32_t weight, std::int32_t bias, device::Mat y_NC);
  void compute_logits(std::int64_t row);

  kernels::Ops& ops_;
  device::Stream& stream_;
  spec::ModelConfig config_;
  const spec::Inventory& inventory_;
  const layers::Parameters& parameters_;
  std::int64_t position_ = 0;
  std::vector<layers::Activation> keys_TC_, values_TC_;  // one a block
  layers::Activation x_NC_, narrow_NC_, branch_NC_, qkv_N3C_, wide_N4C_;
  std::vector<float> mean_N_, rstd_N_, logits_V_;
};

}  // namespace elaswave::gpt
