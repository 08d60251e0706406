// Dropout masks for vector routines. Rules in simd.h apply: only *_simd.cpp include this.
#pragma once

#include "model/kernels/simd.h"
#include "model/kernels/simd_kernels.h"

namespace elaswave::kernels {
namespace {

constexpr std::int64_t kBatchWords = 4 * kPhiloxBlocks;

/// body(i, factor, lanes) for elements first + i, 0 <= i < n, a vector at a time: factor is 0 for
/// dropped elements and mask.keep_scale for kept ones.
template <typename Body>
ELASWAVE_INLINE void with_mask(const DropoutMask& mask, std::uint64_t first, std::int64_t n,
                               const Body& body) {
  // Words come in batches of whole blocks of four. A run that starts inside a block skips the words
  // before it, so that a batch of its elements takes words of two batches.
  alignas(64) std::uint32_t words[2 * kBatchWords];
  const std::int64_t skip = static_cast<std::int64_t>(first % 4);
  std::uint64_t block = first / 4;
  const I32 threshold = set1_i32(mask.threshold);
  const F32 scale = set1(mask.keep_scale);
  if (skip != 0) {
    philox_words(mask.key, mask.high, block, words);
    block += kPhiloxBlocks;
  }
  std::uint32_t* next = skip != 0 ? words + kBatchWords : words;
  for (std::int64_t base = 0; base < n; base += kBatchWords) {
    philox_words(mask.key, mask.high, block, next);
    block += kPhiloxBlocks;
    const std::int64_t count = n - base < kBatchWords ? n - base : kBatchWords;
    sweep(count, [&](std::int64_t i, auto lanes) {
      const Mask kept = greater_equal_unsigned(load_i32(words + skip + i), threshold);
      body(base + i, keep(kept, scale), lanes);
    });
    if (skip != 0) __builtin_memcpy(words, next, kBatchWords * sizeof(words[0]));
  }
}

}  // namespace
}  // namespace elaswave::kernels
