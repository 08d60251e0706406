// Which samples a step trains on, as a pure function of (seed, dataset fingerprint, number of
// samples, position): no index files, no loader state, the same on every rank and after every
// resume.
//
// The stream of N tokens holds S = floor((N - 1) / T) samples of T + 1 tokens at stride T
// (neighbours share one token: the last target of one is the first input of the next). Positions
// count samples trained on since step 1: step s with a global batch of B uses positions (s - 1) B
// .. s B - 1. Epoch e is positions e S .. (e + 1) S - 1 and visits every sample once, in the order
// of a permutation keyed by (seed, fingerprint, e).
//
// The permutation is a balanced Feistel network of 8 rounds over the smallest even number of bits
// (at least 4) that can hold S - 1, walked along its cycle until it falls below S (Black and
// Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, methods "prefix, cycle walking,
// Feistel"). Its domain is less than 4 S for S > 16, so a walk takes fewer than 4 turns on average.
// The round keys are words of the Philox stream (seed, RandomUse::sample_order, fingerprint,
// epoch).
// THREADS: any; everything is const. Constant memory.
#pragma once

#include <cstdint>
#include <span>

namespace elaswave::data {

/// S of N tokens and context T; 0 when there is none. REQUIRES: context_tokens > 0.
std::int64_t sample_count(std::int64_t stream_tokens, std::int64_t context_tokens);

class Sampler {
 public:
  /// REQUIRES: sample_count > 0.
  Sampler(std::uint64_t seed, std::uint64_t dataset_fingerprint, std::int64_t sample_count);

  std::int64_t sample_count() const { return sample_count_; }
  std::int64_t epoch_of(std::int64_t position) const { return position / sample_count_; }

  /// The sample at a position, in [0, sample_count). REQUIRES: position >= 0.
  std::int64_t sample_at(std::int64_t position) const;

  /// Identity of a step's samples in their order: h = fingerprint, then h = combine64(h, sample)
  /// for each position of the step. REQUIRES: step >= 1, global_batch_samples >= 1.
  std::uint64_t sample_hash(std::int64_t step, std::int64_t global_batch_samples) const;
  /// The same for the `count` positions from `first_position` on.
  std::uint64_t hash_of_positions(std::int64_t first_position, std::int64_t count) const;

 private:
  std::uint64_t seed_;
  std::uint64_t fingerprint_;
  std::int64_t sample_count_;
  int half_bits_;  // of the Feistel network
};

/// Position of sample `index` (0 <= index < global batch) of a step.
std::int64_t sample_position(std::int64_t step, std::int64_t global_batch_samples,
                             std::int64_t index);

/// hash_bytes over the ids as 32-bit little-endian words: what was trained on, not just which
/// number it had.
std::uint64_t content_hash(std::span<const std::int32_t> tokens);

}  // namespace elaswave::data
