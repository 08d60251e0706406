// The head on slices of the vocabulary: logits and statistics on each, combined in slice order,
// then gradients on each.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "tests/reference/head_case.h"

namespace elaswave::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Cuts = std::vector<std::int64_t>;

// What the slices give together; dx is the sum of their terms in slice order.
struct Sliced {
  std::vector<float> loss_N, dx_NC;
  std::vector<std::int64_t> dw_VC;
  std::vector<LogitStats> stats_SN;  // of the last chunk
};

// Slice i has the rows [cuts[i], cuts[i + 1]) of the vocabulary.
Sliced run_sliced(const CpuContext& context, Head& head, const Cuts& cuts, bool gradients = true) {
  const std::size_t slices = cuts.size() - 1;
  Sliced result;
  result.loss_N.resize(static_cast<std::size_t>(head.N), -1);
  result.dx_NC.resize(static_cast<std::size_t>(head.N * head.C));
  result.dw_VC.resize(static_cast<std::size_t>(head.V * head.C), 777);
  for (std::int64_t first = 0; first < head.N; first += kLossChunkTokens) {
    const std::int64_t tokens = std::min(kLossChunkTokens, head.N - first);
    const auto size = static_cast<std::size_t>(tokens), offset = static_cast<std::size_t>(first);
    const ConstMat x = head.x.view().rows_from(first, tokens), w = head.w.view();
    const auto targets = std::span<const std::int32_t>(head.targets).subspan(offset, size);
    std::vector<PaddedMat> logits;
    std::vector<LogitStats> stats(slices * size), total(size);
    for (std::size_t i = 0; i < slices; ++i) {
      const std::int64_t V = cuts[i + 1] - cuts[i];
      logits.emplace_back(tokens, V, logits_stride(V) - V);
      head_logits(context, {.x_NC = x,
                            .w_VC = w.rows_from(cuts[i], V),
                            .targets_N = targets,
                            .vocab_begin = cuts[i],
                            .logits_NV = logits[i].view(),
                            .stats_N = std::span(stats).subspan(i * size, size)});
    }
    head_combine(context, {.stats_SN = stats,
                           .total_N = total,
                           .loss_N = std::span(result.loss_N).subspan(offset, size)});
    result.stats_SN = stats;
    for (std::size_t i = 0; gradients && i < slices; ++i) {
      const std::int64_t V = cuts[i + 1] - cuts[i];
      PaddedMat term(tokens, head.C, 1);
      head_gradient(context, {.logits_NV = logits[i].view(),
                              .x_NC = x,
                              .w_VC = w.rows_from(cuts[i], V),
                              .targets_N = targets,
                              .vocab_begin = cuts[i],
                              .total_N = total,
                              .scale = head.scale,
                              .dx_NC = term.view(),
                              .dw_VC = {.exact = result.dw_VC.data() + cuts[i] * head.C,
                                        .elems = V * head.C,
                                        .overwrite = first == 0,
                                        .limit = 1024,
                                        .flag = &head.flag}});
      EXPECT_TRUE(term.padding_untouched() && logits[i].padding_untouched());
      const std::vector<float> dense = term.dense();
      float* sum = result.dx_NC.data() + first * head.C;
      for (std::size_t j = 0; j < dense.size(); ++j) sum[j] = i == 0 ? dense[j] : sum[j] + dense[j];
    }
  }
  return result;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(HeadSlices, OneSliceIsHeadLossBitByBit) {
  struct Shape {
    std::int64_t N, C, V;
  };
  for (const Shape s : {Shape{113, 37, 257}, {1, 8, 5}, {301, 24, 1031}, {64, 64, 1024}})
    for (const NamedSimd& simd : simd_tables()) {
      Head head(s.N, s.C, s.V);
      head.scale = 0.3f;
      CpuBench bench(2, *simd.table);
      head_loss(bench.context(), head.args());
      const Sliced sliced = run_sliced(bench.context(), head, {0, s.V});
      EXPECT_TRUE(same_bits(sliced.loss_N, head.loss)) << simd.name << " V " << s.V;
      EXPECT_TRUE(same_bits(sliced.dx_NC, head.dx.dense())) << simd.name << " V " << s.V;
      EXPECT_TRUE(sliced.dw_VC == head.dw) << simd.name << " V " << s.V;
    }
}

// Even, uneven and one-row slices; vocabularies that no vector length divides.
TEST(HeadSlices, MatchDoublePrecision) {
  struct Case {
    std::int64_t N, C, V;
    Cuts cuts;
  };
  for (const Case& c : {Case{113, 37, 257, {0, 129, 257}}, Case{113, 37, 257, {0, 100, 101, 257}},
                        Case{1, 8, 5, {0, 2, 4, 5}}, Case{301, 24, 1031, {0, 258, 516, 774, 1031}},
                        Case{520, 16, 300, {0, 17, 33, 299, 300}}}) {
    Head head(c.N, c.C, c.V);
    head.scale = 0.25f;
    const Reference<double> want = reference<double>(head);
    const Reference<float> plain = reference<float>(head);
    for (const NamedSimd& simd : simd_tables()) {
      const std::string what = std::string(simd.name) + " V " + std::to_string(c.V) + " in " +
                               std::to_string(c.cuts.size() - 1);
      CpuBench bench(2, *simd.table);
      const Sliced sliced = run_sliced(bench.context(), head, c.cuts);
      expect_as_good_as_plain<float>(sliced.loss_N, plain.loss_N, want.loss_N, what + " loss");
      expect_as_good_as_plain<float>(sliced.dx_NC, plain.dx_NC, want.dx_NC, what + " dx");
      expect_as_good_as_plain<double>(values_of(sliced.dw_VC), plain.dw_VC, want.dw_VC,
                                      what + " dW");
      EXPECT_EQ(head.flag.bad.load(), 0u);
      EXPECT_TRUE(same_bits(run_sliced(bench.context(), head, c.cuts, false).loss_N, sliced.loss_N))
          << what << ": the loss does not depend on gradients";
    }
  }
}

// Slice edges included: the front target is 0, the back one V - 1.
TEST(HeadSlices, EachTargetIsInOneSlice) {
  Head head(200, 12, 61);
  const Cuts cuts = {0, 1, 20, 40, 60, 61};
  for (std::int64_t id = 0; id < head.V; ++id)
    head.targets[static_cast<std::size_t>(id) + 1] = static_cast<std::int32_t>(id);
  CpuBench bench(2);
  const Sliced sliced = run_sliced(bench.context(), head, cuts);
  for (std::size_t n = 0; n < 200; ++n)
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const bool here = head.targets[n] >= cuts[i] && head.targets[n] < cuts[i + 1];
      EXPECT_EQ(sliced.stats_SN[i * 200 + n].target != -kInfinity, here) << n << " slice " << i;
    }
}

