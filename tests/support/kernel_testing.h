// What tests of CPU kernels share: reproducible inputs, naive products in any precision, and the
// rule by which a result is close enough.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "io/base/philox.h"
#include "model/kernels/gemm_cpu.h"

namespace elaswave::testing {

/// Uniform in (-scale, scale), a function of (name, index) alone.
inline std::vector<float> random_values(std::int64_t elems, std::string_view name,
                                        float scale = 1) {
  const RandomStream stream = random_stream(hash_text(name), RandomUse::test);
  std::vector<float> values(static_cast<std::size_t>(elems));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = scale * (2 * uniform01(random_word(stream, i)) - 1);
  return values;
}

/// The same numbers in another type.
template <typename T>
std::vector<T> as(std::span<const float> values) {
  return {values.begin(), values.end()};
}

/// A row-major matrix inside a larger allocation: `pad` extra elements a row, all holding kCanary.
class PaddedMat {
 public:
  static constexpr float kCanary = -12345.5f;

  PaddedMat(std::int64_t rows, std::int64_t cols, std::int64_t pad = 0)
      : rows_(rows), cols_(cols), stride_(cols + pad) {
    values_.assign(static_cast<std::size_t>(rows * stride_ + pad), kCanary);
  }
  PaddedMat(std::span<const float> dense, std::int64_t rows, std::int64_t cols,
            std::int64_t pad = 0)
      : PaddedMat(rows, cols, pad) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c)
        values_[static_cast<std::size_t>(r * stride_ + c)] =
            dense[static_cast<std::size_t>(r * cols + c)];
  }

  device::Mat view() {
    return {reinterpret_cast<std::byte*>(values_.data()), DType::f32, rows_, cols_, stride_};
  }
  std::vector<float> dense() const {
    std::vector<float> result;
    for (std::int64_t r = 0; r < rows_; ++r)
      result.insert(result.end(), values_.begin() + r * stride_,
                    values_.begin() + r * stride_ + cols_);
    return result;
  }
  bool padding_untouched() const {
    for (std::size_t i = 0; i < values_.size(); ++i)
      if (static_cast<std::int64_t>(i) >= rows_ * stride_ ||
          static_cast<std::int64_t>(i) % stride_ >= cols_)
        if (values_[i] != kCanary) return false;
    return true;
  }

 private:
  std::int64_t rows_, cols_, stride_;
  std::vector<float> values_;
};

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

/// The rule for kernels: the largest error is at most twice that of a plain f32 version, plus a few
/// roundings of the largest result (the plain version may happen to be exact).
template <typename Got>
void expect_as_good_as_plain(std::span<const Got> got, std::span<const float> plain,
                             std::span<const double> reference, std::string_view what) {
  ASSERT_EQ(got.size(), reference.size()) << what;
  ASSERT_EQ(plain.size(), reference.size()) << what;
  double error = 0, plain_error = 0, largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(static_cast<double>(got[i]))) << what << " element " << i;
    error = std::max(error, std::abs(static_cast<double>(got[i]) - reference[i]));
    plain_error = std::max(plain_error, std::abs(static_cast<double>(plain[i]) - reference[i]));
    largest = std::max(largest, std::abs(reference[i]));
  }
  const double floor = 4 * 0x1p-24 * largest;
  EXPECT_LE(error, 2 * plain_error + floor)
      << what << ": plain version " << plain_error << ", largest value " << largest;
}

/// The value an exact sum stands for.
inline std::vector<double> values_of(std::span<const std::int64_t> sums) {
  std::vector<double> values(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    values[i] = std::ldexp(static_cast<double>(sums[i]), -kernels::kFractionBits);
  return values;
}

/// A stream, its workspace and a table of vector routines.
class CpuBench {
 public:
  explicit CpuBench(int threads, const kernels::GemmSimd& simd = kernels::gemm_simd_avx2)
      : stream_(threads), context_{stream_, simd, workspace_} {}
  const kernels::CpuContext& context() const { return context_; }

 private:
  device::CpuStream stream_;
  kernels::Workspace workspace_;
  kernels::CpuContext context_;
};

struct NamedSimd {
  std::string_view name;
  const kernels::GemmSimd* table;
};
/// The tables this machine can run.
inline std::vector<NamedSimd> simd_tables() {
  std::vector<NamedSimd> tables = {{"avx2", &kernels::gemm_simd_avx2}};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    tables.push_back({"avx512", &kernels::gemm_simd_avx512});
  return tables;
}

}  // namespace elaswave::testing
