// The CPU's vector routines under the head's operations, for each table this machine can run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <vector>

#include "tests/support/kernel_testing.h"

namespace elaswave::kernels {
namespace {

using namespace elaswave::testing;

// The routines over every row length up to a few vectors, and at every place of something that is
// not finite.
TEST(HeadRoutines, EveryLengthAndPosition) {
  for (const NamedSimd& simd : simd_tables())
    for (std::int64_t n = 1; n <= 150; ++n) {
      const auto row = random_values(n, "row", 4);
      const std::int64_t target = n / 2;
      double sum = 0;
      for (const float value : row) sum += std::exp(static_cast<double>(value));
      const double want =
          std::log(sum) - static_cast<double>(row[static_cast<std::size_t>(target)]);
      const float got = simd.table->token_loss(row.data(), n, target);
      // Values up to 13 in f32, sums of up to 150 terms in at least 8 lanes: a dozen roundings.
      ASSERT_NEAR(static_cast<double>(got), want, 13 * 12 * 0x1p-24) << simd.name << " n " << n;
      auto gradient = row;
      ASSERT_EQ(simd.table->token_loss_gradient(gradient.data(), n, target, 3.0f), got);
      double total = 0;
      for (const float value : gradient) total += static_cast<double>(value);
      ASSERT_NEAR(total, 0, 3 * 12 * 0x1p-24) << "a gradient of softmax sums to nothing";
    }
}

TEST(HeadRoutines, WhatIsNotFiniteIsSeen) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const NamedSimd& simd : simd_tables())
    for (const std::int64_t n : {1, 16, 40, 133})
      for (std::int64_t at = 0; at < n; ++at)
        for (const float bad : {kInf, std::numeric_limits<float>::quiet_NaN()}) {
          auto row = random_values(n, "row");
          row[static_cast<std::size_t>(at)] = bad;
          ASSERT_TRUE(std::isnan(simd.table->token_loss(row.data(), n, 0)))
              << simd.name << " " << n << " " << at;
          ASSERT_TRUE(std::isnan(simd.table->token_loss_gradient(row.data(), n, 0, 1.0f)));
        }
}

// The routines on parts of a row have the bits of the routine on all of it, given its statistics.
TEST(HeadRoutines, PartsOfARowAreTheRow) {
  std::int64_t cases = 0;
  for (const NamedSimd& simd : simd_tables())
    for (std::int64_t n = 1; n <= 100; ++n)
      for (const std::int64_t cut : {n / 3, n / 2, n - 1, n}) {
        if (cut == 0) continue;
        const auto row = random_values(n, "row", 4);
        const std::int64_t target = n * 2 / 3;
        auto whole = row, parts = row;
        const float loss = simd.table->token_loss_gradient(whole.data(), n, target, 3.0f);
        float largest = 0;
        const float sum = simd.table->token_sum(row.data(), n, &largest);
        ASSERT_EQ(largest, *std::max_element(row.begin(), row.end()));
        ASSERT_EQ(simd.table->token_loss_of(sum, row[static_cast<std::size_t>(target)] - largest),
                  loss);
        simd.table->token_gradient(parts.data(), cut, target < cut ? target : -1, largest, sum,
                                   3.0f);
        simd.table->token_gradient(parts.data() + cut, n - cut, target < cut ? -1 : target - cut,
                                   largest, sum, 3.0f);
        ASSERT_TRUE(same_bits(parts, whole)) << simd.name << " " << n << " cut at " << cut;
        ++cases;
      }
  std::cout << cases << " cuts\n";
}

}  // namespace
}  // namespace elaswave::kernels