TEST(HeadSlices, BitsDoNotDependOnThreads) {
  Sliced first;
  for (const int threads : {1, 2, 3, 4, 8}) {
    Head head(kLossChunkTokens + 45, 96, 2003);
    CpuBench bench(threads);
    Sliced sliced = run_sliced(bench.context(), head, {0, 700, 1500, 2003});
    if (threads == 1) first = sliced;
    EXPECT_TRUE(same_bits(sliced.loss_N, first.loss_N)) << threads;
    EXPECT_TRUE(same_bits(sliced.dx_NC, first.dx_NC)) << threads;
    EXPECT_TRUE(sliced.dw_VC == first.dw_VC) << threads;
  }
}

// Logits of several thousand; the largest of slices lie far apart.
TEST(HeadSlices, LargeLogitsStayFinite) {
  for (const NamedSimd& simd : simd_tables()) {
    Head head(17, 64, 300, 1000.0f);
    CpuBench bench(1, *simd.table);
    const Reference<double> want = reference<double>(head);
    const Reference<float> plain = reference<float>(head);
    const Sliced sliced = run_sliced(bench.context(), head, {0, 3, 150, 300});
    expect_as_good_as_plain<float>(sliced.loss_N, plain.loss_N, want.loss_N, "large logits");
  }
}

