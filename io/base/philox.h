// Philox4x32-10: random numbers as a pure function of a key and a counter.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3. Numbers follow the data: a stream is named by what it is for (seed, purpose, step,
// sample, layer), an element by its index in that stream. No state, so a re-run, another layout or
// another rank draws the same numbers.
#pragma once

#include <array>
#include <cstdint>

#include "io/base/hash.h"

namespace elaswave {

/// What a stream is for. Values are part of every trained result: never renumber.
enum class RandomUse : std::uint64_t {
  init = 1,
  sample_order = 2,
  dropout_embedding = 3,
  dropout_attention = 4,
  dropout_attention_residual = 5,
  dropout_mlp_residual = 6,
  fingerprint = 7,
  test = 8,
  token_choice = 9,
};

/// A named stream of random words: the Philox key and the upper half of its counter.
struct RandomStream {
  std::array<std::uint32_t, 2> key{};
  std::array<std::uint32_t, 2> high{};
};

/// 128 bits of identity from a chain of mixers; two different names share a stream with probability
/// 2^-128.
constexpr RandomStream random_stream(std::uint64_t seed, RandomUse use, std::uint64_t a = 0,
                                     std::uint64_t b = 0, std::uint64_t c = 0) {
  std::uint64_t lo = combine64(seed, static_cast<std::uint64_t>(use));
  lo = combine64(combine64(combine64(lo, a), b), c);
  std::uint64_t hi = combine64(~seed, static_cast<std::uint64_t>(use) + kGolden64);
  hi = combine64(combine64(combine64(hi, a), b), c);
  return {{static_cast<std::uint32_t>(lo), static_cast<std::uint32_t>(lo >> 32)},
          {static_cast<std::uint32_t>(hi), static_cast<std::uint32_t>(hi >> 32)}};
}

/// Four 32-bit words at position `index` of the stream.
constexpr std::array<std::uint32_t, 4> philox(const RandomStream& stream, std::uint64_t index) {
  std::uint32_t x0 = static_cast<std::uint32_t>(index),
                x1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t x2 = stream.high[0], x3 = stream.high[1];
  std::uint32_t k0 = stream.key[0], k1 = stream.key[1];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * x0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * x2;
    const std::uint32_t y0 = static_cast<std::uint32_t>(p1 >> 32) ^ x1 ^ k0;
    const std::uint32_t y2 = static_cast<std::uint32_t>(p0 >> 32) ^ x3 ^ k1;
    x1 = static_cast<std::uint32_t>(p1);
    x3 = static_cast<std::uint32_t>(p0);
    x0 = y0;
    x2 = y2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {x0, x1, x2, x3};
}

/// Word number `element`: word element % 4 of position element / 4.
constexpr std::uint32_t random_word(const RandomStream& stream, std::uint64_t element) {
  return philox(stream, element / 4)[element % 4];
}

/// Uniform in (0, 1): exact in float, never 0 or 1.
constexpr float uniform01(std::uint32_t word) {
  return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace elaswave
