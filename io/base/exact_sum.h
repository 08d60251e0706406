// An exact accumulator of doubles: the sum of any numbers in any order, grouping or rank count has
// the same bits. Fixed point over the whole range of double in 32-bit digits held in 64-bit words,
// after Kulisch ("Computer Arithmetic and Validity", chapter 8). Each add touches three words;
// carries are resolved only when the value is read, so partial sums of ranks are added word by word
// (an int64 all-reduce).
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace elaswave {

class ExactSum {
 public:
  // Digit 0 weighs 2^-1088, below the smallest subnormal (2^-1074); the top digit holds sums up to
  // 2^1088.
  static constexpr int kDigits = 68;
  static constexpr int kLowestExponent = -1088;

  /// REQUIRES: value finite. At most 2^30 additions in all (including those of merged partial
  /// sums).
  void add(double value);
  void add(const ExactSum& other);

  /// The exact sum rounded once, to nearest even.
  double value() const;

  /// The words, for an element-wise int64 all-reduce.
  std::span<std::int64_t, kDigits> words() { return words_; }
  std::span<const std::int64_t, kDigits> words() const { return words_; }

 private:
  std::array<std::int64_t, kDigits> words_{};
};

}  // namespace elaswave
