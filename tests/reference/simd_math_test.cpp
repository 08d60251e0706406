// The accuracy simd.h states for exp and log, and that both instruction sets give the same bits.
#include "tests/reference/simd_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace elaswave::kernels {
namespace {

using Function = void (*)(const float*, float*, std::int64_t);

bool machine_has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

std::vector<float> run(Function function, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  function(x.data(), y.data(), std::ssize(x));
  return y;
}

std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

// Largest distance in units of the last place of the correct result (of the smallest normal, below
// it).
double worst_ulp(const std::vector<float>& x, const std::vector<float>& y,
                 double (*reference)(double)) {
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = reference(static_cast<double>(x[i]));
    const int exponent = std::max(std::ilogb(expected), -126);
    worst = std::max(
        worst, std::abs(static_cast<double>(y[i]) - expected) / std::ldexp(1.0, exponent - 23));
  }
  return worst;
}

// Every 1009th float of a range of positive ones, both signs where wanted.
std::vector<float> floats_between(float first, float last) {
  std::vector<float> values;
  for (auto bits = std::bit_cast<std::uint32_t>(first); bits < std::bit_cast<std::uint32_t>(last);
       bits += 1009)
    values.push_back(std::bit_cast<float>(bits));
  return values;
}

TEST(SimdMath, exp_is_accurate) {
  std::vector<float> x = floats_between(1e-10f, 88.0f);
  const std::size_t half = x.size();
  for (std::size_t i = 0; i < half; ++i) x.push_back(-x[i]);
  const auto y = run(exp_avx2, x);
  EXPECT_LE(worst_ulp(x, y, std::exp), 1.0);
  if (machine_has_avx512()) {
    EXPECT_EQ(bits_of(run(exp_avx512, x)), bits_of(y));
  }
}

TEST(SimdMath, log_is_accurate) {
  const std::vector<float> x =
      floats_between(std::numeric_limits<float>::min(), std::numeric_limits<float>::max());
  const auto y = run(log_avx2, x);
  EXPECT_LE(worst_ulp(x, y, std::log), 2.0);
  if (machine_has_avx512()) {
    EXPECT_EQ(bits_of(run(log_avx512, x)), bits_of(y));
  }
}

TEST(SimdMath, edges) {
  const std::vector<float> x = {-INFINITY, -1e30f, -104.0f,  -103.0f, 0.0f,
                                89.0f,     1e30f,  INFINITY, NAN};
  for (const Function function : {exp_avx2, exp_avx512}) {
    if (function == exp_avx512 && !machine_has_avx512()) continue;
    const auto y = run(function, x);
    for (const std::size_t i : {0, 1, 2}) EXPECT_EQ(y[i], 0.0f) << x[i];
    EXPECT_EQ(y[3], std::numeric_limits<float>::denorm_min());  // denormals are kept
    EXPECT_EQ(y[4], 1.0f);
    for (const std::size_t i : {5, 6, 7}) EXPECT_EQ(y[i], INFINITY) << x[i];
    EXPECT_TRUE(std::isnan(y[8]));
  }
  for (const Function function : {log_avx2, log_avx512}) {
    if (function == log_avx512 && !machine_has_avx512()) continue;
    const auto y = run(function, {1.0f, INFINITY, NAN});
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_TRUE(std::isnan(y[1]) && std::isnan(y[2]));
  }
}

}  // namespace
}  // namespace elaswave::kernels
