#include "model/optim/commit.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "io/base/error.h"
#include "io/base/mutant.h"
#include "model/optim/math.h"

namespace elaswave::optim {
namespace {

/// The counters in the order they travel in.
constexpr std::array kCounters = {&CommitVote::bad_ranks,
                                  &CommitVote::data_failures,
                                  &CommitVote::stop_requests,
                                  &CommitVote::shards_written,
                                  &CommitVote::checkpoint_failures,
                                  &CommitVote::checkpoints_published,
                                  &CommitVote::tokens,
                                  &CommitVote::micro_batches,
                                  &CommitVote::blocks_logged,
                                  &CommitVote::copies_logged,
                                  &CommitVote::copy_digest};

/// The scalars in the order they travel in.
constexpr std::array kScalars = {
    &kernels::AdamWScalars::lr,           &kernels::AdamWScalars::beta1,
    &kernels::AdamWScalars::beta2,        &kernels::AdamWScalars::epsilon,
    &kernels::AdamWScalars::weight_decay, &kernels::AdamWScalars::clip,
    &kernels::AdamWScalars::correction1,  &kernels::AdamWScalars::correction2};
static_assert(sizeof(kernels::AdamWScalars) == kScalars.size() * sizeof(float),
              "a scalar would stay behind");

}  // namespace

std::vector<std::int64_t> CommitVote::words() const {
  std::vector<std::int64_t> words;
  words.reserve(kCounters.size() + std::size_t{2} * ExactSum::kDigits);
  for (const auto counter : kCounters) words.push_back(this->*counter);
  words.insert(words.end(), loss.words().begin(), loss.words().end());
  words.insert(words.end(), gradient_squares.words().begin(), gradient_squares.words().end());
  return words;
}

CommitVote CommitVote::from_words(std::span<const std::int64_t> words) {
  EW_CHECK(words.size() == kCounters.size() + std::size_t{2} * ExactSum::kDigits,
           "a vote of {} words", words.size());
  CommitVote vote;
  for (std::size_t i = 0; i < kCounters.size(); ++i) vote.*kCounters[i] = words[i];
  const auto sums = words.subspan(kCounters.size());
  std::copy_n(sums.begin(), ExactSum::kDigits, vote.loss.words().begin());
  std::copy_n(sums.begin() + ExactSum::kDigits, ExactSum::kDigits,
              vote.gradient_squares.words().begin());
  return vote;
}

std::vector<std::int64_t> CommitRecord::words() const {
  std::vector<std::int64_t> words = {raw(version.step),
                                     std::int64_t{raw(version.generation)},
                                     std::bit_cast<std::int64_t>(loss),
                                     std::bit_cast<std::int64_t>(grad_norm),
                                     std::bit_cast<std::int64_t>(lr),
                                     updates,
                                     skip ? 1 : 0,
                                     std::bit_cast<std::int64_t>(sample_hash)};
  for (const auto scalar : kScalars) words.push_back(std::bit_cast<std::int32_t>(scalars.*scalar));
  EW_CHECK(words.size() == kWords, "a record of {} words", words.size());
  return words;
}

CommitRecord CommitRecord::from_words(std::span<const std::int64_t> words) {
  EW_CHECK(words.size() == kWords, "a record of {} words", words.size());
  const auto scalars = words.last(kScalars.size());
  CommitRecord record{.version = {Step{words[0]}, Generation{static_cast<std::uint32_t>(words[1])}},
                      .loss = std::bit_cast<double>(words[2]),
                      .grad_norm = std::bit_cast<double>(words[3]),
                      .lr = std::bit_cast<double>(words[4]),
                      .updates = words[5],
                      .skip = words[6] != 0,
                      .sample_hash = std::bit_cast<std::uint64_t>(words[7])};
  for (std::size_t i = 0; i < kScalars.size(); ++i)
    record.scalars.*kScalars[i] = std::bit_cast<float>(static_cast<std::int32_t>(scalars[i]));
  return record;
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
  record.updates = updates_before + (record.skip && !mutant(Mutant::skipped_step_counts) ? 0 : 1);
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