// A weight that is not finite is seen by all tokens and by all slices, a token's input by that
// token alone.
TEST(HeadSlices, WhatIsNotFiniteReachesEverySlice) {
  const Cuts cuts = {0, 20, 50};
  for (const float bad : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    Head weight(30, 12, 50), input(30, 12, 50);
    weight.w.view().f32()[weight.w.view().stride * 33] = bad;  // in the second slice
    input.x.view().f32()[5] = bad;
    for (std::int64_t n = 0; n < 30; ++n)  // so that infinity meets the same sign everywhere
      weight.x.view().f32()[n * weight.x.view().stride] = 1;
    CpuBench bench(2);
    const Sliced all = run_sliced(bench.context(), weight, cuts);
    for (const float loss : all.loss_N) EXPECT_TRUE(std::isnan(loss));
    for (const float dx : all.dx_NC) EXPECT_TRUE(std::isnan(dx));
    EXPECT_EQ(weight.flag.bad.load(), 1u);
    const Sliced one = run_sliced(bench.context(), input, cuts);
    EXPECT_TRUE(std::isnan(one.loss_N[0]));
    for (std::size_t n = 1; n < 30; ++n) EXPECT_TRUE(std::isfinite(one.loss_N[n])) << n;
    EXPECT_EQ(input.flag.bad.load(), 1u);
  }
}

// By hand: 3 slices, 2 tokens.
TEST(HeadCombine, AddsInSliceOrder) {
  const std::vector<LogitStats> stats = {{2, 3, -kInfinity},  {-500, 7, -501},
                                         {4, 1.5f, 3.5f},     {-3000, 2, -kInfinity},
                                         {1, 20, -kInfinity}, {-500.5f, 1, -kInfinity}};
  for (const NamedSimd& simd : simd_tables()) {
    CpuBench bench(1, *simd.table);
    std::vector<LogitStats> total(2);
    std::vector<float> loss(2);
    head_combine(bench.context(), {stats, total, loss});
    EXPECT_EQ(total[0].largest, 4.0f);
    EXPECT_EQ(total[0].target, 3.5f);
    EXPECT_EQ(total[1].largest, -500.0f);
    EXPECT_EQ(total[1].target, -501.0f);
    const double sums[] = {3 * std::exp(-2.0) + 1.5 + 20 * std::exp(-3.0), 7 + std::exp(-0.5)};
    const double losses[] = {std::log(sums[0]) + 0.5, std::log(sums[1]) + 1};
    for (std::size_t n = 0; n < 2; ++n) {  // a handful of roundings
      EXPECT_NEAR(static_cast<double>(total[n].sum), sums[n], 4 * 0x1p-23 * sums[n]);
      EXPECT_NEAR(static_cast<double>(loss[n]), losses[n], 8 * 0x1p-23 * losses[n]);
    }
  }
}

// Equal largest logits: the factors are 1, and 2^24 takes in one 1 after another without a trace,
// but not their sum.
TEST(HeadCombine, NeverAddsInAnotherOrder) {
  const std::vector<LogitStats> stats = {{1, 0x1p24f, 1}, {1, 1, -kInfinity}, {1, 1, -kInfinity}};
  const std::vector<LogitStats> reversed(stats.rbegin(), stats.rend());
  CpuBench bench(1);
  LogitStats total;
  float loss = 0;
  head_combine(bench.context(), {stats, {&total, 1}, {&loss, 1}});
  EXPECT_EQ(total.sum, 0x1p24f);
  head_combine(bench.context(), {reversed, {&total, 1}, {&loss, 1}});
  EXPECT_EQ(total.sum, 0x1p24f + 2);
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

TEST(HeadDeath, RefusesWhatIsNoChunk) {
  Head head(kLossChunkTokens + 1, 4, 7);
  CpuBench bench(1);
  PaddedMat logits(head.N, head.V);
  std::vector<LogitStats> stats(static_cast<std::size_t>(head.N));
  EXPECT_DEATH(head_logits(bench.context(),
                           {head.x.view(), head.w.view(), head.targets, 0, logits.view(), stats}),
               "257 tokens in a chunk of at most 256");
}

}  // namespace
}  // namespace elaswave::kernels
