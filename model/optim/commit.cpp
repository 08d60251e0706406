#include "model/optim/commit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "io/base/error.h"
#include "model/optim/math.h"

namespace elaswave::optim {
namespace {

constexpr std::size_t kCounters = 6;

}  // namespace

std::vector<std::int64_t> CommitVote::words() const {
  std::vector<std::int64_t> words = {bad_ranks, data_failures, stop_requests,
                                     tokens,    micro_batches, blocks_logged};
  words.insert(words.end(), loss.words().begin(), loss.words().end());
  words.insert(words.end(), gradient_squares.words().begin(), gradient_squares.words().end());
  return words;
}

CommitVote CommitVote::from_words(std::span<const std::int64_t> words) {
  EW_CHECK(words.size() == kCounters + std::size_t{2} * ExactSum::kDigits, "a vote of {} words",
           words.size());
  CommitVote vote;
  vote.bad_ranks = words[0];
  vote.data_failures = words[1];
  vote.stop_requests = words[2];
  vote.tokens = words[3];
  vote.micro_batches = words[4];
  vote.blocks_logged = words[5];
  std::copy_n(words.begin() + kCounters, ExactSum::kDigits, vote.loss.words().begin());
  std::copy_n(words.begin() + kCounters + ExactSum::kDigits, ExactSum::kDigits,
              vote.gradient_squares.words().begin());
  return vote;
}

CommitRecord decide(const CommitVote& total, Version version, std::int64_t updates_before,
                    std::uint64_t sample_hash, const AdamWConfig& config) {
  CommitRecord record;
  record.version = version;
  record.sample_hash = sample_hash;
  record.skip = total.bad_ranks != 0;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  record.loss = record.skip ? nan : total.loss.value() / static_cast<double>(total.tokens);
  record.grad_norm = record.skip ? nan : std::sqrt(total.gradient_squares.value());
  record.lr = learning_rate(config.lr, raw(version.step));
  record.updates = updates_before + (record.skip ? 0 : 1);
  if (record.skip) return record;

  kernels::AdamWScalars& scalars = record.scalars;
  scalars.lr = static_cast<float>(record.lr);
  scalars.beta1 = static_cast<float>(config.beta1);
  scalars.beta2 = static_cast<float>(config.beta2);
  scalars.epsilon = static_cast<float>(config.epsilon);
  scalars.weight_decay = static_cast<float>(config.weight_decay);
  const bool clipped = config.clip > 0 && record.grad_norm > config.clip;
  scalars.clip = clipped ? static_cast<float>(config.clip / record.grad_norm) : 1.0f;
  scalars.correction1 = static_cast<float>(1 / (1 - power(config.beta1, record.updates)));
  scalars.correction2 = static_cast<float>(1 / (1 - power(config.beta2, record.updates)));
  return record;
}

}  // namespace elaswave::optim
