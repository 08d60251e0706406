// Matrix products of the CPU backend, below the seam of ops.h.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/kernel_testing.h"

namespace elaswave::kernels {
namespace {

using namespace elaswave::testing;

constexpr float kLimit = 1024;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Sums {
  explicit Sums(std::int64_t elems)
      : exact(static_cast<std::size_t>(elems), 777),
        fast(static_cast<std::size_t>(elems), 777.0f) {}
  GradSink sink(bool overwrite) {
    return {.exact = exact.data(),
            .elems = static_cast<std::int64_t>(exact.size()),
            .overwrite = overwrite,
            .limit = kLimit,
            .flag = &flag};
  }
  GradSink fast_sink(bool overwrite) {
    return {.fast = fast.data(),
            .elems = static_cast<std::int64_t>(fast.size()),
            .overwrite = overwrite,
            .flag = &flag};
  }
  std::vector<std::int64_t> exact;
  std::vector<float> fast;
  RangeFlag flag;
};

std::int64_t on_grid(float g) {
  return std::llrint(static_cast<double>(g) * 0x1p40);
}

TEST(GemmTiling, CoversEveryShape) {
  for (const std::int64_t M : {1, 7, 32, 113, 256, 768, 1024, 4096, 50257})
    for (const std::int64_t N : {1, 5, 64, 203, 768, 2304, 3072, 50257})
      for (const std::int64_t K : {1, 33, 768, 50257}) {
        const Tiling tiling = gemm_tiling(M, N, K);
        ASSERT_GE(tiling.tile_rows, 1);
        ASSERT_GE(tiling.tile_cols, 1);
        // The last tile of a row or column is neither empty nor too large.
        ASSERT_GE(tiling.tile_rows * tiling.row_tiles, M);
        ASSERT_LT(tiling.tile_rows * (tiling.row_tiles - 1), M);
        ASSERT_GE(tiling.tile_cols * tiling.col_tiles, N);
        ASSERT_LT(tiling.tile_cols * (tiling.col_tiles - 1), N);
      }
}

TEST(GemmTiling, LargeProductsKeepManyThreadsBusyAndSmallOnesDoNot) {
  for (const std::int64_t N : {768, 2304, 3072})
    EXPECT_GE(gemm_tiling(1024, N, 768).tiles(), 12) << N;
  EXPECT_EQ(gemm_tiling(64, 64, 64).tiles(), 1);
  EXPECT_EQ(gemm_tiling(128, 32, 256).tiles(), 1);
  EXPECT_LE(gemm_tiling(256, 384, 128).tiles(), 8);
}

struct Shape {
  std::int64_t M, N, K;
};

// All three forms against double precision, dense and padded; padding is neither read nor written.
TEST(Gemm, MatchesDoublePrecision) {
  for (const Shape s : {Shape{1, 1, 1},
                        {113, 203, 37},
                        {113, 37, 203},
                        {37, 203, 113},
                        {257, 130, 1031},
                        {300, 500, 49}})
    for (const std::int64_t pad : {0, 3}) {
      const auto a = random_values(s.M * s.K, "a"), b = random_values(s.K * s.N, "b");
      const auto bias = random_values(s.N, "bias");
      const auto a_double = converted<double>(a), b_double = converted<double>(b);
      for (const Product product : {Product::nn, Product::nt, Product::tn}) {
        const bool at = product == Product::tn, bt = product == Product::nt;
        const std::int64_t a_m = at ? 1 : s.K, a_k = at ? s.M : 1, b_k = bt ? 1 : s.N,
                           b_n = bt ? s.K : 1;
        auto want = naive_product<double>(a_double, a_m, a_k, b_double, b_k, b_n, s.M, s.N, s.K);
        auto plain = naive_product<float>(a, a_m, a_k, b, b_k, b_n, s.M, s.N, s.K);
        PaddedMat a_mat(a, at ? s.K : s.M, at ? s.M : s.K, pad),
            b_mat(b, bt ? s.N : s.K, bt ? s.K : s.N, pad);
        for (std::size_t i = 0; i < want.size(); ++i) {
          want[i] += static_cast<double>(bias[i % bias.size()]);
          plain[i] += bias[i % bias.size()];
        }
        for (const NamedSimd& simd : simd_tables()) {
          PaddedMat c_mat(s.M, s.N, pad);
          CpuBench bench(2, *simd.table);
          gemm(bench.context(), gemm_of(product, a_mat.view(), b_mat.view()), c_mat.view(), bias);
          EXPECT_TRUE(c_mat.padding_untouched());
          expect_accurate(fmt::format("{} form {} K {}", simd.name, static_cast<int>(product), s.K),
                          c_mat.dense(), plain, want);
        }
      }
    }
}

// Leading dimensions and alignment do not change a bit.
TEST(Gemm, StridesDoNotChangeBits) {
  const std::int64_t M = 300, N = 203, K = 768;
  const auto a = random_values(M * K, "a"), b = random_values(K * N, "b");
  CpuBench bench(2);
  std::vector<float> first;
  for (const std::int64_t pad : {0, 1, 13, 64}) {
    PaddedMat a_mat(a, M, K, pad), b_mat(b, K, N, pad), c_mat(M, N, pad);
    gemm(bench.context(), gemm_of(Product::nn, a_mat.view(), b_mat.view()), c_mat.view());
    if (first.empty()) first = c_mat.dense();
    EXPECT_EQ(std::memcmp(first.data(), c_mat.dense().data(), first.size() * 4), 0)
        << "padding " << pad;
  }
}

// The promise everything rests on, at the sizes where the library's own threading was measured to
// break it.
TEST(Gemm, BitsDoNotDependOnThreads) {
  for (const std::int64_t K : {768, 1024, 3072, 4096}) {
    const std::int64_t M = 272, N = 400;
    const auto a = random_values(M * K, "a"), b = random_values(K * N, "b");
    for (const Product product : {Product::nn, Product::nt, Product::tn}) {
      PaddedMat a_mat(a, product == Product::tn ? K : M, product == Product::tn ? M : K);
      PaddedMat b_mat(b, product == Product::nt ? N : K, product == Product::nt ? K : N);
      const Gemm args = gemm_of(product, a_mat.view(), b_mat.view());
      ASSERT_GE(gemm_tiling(M, N, K).tiles(), 4) << "too few tiles to tell";
      std::vector<float> first;
      std::vector<std::int64_t> first_sums;
      for (const int threads : {1, 2, 3, 4, 8}) {
        CpuBench bench(threads);
        PaddedMat c_mat(M, N);
        Sums sums(M * N);
        omp_set_num_threads(9 - threads);  // what an environment may ask of the library's own team
        gemm(bench.context(), args, c_mat.view());
        if (threads == 1) {  // the caller ran every tile
          EXPECT_EQ(omp_get_max_threads(), 1) << "the library may start threads of its own";
        }
        gemm_into_sink(bench.context(), args, sums.sink(true));
        const std::vector<float> c = c_mat.dense();
        if (first.empty()) first = c, first_sums = sums.exact;
        EXPECT_EQ(std::memcmp(c.data(), first.data(), c.size() * 4), 0)
            << threads << " threads, K " << K << ", form " << static_cast<int>(product);
        EXPECT_TRUE(sums.exact == first_sums) << threads << " threads, K " << K;
        EXPECT_EQ(sums.flag.bad.load(), 0u);
      }
    }
  }
}

// An exact sum is llrint of the product's own elements: stored, then added, in any table.
TEST(GemmSink, ExactSumsAreRoundedProducts) {
  const std::int64_t M = 113, N = 203, K = 300;
  const auto a = random_values(M * K, "a", 0.01f), b = random_values(K * N, "b");
  PaddedMat a_mat(a, K, M), b_mat(b, K, N), c_mat(M, N);
  const Gemm args = gemm_of(Product::tn, a_mat.view(), b_mat.view());
  for (const NamedSimd& simd : simd_tables()) {
    CpuBench bench(2, *simd.table);
    gemm(bench.context(), args, c_mat.view());
    const std::vector<float> c = c_mat.dense();
    Sums sums(M * N);
    gemm_into_sink(bench.context(), args, sums.sink(true));
    for (std::size_t i = 0; i < c.size(); ++i)
      ASSERT_EQ(sums.exact[i], on_grid(c[i])) << simd.name << " " << i;
    gemm_into_sink(bench.context(), args, sums.sink(false));
    for (std::size_t i = 0; i < c.size(); ++i)
      ASSERT_EQ(sums.exact[i], 2 * on_grid(c[i])) << simd.name << " " << i;
    gemm_into_sink(bench.context(), args, sums.fast_sink(true));
    EXPECT_EQ(sums.fast, c);
    gemm_into_sink(bench.context(), args, sums.fast_sink(false));
    for (std::size_t i = 0; i < c.size(); ++i)
      ASSERT_EQ(sums.fast[i], 2 * c[i]) << simd.name << " " << i;
    EXPECT_EQ(sums.flag.bad.load(), 0u);
  }
}

// Every length up to a few vectors; ties, both signs, tiny and huge values, next to what the limit
// allows.
TEST(GemmSink, RoutinesRoundLikeLlrint) {
  std::vector<float> g = {
      0.0f,           -0.0f,          0x1p-40f,       0x1p-41f,        0x3p-41f,        -0x1p-41f,
      -0x3p-41f,      0x5p-41f,       0x1.8p-41f,     0x1.000002p-17f, 0x1.fffffep-18f, 1e-30f,
      1.0f,           -1.0f,          3.14159265f,    -2047.99f,       32767.5f,        -32767.5f,
      0x1.fffffep14f, 0x1.fffffep20f, -0x1.fffffep20f};
  const auto more = random_values(64, "g", 0x1p-16f);
  g.insert(g.end(), more.begin(), more.end());
  for (const NamedSimd& simd : simd_tables())
    for (std::size_t n = 0; n <= g.size(); ++n) {
      std::vector<std::int64_t> sums(n + 4, 1000), stored(n + 4, 1000);
      EXPECT_TRUE(
          simd.table->add_exact(g.data(), static_cast<std::int64_t>(n), 0x1p21f, sums.data()));
      EXPECT_TRUE(
          simd.table->store_exact(g.data(), static_cast<std::int64_t>(n), 0x1p21f, stored.data()));
      for (std::size_t i = 0; i < sums.size(); ++i) {
        ASSERT_EQ(sums[i], 1000 + (i < n ? on_grid(g[i]) : 0))
            << simd.name << " n " << n << " element " << i;
        ASSERT_EQ(stored[i], i < n ? on_grid(g[i]) : 1000)
            << simd.name << " n " << n << " element " << i;
      }
    }
}

// Not finite or at the limit: reported wherever it stands, and nothing else changes.
TEST(GemmSink, RoutinesReportBadAddends) {
  for (const NamedSimd& simd : simd_tables())
    for (const std::int64_t n : {1, 7, 16, 21, 50})
      for (std::int64_t at = 0; at < n; ++at)
        for (const float bad :
             {kInf, -kInf, kNan, kLimit, -kLimit, 2 * kLimit, std::numeric_limits<float>::max()}) {
          std::vector<float> g(static_cast<std::size_t>(n), 0.5f), fast(g.size(), 1.0f);
          std::vector<std::int64_t> sums(g.size(), 5);
          g[static_cast<std::size_t>(at)] = bad;
          ASSERT_FALSE(simd.table->add_exact(g.data(), n, kLimit, sums.data()))
              << simd.name << bad << at;
          for (std::int64_t i = 0; i < n; ++i)
            ASSERT_EQ(sums[static_cast<std::size_t>(i)], i == at ? 5 : 5 + on_grid(0.5f));
          ASSERT_FALSE(simd.table->store_exact(g.data(), n, kLimit, sums.data()));
          ASSERT_EQ(simd.table->add_fast(g.data(), n, fast.data()), std::isfinite(bad));
          ASSERT_EQ(simd.table->store_fast(g.data(), n, fast.data()), std::isfinite(bad));
        }
}

TEST(GemmSink, FlagIsRaisedAndKept) {
  const std::int64_t M = 130, N = 210, K = 20;
  CpuBench bench(3);
  for (const float bad : {kInf, kNan, 1e6f}) {
    auto a = random_values(K * M, "a");
    const auto b = std::vector<float>(static_cast<std::size_t>(K * N), 1.0f);
    PaddedMat b_mat(b, K, N);
    Sums sums(M * N), fast(M * N);
    a[static_cast<std::size_t>(K * M - 1)] = bad;
    PaddedMat a_mat(a, K, M);
    gemm_into_sink(bench.context(), gemm_of(Product::tn, a_mat.view(), b_mat.view()),
                   sums.sink(true));
    EXPECT_EQ(sums.flag.bad.load(), 1u) << bad;
    gemm_into_sink(bench.context(), gemm_of(Product::tn, a_mat.view(), b_mat.view()),
                   fast.fast_sink(true));
    EXPECT_EQ(fast.flag.bad.load(), std::isfinite(bad) ? 0u : 1u) << bad;
    PaddedMat zeros(std::vector<float>(a.size(), 0.0f), K, M);
    gemm_into_sink(bench.context(), gemm_of(Product::tn, zeros.view(), b_mat.view()),
                   sums.sink(true));
    EXPECT_EQ(sums.flag.bad.load(), 1u) << "the flag is never cleared";
  }
}

TEST(ColumnSums, MatchDoublePrecisionForAnyThreads) {
  for (const std::int64_t N : {1, 63, 64, 65, 1000})
    for (const std::int64_t D : {1, 37, 127, 128, 300}) {
      const auto x = random_values(N * D, "x");
      std::vector<double> want(static_cast<std::size_t>(D), 0);
      std::vector<float> plain(static_cast<std::size_t>(D), 0);
      for (std::size_t i = 0; i < x.size(); ++i) {
        want[i % want.size()] += static_cast<double>(x[i]);
        plain[i % plain.size()] += x[i];
      }
      PaddedMat x_mat(x, N, D, 5);
      std::vector<std::int64_t> first;
      for (const NamedSimd& simd : simd_tables())
        for (const int threads : {1, 2, 3, 4, 8}) {
          CpuBench bench(threads, *simd.table);
          Sums sums(D);
          column_sums_into_sink(bench.context(), x_mat.view(), sums.sink(true));
          if (first.empty()) first = sums.exact;
          EXPECT_EQ(sums.exact, first) << simd.name << " " << threads << " threads";
          EXPECT_EQ(sums.flag.bad.load(), 0u);
          expect_accurate("column sums", values_of(sums.exact), plain, want);
        }
    }
}

TEST(GemmDeath, RefusesShapesThatDisagree) {
  CpuBench bench(1);
  PaddedMat a(3, 4), b(5, 6);
  EXPECT_DEATH(gemm_of(Product::nn, a.view(), b.view()), "3 x 4 and 5 x 6");
  Sums sums(7);
  EXPECT_DEATH(
      gemm_into_sink(bench.context(), gemm_of(Product::nn, a.view(), PaddedMat(4, 2).view()),
                     sums.sink(true)),
      "a sink of 7 elements for 6");
}

}  // namespace
}  // namespace elaswave::kernels
