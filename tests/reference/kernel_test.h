// What tests of the CPU kernels share. Each test is built once per instruction set
// (ELASWAVE_TEST_ISA), since a process holds oneDNN to one; where the machine lacks it the tests
// skip.
//
// Error rule: the largest error against a double-precision reference is at most twice that of a
// plain f32 loop (the same reference text in f32) plus one unit in the last place of the largest
// value, which is the grain of the result itself.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "io/base/philox.h"
#include "model/kernels/cpu_ops.h"

namespace elaswave::kernels {

class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = make_cpu_ops(ELASWAVE_TEST_ISA);
    if (!made) GTEST_SKIP() << made.error().text();
    ops_ = std::move(*made);
  }
  Ops& ops() { return *ops_; }

  /// Runs body(stream) with pools of 1, 2, 3, 4 and 8 threads; body returns bytes that must not
  /// change.
  template <typename Body>
  void expect_same_for_threads(const Body& body) {
    std::vector<std::byte> first;
    for (const int threads : {1, 2, 3, 4, 8}) {
      device::CpuStream stream(threads);
      const std::vector<std::byte> bytes = body(stream);
      if (threads == 1) {
        first = bytes;
        ASSERT_FALSE(first.empty());
      }
      EXPECT_TRUE(bytes == first) << threads << " threads";
    }
  }

  std::unique_ptr<Ops> ops_;
};

template <typename... Vectors>
std::vector<std::byte> bytes_of(const Vectors&... vectors) {
  std::vector<std::byte> all;
  const auto append = [&all](const auto& v) {
    const auto* data = reinterpret_cast<const std::byte*>(v.data());
    all.insert(all.end(), data, data + v.size() * sizeof(v[0]));
  };
  (append(vectors), ...);
  return all;
}

/// n numbers, roughly normal (sums of 12 uniforms), times `scale`; a function of `seed`.
inline std::vector<float> random_floats(std::int64_t n, std::uint64_t seed, float scale = 1) {
  const RandomStream stream = random_stream(seed, RandomUse::test);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); ++i) {
    float sum = -6;
    for (std::uint64_t k = 0; k < 12; ++k) sum += uniform01(random_word(stream, 12 * i + k));
    values[i] = scale * sum;
  }
  return values;
}

inline std::vector<RandomStream> sample_streams(std::int64_t count, std::uint64_t seed) {
  std::vector<RandomStream> streams;
  for (std::int64_t b = 0; b < count; ++b)
    streams.push_back(
        random_stream(seed, RandomUse::dropout_attention, static_cast<std::uint64_t>(b)));
  return streams;
}

/// The definition of ops.h, in scalar code: 0 or 1 / (1 - rate).
inline float dropout_factor(const Dropout& dropout, std::int64_t sample, std::int64_t element) {
  if (dropout.rate == 0) return 1;
  const RandomStream& stream = dropout.streams_B[static_cast<std::size_t>(sample)];
  const float uniform = uniform01(random_word(stream, static_cast<std::uint64_t>(element)));
  return uniform < dropout.rate ? 0.0f : 1.0f / (1.0f - dropout.rate);
}

template <typename Real>
std::vector<Real> converted(const std::vector<float>& values) {
  return std::vector<Real>(values.begin(), values.end());
}

/// A matrix whose rows have `extra` unused elements between them, holding a number no kernel may
/// read or change.
struct Padded {
  static constexpr float kGuard = 1.2345e30f;
  Padded(const std::vector<float>& values, std::int64_t row_count, std::int64_t col_count,
         std::int64_t extra = 3)
      : rows(row_count),
        cols(col_count),
        stride(col_count + extra),
        data(static_cast<std::size_t>(rows * stride), kGuard) {
    for (std::int64_t r = 0; r < rows; ++r)
      std::copy_n(values.begin() + r * cols, cols, data.begin() + r * stride);
  }
  Padded(std::int64_t row_count, std::int64_t col_count, std::int64_t extra = 3)
      : Padded(std::vector<float>(static_cast<std::size_t>(row_count * col_count), kGuard),
               row_count, col_count, extra) {}

  Mat mat() { return {reinterpret_cast<std::byte*>(data.data()), DType::f32, rows, cols, stride}; }
  ConstMat view() const {
    return {reinterpret_cast<const std::byte*>(data.data()), DType::f32, rows, cols, stride};
  }
  std::vector<float> values() const {
    std::vector<float> all;
    for (std::int64_t r = 0; r < rows; ++r)
      all.insert(all.end(), data.begin() + r * stride, data.begin() + r * stride + cols);
    return all;
  }
  bool guards_intact() const {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = cols; c < stride; ++c)
        if (data[static_cast<std::size_t>(r * stride + c)] != kGuard) return false;
    return true;
  }

  std::int64_t rows, cols, stride;
  std::vector<float> data;
};

/// An exact sink with its memory. 32768 is the range of the product's own sinks at 64 addends.
struct ExactSums {
  explicit ExactSums(std::int64_t n, std::int64_t start = 0)
      : sums(static_cast<std::size_t>(n), start) {}
  GradSink sink(bool overwrite) {
    return {.exact = sums.data(),
            .elems = std::ssize(sums),
            .overwrite = overwrite,
            .limit = 32768,
            .flag = &flag};
  }
  std::vector<float> values() const {
    std::vector<float> all;
    for (const std::int64_t sum : sums)
      all.push_back(static_cast<float>(std::ldexp(static_cast<double>(sum), -kFractionBits)));
    return all;
  }
  std::vector<std::int64_t> sums;
  RangeFlag flag;
};

inline double largest_error(const std::vector<float>& values,
                            const std::vector<double>& reference) {
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double error = std::abs(static_cast<double>(values[i]) - reference[i]);
    worst = error <= worst ? worst : error;  // NaN becomes the worst and stays
  }
  return worst;
}

/// The error rule above.
inline void expect_accurate(std::string_view what, const std::vector<float>& ours,
                            const std::vector<float>& plain, const std::vector<double>& reference) {
  ASSERT_EQ(ours.size(), reference.size());
  ASSERT_EQ(plain.size(), reference.size());
  double largest = 0;
  for (const double value : reference) largest = std::max(largest, std::abs(value));
  const double floor = largest * 0x1p-23;
  EXPECT_LE(largest_error(ours, reference), 2 * largest_error(plain, reference) + floor) << what;
}

/// Compares a gradient with central differences of `loss` (a function of the values, in double).
/// Steps of 1e-5 leave an error near 1e-10 of the loss's scale; 1e-6 is far from any wrong term.
template <typename Loss>
void expect_gradient(std::string_view what, std::vector<double> at,
                     const std::vector<double>& gradient, const Loss& loss) {
  ASSERT_EQ(at.size(), gradient.size());
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double original = at[i];
    at[i] = original + kStep;
    const double above = loss(at);
    at[i] = original - kStep;
    const double below = loss(at);
    at[i] = original;
    ASSERT_NEAR((above - below) / (2 * kStep), gradient[i], 1e-6 * (1 + std::abs(gradient[i])))
        << what << " element " << i;
  }
}

}  // namespace elaswave::kernels
