// Inputs of kernel tests, plain versions of what many of them need, and the rule by which a result
// is close enough.
//
// Error rule: the largest error against a double-precision reference is at most twice that of a
// plain version of the same precision plus one unit in the last place of f32 of the largest value,
// the grain of f32 results. The plain version is the reference text in f32; with bf16 it rounds to
// bf16 (stored()) what a kernel stores and what it multiplies: operands of matrix products.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "io/base/philox.h"
#include "io/base/types.h"
#include "model/kernels/ops.h"

namespace elaswave::testing {

/// n numbers, roughly normal (sums of 12 uniforms), times `scale`; a function of `seed`.
std::vector<float> random_floats(std::int64_t n, std::uint64_t seed, float scale = 1);
/// Uniform in (-scale, scale), a function of (name, index) alone.
std::vector<float> random_values(std::int64_t elems, std::string_view name, float scale = 1);
std::vector<RandomStream> sample_streams(std::int64_t count, std::uint64_t seed);

/// The definition of ops.h, in scalar code: 0 or 1 / (1 - rate).
float dropout_factor(const kernels::Dropout& dropout, std::int64_t sample, std::int64_t element);

/// As the storage type holds it. The double-precision reference is of no storage type.
float stored(float value, DType dtype);
inline double stored(double value, DType) {
  return value;
}
std::vector<float> stored(std::vector<float> values, DType dtype);

/// The same numbers in another type.
template <typename Real>
std::vector<Real> converted(std::span<const float> values) {
  return {values.begin(), values.end()};
}

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

bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

/// C[m][n] = sum over k in order, in T: `a_m`, `a_k` are the strides of A in elements, likewise for
/// B.
template <typename T>
std::vector<T> naive_product(std::span<const T> a, std::int64_t a_m, std::int64_t a_k,
                             std::span<const T> b, std::int64_t b_k, std::int64_t b_n,
                             std::int64_t M, std::int64_t N, std::int64_t K) {
  std::vector<T> c(static_cast<std::size_t>(M * N), T{0});
  for (std::int64_t m = 0; m < M; ++m)
    for (std::int64_t k = 0; k < K; ++k)
      for (std::int64_t n = 0; n < N; ++n)
        c[static_cast<std::size_t>(m * N + n)] += a[static_cast<std::size_t>(m * a_m + k * a_k)] *
                                                  b[static_cast<std::size_t>(k * b_k + n * b_n)];
  return c;
}

/// NaN when a value is NaN.
double largest_error(std::span<const double> values, std::span<const double> reference);

/// The error rule above.
void expect_accurate(std::string_view what, std::span<const double> ours,
                     std::span<const float> plain, std::span<const double> reference);
void expect_accurate(std::string_view what, const std::vector<float>& ours,
                     std::span<const float> plain, std::span<const double> reference);

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

}  // namespace elaswave::testing
