#include "io/base/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "io/base/error.h"

namespace elaswave {
namespace {

__extension__ using Wide = unsigned __int128;

}  // namespace

void ExactSum::add(double value) {
  if (value == 0) return;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const int biased = static_cast<int>((bits >> 52) & 0x7FF);
  EW_DCHECK(biased != 0x7FF, "ExactSum::add of a non-finite value");
  const std::uint64_t mantissa =
      (bits & ((std::uint64_t{1} << 52) - 1)) | (biased ? std::uint64_t{1} << 52 : 0);
  const int exponent = (biased ? biased : 1) - 1075;  // value = mantissa * 2^exponent
  const int position = exponent - kLowestExponent;
  const int digit = position / 32, shift = position % 32;
  const auto wide = static_cast<Wide>(mantissa) << shift;  // 53 + 31 bits: three digits
  const std::int64_t sign = (bits >> 63) ? -1 : 1;
  for (std::size_t i = 0; i < 3; ++i)
    words_[static_cast<std::size_t>(digit) + i] +=
        sign * static_cast<std::int64_t>(static_cast<std::uint32_t>(wide >> (32 * i)));
}

void ExactSum::add(const ExactSum& other) {
  for (std::size_t i = 0; i < kDigits; ++i) words_[i] += other.words_[i];
}

double ExactSum::value() const {
  // Resolve carries into digits in [0, 2^32); what leaves the top is the sign.
  std::array<std::uint32_t, kDigits> digits{};
  auto resolve = [&digits](const std::array<std::int64_t, kDigits>& words) {
    std::int64_t carry = 0;
    for (std::size_t i = 0; i < kDigits; ++i) {
      const std::int64_t word = words[i] + carry;
      digits[i] = static_cast<std::uint32_t>(word);
      carry = word >> 32;
    }
    return carry;
  };
  const bool negative = resolve(words_) < 0;
  if (negative) {
    auto negated = words_;
    for (auto& word : negated) word = -word;
    resolve(negated);
  }
  int top = kDigits - 1;
  while (top >= 0 && digits[static_cast<std::size_t>(top)] == 0) --top;
  if (top < 0) return 0;
  // Position of the leading one, counted from 2^kLowestExponent; 53 bits below and including it
  // form the result.
  const int lead = top * 32 + 31 - std::countl_zero(digits[static_cast<std::size_t>(top)]);
  const int lowest_kept =
      std::max(lead - 52, -1074 - kLowestExponent);  // subnormals keep fewer bits
  auto bit = [&digits](int position) {
    return (digits[static_cast<std::size_t>(position / 32)] >> (position % 32)) & 1u;
  };
  std::uint64_t mantissa = 0;
  for (int position = lead; position >= lowest_kept; --position)
    mantissa = mantissa << 1 | bit(position);
  bool half = false, sticky = false;
  if (lowest_kept > 0) half = bit(lowest_kept - 1);
  for (int position = lowest_kept - 2; position >= 0 && !sticky; --position) sticky = bit(position);
  if (half && (sticky || (mantissa & 1))) ++mantissa;
  const double magnitude = std::ldexp(static_cast<double>(mantissa), lowest_kept + kLowestExponent);
  return negative ? -magnitude : magnitude;
}

}  // namespace elaswave
