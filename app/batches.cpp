#include "app/batches.h"

#include <algorithm>

namespace elaswave::app {

Batches::Batches(const data::TokenSet& tokens, std::uint64_t seed, std::int64_t context,
                 std::int64_t vocab, std::int64_t micro_batch, std::int64_t global_batch)
    : tokens_(tokens),
      sampler_(seed, tokens.fingerprint(), data::sample_count(tokens.count(), context)),
      seed_(seed),
      context_(context),
      vocab_(vocab),
      micro_batch_(micro_batch),
      global_batch_(global_batch),
      positions_B_(static_cast<std::size_t>(micro_batch)),
      ids_N_(static_cast<std::size_t>(micro_batch * context)),
      targets_N_(ids_N_.size()),
      sample_(static_cast<std::size_t>(context) + 1) {}

Result<void> Batches::read_sample(std::int64_t slot, std::int64_t sample) {
  EW_TRY(tokens_.copy_sample(sample, sample_, vocab_));
  std::copy_n(sample_.begin(), context_, ids_N_.begin() + slot * context_);
  std::copy_n(sample_.begin() + 1, context_, targets_N_.begin() + slot * context_);
  return {};
}

Result<layers::MicroBatch> Batches::training(Step step, std::int64_t index, float dropout) {
  for (std::int64_t slot = 0; slot < micro_batch_; ++slot) {
    const std::int64_t position = first_position(step) + index * micro_batch_ + slot;
    positions_B_[static_cast<std::size_t>(slot)] = position;
    EW_TRY(read_sample(slot, sampler_.sample_at(position)));
  }
  return layers::MicroBatch{seed_, step, positions_B_, ids_N_, targets_N_, dropout};
}

layers::MicroBatch Batches::blank(Step step, std::int64_t index, float dropout) {
  for (std::int64_t slot = 0; slot < micro_batch_; ++slot)
    positions_B_[static_cast<std::size_t>(slot)] =
        first_position(step) + index * micro_batch_ + slot;
  std::ranges::fill(ids_N_, 0);
  std::ranges::fill(targets_N_, 0);
  return {seed_, step, positions_B_, ids_N_, targets_N_, dropout};
}

Result<layers::MicroBatch> Batches::in_order(std::int64_t index) {
  const std::int64_t samples = sampler_.sample_count();
  for (std::int64_t slot = 0; slot < micro_batch_; ++slot)
    EW_TRY(read_sample(slot, (index * micro_batch_ + slot) % samples));
  return layers::MicroBatch{seed_, Step{0}, positions_B_, ids_N_, targets_N_, 0};
}

std::int64_t Batches::in_order_count() const {
  return std::max<std::int64_t>(sampler_.sample_count() / micro_batch_, 1);
}

}  // namespace elaswave::app
