// Micro-batches out of token files: the tokens of any micro-batch of any step, from the pure sample
// order.
#pragma once

#include <cstdint>
#include <vector>

#include "io/data/sampler.h"
#include "io/data/token_file.h"
#include "model/layers/context.h"

namespace elaswave::app {

class Batches {
 public:
  /// REQUIRES: `tokens` holds at least one sample of `context` tokens and outlives this.
  Batches(const data::TokenSet& tokens, std::uint64_t seed, std::int64_t context,
          std::int64_t vocab, std::int64_t micro_batch, std::int64_t global_batch);

  /// Reads micro-batch `index` of `step` into the buffers of this object, which the result views
  /// until the next call.
  Result<layers::MicroBatch> training(Step step, std::int64_t index, float dropout);
  /// The same without the tokens (zeros): stands in for a micro-batch that could not be read.
  layers::MicroBatch blank(Step step, std::int64_t index, float dropout);
  /// Reads the `index`-th micro-batch of the stream in file order, for validation.
  Result<layers::MicroBatch> in_order(std::int64_t index);

  /// Micro-batches that in_order() can read without reading a sample twice; at least 1.
  std::int64_t in_order_count() const;
  std::uint64_t sample_hash(Step step) const {
    return sampler_.hash_of_positions(first_position(step), global_batch_);
  }

  /// Goes on after `step`, when `samples` had been consumed: a resumed run may have changed its
  /// global batch.
  void resume_after(Step step, std::int64_t samples) {
    resumed_ = step;
    resumed_samples_ = samples;
  }
  /// Samples consumed once `step` is done.
  std::int64_t samples_after(Step step) const { return first_position(next(step)); }

 private:
  Result<void> read_sample(std::int64_t slot, std::int64_t sample);
  /// Position of the first sample of a step in the run's sample order.
  std::int64_t first_position(Step step) const {
    return resumed_samples_ + (raw(step) - raw(resumed_) - 1) * global_batch_;
  }

  const data::TokenSet& tokens_;
  data::Sampler sampler_;
  std::uint64_t seed_;
  std::int64_t context_, vocab_, micro_batch_, global_batch_;
  Step resumed_{};
  std::int64_t resumed_samples_ = 0;
  std::vector<std::int64_t> positions_B_;
  std::vector<std::int32_t> ids_N_, targets_N_, sample_;
};

}  // namespace elaswave::app
