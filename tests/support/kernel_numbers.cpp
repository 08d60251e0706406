#include "tests/support/kernel_numbers.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "io/base/bf16.h"

namespace elaswave::testing {

std::vector<float> random_floats(std::int64_t n, std::uint64_t seed, float scale) {
  const RandomStream stream = random_stream(seed, RandomUse::test);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    float sum = -6;
    for (std::uint64_t k = 0; k < 12; ++k) sum += uniform01(random_word(stream, 12 * i + k));
    values[i] = scale * sum;
  }
  return values;
}

std::vector<float> random_values(std::int64_t elems, std::string_view name, float scale) {
  const RandomStream stream = random_stream(hash_text(name), RandomUse::test);
  std::vector<float> values(static_cast<std::size_t>(elems));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = scale * (2 * uniform01(random_word(stream, i)) - 1);
  return values;
}

std::vector<RandomStream> sample_streams(std::int64_t count, std::uint64_t seed) {
  std::vector<RandomStream> streams;
  for (std::int64_t b = 0; b < count; ++b)
    streams.push_back(
        random_stream(seed, RandomUse::dropout_attention, static_cast<std::uint64_t>(b)));
  return streams;
}

float dropout_factor(const kernels::Dropout& dropout, std::int64_t sample, std::int64_t element) {
  if (dropout.rate == 0) return 1;
  const RandomStream& stream = dropout.streams_B[static_cast<std::size_t>(sample)];
  const float uniform = uniform01(random_word(stream, static_cast<std::uint64_t>(element)));
  return uniform < dropout.rate ? 0.0f : 1.0f / (1.0f - dropout.rate);
}

float stored(float value, DType dtype) {
  return dtype == DType::f32 ? value : to_float(to_bf16(value));
}

std::vector<float> stored(std::vector<float> values, DType dtype) {
  for (float& value : values) value = stored(value, dtype);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double largest_error(std::span<const double> values, std::span<const double> reference) {
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double error = std::abs(values[i] - reference[i]);
    if (std::isnan(error)) return std::numeric_limits<double>::quiet_NaN();
    worst = std::max(worst, error);
  }
  return worst;
}

void expect_accurate(std::string_view what, std::span<const double> ours,
                     std::span<const float> plain, std::span<const double> reference) {
  ASSERT_EQ(ours.size(), reference.size()) << what;
  ASSERT_EQ(plain.size(), reference.size()) << what;
  double largest = 0;
  for (const double value : reference) largest = std::max(largest, std::abs(value));
  const double plain_error = largest_error(converted<double>(plain), reference);
  // A NaN of ours is no error that is small enough.
  EXPECT_LE(largest_error(ours, reference), 2 * plain_error + largest * 0x1p-23)
      << what << ": plain version " << plain_error << ", largest value " << largest;
}

void expect_accurate(std::string_view what, const std::vector<float>& ours,
                     std::span<const float> plain, std::span<const double> reference) {
  expect_accurate(what, std::span<const double>(converted<double>(ours)), plain, reference);
}

}  // namespace elaswave::testing
