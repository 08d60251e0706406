// 64-bit mixing and hashing with a definition short enough to be repeated in any language. Not
// cryptographic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace elaswave {

/// Finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
/// 2014). A bijection: two different inputs never collide.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9u;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBu;
  x ^= x >> 31;
  return x;
}

inline constexpr std::uint64_t kGolden64 = 0x9E3779B97F4A7C15u;

/// Folds `value` into `hash`; order matters.
constexpr std::uint64_t combine64(std::uint64_t hash, std::uint64_t value) {
  return mix64((hash ^ value) + kGolden64);
}

/// Folds bytes eight at a time (little endian, the last word zero-padded), then the length.
inline std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t hash = 0) {
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    hash = combine64(hash, word);
  }
  std::uint64_t tail = 0;
  if (i < bytes.size()) std::memcpy(&tail, bytes.data() + i, bytes.size() - i);
  return combine64(combine64(hash, tail), bytes.size());
}

inline std::uint64_t hash_text(std::string_view text, std::uint64_t hash = 0) {
  return hash_bytes(std::as_bytes(std::span(text.data(), text.size())), hash);
}

}  // namespace elaswave
