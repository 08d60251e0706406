// What tests of the CPU backend's own functions share, below the seam of ops.h: matrices in host
// memory, streams with their workspace, tables of vector routines.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "model/kernels/gemm_cpu.h"
#include "tests/support/kernel_numbers.h"

namespace elaswave::testing {

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
