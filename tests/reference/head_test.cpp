#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/reference/head_case.h"

namespace elaswave::kernels {
namespace {

// Odd sizes, one token, more than one chunk of tokens, vocabulary below a vector.
TEST(Head, MatchesDoublePrecision) {
  struct Shape {
    std::int64_t N, C, V;
  };
  for (const Shape s :
       {Shape{113, 37, 257}, {1, 8, 5}, {301, 24, 1031}, {64, 64, 1024}, {520, 16, 300}}) {
    Head head(s.N, s.C, s.V);
    head.scale = 0.25f;
    const Reference<double> want = reference<double>(head);
    const Reference<float> plain = reference<float>(head);
    for (const NamedSimd& simd : simd_tables()) {
      const std::string what = std::string(simd.name) + " V " + std::to_string(s.V);
      CpuBench bench(2, *simd.table);
      head_loss(bench.context(), head.args());
      expect_as_good_as_plain<float>(head.loss, plain.loss_N, want.loss_N, what + " loss");
      expect_as_good_as_plain<float>(head.dx.dense(), plain.dx_NC, want.dx_NC, what + " dx");
      expect_as_good_as_plain<double>(values_of(head.dw), plain.dw_VC, want.dw_VC, what + " dW");
      EXPECT_TRUE(head.dx.padding_untouched());
      EXPECT_EQ(head.flag.bad.load(), 0u);
    }
  }
}

// d(scale * sum of losses) by central differences of the double-precision head.
TEST(Head, GradientsMatchFiniteDifferences) {
  Head head(6, 5, 19);
  head.scale = 2;
  CpuBench bench(2);
  head_loss(bench.context(), head.args());
  const std::vector<double> x = as<double>(head.x.dense()), w = as<double>(head.w.dense());
  const auto value = [&](const std::vector<double>& xs, const std::vector<double>& ws) {
    const std::vector<double> logits =
        naive_product<double>(xs, head.C, 1, ws, 1, head.C, head.N, head.V, head.C);
    double total = 0;
    for (std::int64_t n = 0; n < head.N; ++n) {
      double sum = 0;
      for (std::int64_t v = 0; v < head.V; ++v)
        sum += std::exp(logits[static_cast<std::size_t>(n * head.V + v)]);
      total +=
          std::log(sum) -
          logits[static_cast<std::size_t>(n * head.V + head.targets[static_cast<std::size_t>(n)])];
    }
    return 2 * total;
  };
  // Truncation h^2/6 * f''' with f''' below 2, roundings 1e-15 / h; the kernel's own: a few 2^-24
  // of values near 1.
  constexpr double kStep = 1e-4, kTolerance = 2e-6;
  const std::vector<float> dx = head.dx.dense();
  const std::vector<double> dw = values_of(head.dw);
  for (std::size_t i = 0; i < x.size(); ++i) {
    auto up = x, down = x;
    up[i] += kStep, down[i] -= kStep;
    EXPECT_NEAR(static_cast<double>(dx[i]), (value(up, w) - value(down, w)) / (2 * kStep),
                kTolerance);
  }
  for (std::size_t i = 0; i < w.size(); ++i) {
    auto up = w, down = w;
    up[i] += kStep, down[i] -= kStep;
    EXPECT_NEAR(dw[i], (value(x, up) - value(x, down)) / (2 * kStep), kTolerance);
  }
}

TEST(Head, BitsDoNotDependOnThreads) {
  std::vector<float> loss, dx;
  std::vector<std::int64_t> dw;
  for (const int threads : {1, 2, 3, 4, 8}) {
    Head head(2 * kLossChunkTokens + 45, 96, 2003);
    CpuBench bench(threads);
    head_loss(bench.context(), head.args());
    if (loss.empty()) loss = head.loss, dx = head.dx.dense(), dw = head.dw;
    EXPECT_EQ(std::memcmp(head.loss.data(), loss.data(), loss.size() * 4), 0) << threads;
    EXPECT_EQ(std::memcmp(head.dx.dense().data(), dx.data(), dx.size() * 4), 0) << threads;
    EXPECT_TRUE(head.dw == dw) << threads;
  }
}

// Each chunk of tokens is one addend: a call equals separate calls on its chunks, bit by bit.
TEST(Head, ChunksAreSeparateContributions) {
  const std::int64_t N = kLossChunkTokens + 77;
  EXPECT_EQ(loss_contributions(N), 2);
  EXPECT_EQ(loss_contributions(kLossChunkTokens), 1);
  Head whole(N, 40, 515), parts(N, 40, 515);
  CpuBench bench(2);
  head_loss(bench.context(), whole.args());
  for (const std::int64_t first : {std::int64_t{0}, kLossChunkTokens}) {
    const std::int64_t count = first == 0 ? kLossChunkTokens : 77;
    HeadLoss args = parts.args();
    args.x_NC = args.x_NC.rows_from(first, count);
    args.targets_N =
        args.targets_N.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    args.loss_N =
        args.loss_N.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    args.dx_NC = args.dx_NC.rows_from(first, count);
    args.dw_VC.overwrite = first == 0;
    head_loss(bench.context(), args);
  }
  EXPECT_EQ(whole.loss, parts.loss);
  EXPECT_EQ(whole.dx.dense(), parts.dx.dense());
  EXPECT_TRUE(whole.dw == parts.dw);
}

// A micro-batch after the first adds to the sums.
TEST(Head, AddsToTheSink) {
  Head head(33, 16, 100);
  CpuBench bench(2);
  head_loss(bench.context(), head.args());
  const std::vector<std::int64_t> once = head.dw;
  HeadLoss again = head.args();
  again.dw_VC.overwrite = false;
  head_loss(bench.context(), again);
  for (std::size_t i = 0; i < once.size(); ++i) ASSERT_EQ(head.dw[i], 2 * once[i]);
}

TEST(Head, LossAloneHasTheSameBitsAndTouchesNothingElse) {
  for (const NamedSimd& simd : simd_tables()) {
    Head with(300, 32, 777), without(300, 32, 777);
    CpuBench bench(2, *simd.table);
    head_loss(bench.context(), with.args());
    head_loss(bench.context(), without.loss_only());
    EXPECT_EQ(with.loss, without.loss) << simd.name;
    EXPECT_EQ(without.dw.front(), 777);
    EXPECT_EQ(without.dx.dense().front(), PaddedMat::kCanary);
  }
}

// Logits of several thousand: exp would overflow without the shift by the largest.
TEST(Head, LargeLogitsStayFinite) {
  for (const NamedSimd& simd : simd_tables()) {
    Head head(17, 64, 300, 1000.0f);
    CpuBench bench(1, *simd.table);
    head_loss(bench.context(), head.args());
    const Reference<double> want = reference<double>(head);
    const Reference<float> plain = reference<float>(head);
    expect_as_good_as_plain<float>(head.loss, plain.loss_N, want.loss_N, "large logits");
  }
}

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

TEST(Head, NonFiniteInputRaisesTheFlag) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Head head(30, 12, 50);
    head.x.view().f32()[5] = bad;
    CpuBench bench(2);
    head_loss(bench.context(), head.args());
    EXPECT_EQ(head.flag.bad.load(), 1u);
    EXPECT_TRUE(std::isnan(head.loss[0]));
    EXPECT_TRUE(std::isfinite(head.loss[1])) << "other tokens are not concerned";
  }
}

TEST(HeadDeath, RefusesTargetsOutsideTheVocabulary) {
  Head head(3, 4, 7);
  head.targets[1] = 7;
  CpuBench bench(1);
  EXPECT_DEATH(head_loss(bench.context(), head.args()), "target 7 of a vocabulary of 7");
}

}  // namespace
}  // namespace elaswave::kernels
