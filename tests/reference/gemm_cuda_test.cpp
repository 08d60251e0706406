// Matrix products, sinks and column sums of the CUDA backend, on the emulated device and library:
// the forms, layouts and pieces that the bodies which all backends share do not reach.
#include "model/kernels/gemm_cuda.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "tests/reference/gemm_cuda_testing.h"

namespace elaswave::kernels::cuda {
namespace {

struct Case {
  ProductForm form;
  std::int64_t M, N, K;
  DType inputs, result;
  bool bias;
  std::int64_t extra, shift;
};

// The operands of one case with the numbers that they hold, and what their product is.
struct Sample {
  explicit Sample(const Case& c)
      : shape(c),
        a(stored(random_values(c.M * c.K, "a"), c.inputs)),
        b(stored(random_values(c.K * c.N, "b"), c.inputs)) {
    if (c.bias) bias = random_values(c.N, "bias");
  }
  template <typename T>
  std::vector<T> product() const {
    const auto [form, M, N, K] = std::tuple(shape.form, shape.M, shape.N, shape.K);
    const bool flip_a = form == ProductForm::tn, flip_b = form == ProductForm::nt;
    std::vector<T> c = naive_product<T>(converted<T>(a), flip_a ? 1 : K, flip_a ? M : 1,
                                        converted<T>(b), flip_b ? 1 : N, flip_b ? K : 1, M, N, K);
    for (std::size_t i = 0; i < c.size() && !bias.empty(); ++i)
      c[i] += stored(static_cast<T>(bias[i % bias.size()]), shape.result);
    for (T& value : c) value = stored(value, shape.result);
    return c;
  }
  std::int64_t a_rows() const { return shape.form == ProductForm::tn ? shape.K : shape.M; }
  std::int64_t a_cols() const { return shape.form == ProductForm::tn ? shape.M : shape.K; }
  std::int64_t b_rows() const { return shape.form == ProductForm::nt ? shape.N : shape.K; }
  std::int64_t b_cols() const { return shape.form == ProductForm::nt ? shape.K : shape.N; }

  Case shape;
  std::vector<float> a, b, bias;
};

std::string text(const Case& c) {
  return fmt::format("form {} {} x {} x {} {} -> {}, bias {}, extra {}, shift {}",
                     static_cast<int>(c.form), c.M, c.N, c.K, name(c.inputs), name(c.result),
                     c.bias, c.extra, c.shift);
}

std::vector<Case> cases() {
  std::vector<Case> list;
  const std::array<std::int64_t, 3> shapes[] = {{7, 5, 3}, {33, 17, 65}, {16, 32, 64}};
  for (const auto& [M, N, K] : shapes)
    for (const ProductForm form : {ProductForm::nn, ProductForm::nt, ProductForm::tn})
      for (const auto& [inputs, result] : {std::pair{DType::f32, DType::f32},
                                           {DType::bf16, DType::bf16},
                                           {DType::bf16, DType::f32}})
        for (const auto& [extra, shift] : {std::pair{8, 0}, {3, 0}, {8, 1}})
          list.push_back(
              {form, M, N, K, inputs, result, (M + extra + shift) % 2 == 1, extra, shift});
  return list;
}

TEST_F(GemmCuda, ProductsOfEveryLayoutAreAsGoodAsPlainOnes) {
  for (const Case& c : cases()) {
    const Sample sample(c);
    const Layout in{c.inputs, c.extra, c.shift}, out{c.result, c.extra, c.shift};
    const Shifted a = mat(sample.a, sample.a_rows(), sample.a_cols(), in);
    const Shifted b = mat(sample.b, sample.b_rows(), sample.b_cols(), in);
    const Shifted bias = mat(sample.bias, c.bias ? 1 : 0, c.N, {.shift = c.shift});
    Shifted result = mat(c.M, c.N, out);
    const std::span<const float> bias_N(bias.view().f32(), sample.bias.size());
    gemm_->multiply(context_, factors(c.form, a.view(), b.view()), result.mat(), bias_N);
    expect_accurate(text(c), result.values(), sample.product<float>(), sample.product<double>());
  }
  EXPECT_GT(fake_cublaslt().matmuls, 0);
}

TEST_F(GemmCuda, SinksTakeProductsInPieces) {
  const std::unique_ptr<Gemm> pieces = make({}, 4096);  // two of them: 78 rows of 13, and the rest
  for (const DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(dtype));
    const Case c{ProductForm::tn, 150, 13, 37, dtype, DType::f32, false, 3, 0};
    const Sample sample(c);
    const Layout layout{dtype, 3, 0};
    const Shifted a = mat(sample.a, c.K, c.M, layout);
    const Shifted b = mat(sample.b, c.K, c.N, layout);
    const Factors product = factors(c.form, a.view(), b.view());
    Sums sums(stream_, c.M * c.N, 777);
    fake_cublaslt().matmuls = 0;
    pieces->multiply_into_sink(context_, product, sums.sink(true));
    EXPECT_EQ(fake_cublaslt().matmuls, 2);
    expect_accurate("sums", sums.values(), sample.product<float>(), sample.product<double>());
    const std::vector<std::int64_t> once = sums.exact();
    pieces->multiply_into_sink(context_, product, sums.sink(false));
    std::vector<std::int64_t> twice = once;
    for (std::int64_t& sum : twice) sum *= 2;
    EXPECT_EQ(sums.exact(), twice);
    EXPECT_FALSE(sums.raised());
    // In the second piece: a column of the first factor's is a row of the product.
    std::vector<float> bad = sample.a;
    bad[120] = INFINITY;
    const Shifted spoilt = mat(bad, c.K, c.M, layout);
    pieces->multiply_into_sink(context_, factors(c.form, spoilt.view(), b.view()), sums.sink(true));
    EXPECT_TRUE(sums.raised());
    const std::vector<std::int64_t> rest = sums.exact();
    EXPECT_EQ(rest[120 * 13], 0);
    EXPECT_EQ(rest[119 * 13], once[119 * 13]);
  }
}

TEST_F(GemmCuda, AddendsOutOfRangeRaiseTheFlag) {
  for (const bool exact : {true, false})
    for (const float bad : {1.0f, -INFINITY, NAN, -40000.0f})
      for (const std::size_t at : {3, 36}) {  // in a vector of four, and behind the last
        SCOPED_TRACE(fmt::format("{} at {}, exact {}", bad, at, exact));
        std::vector<float> x(37, 0.5f);
        x[at] = bad;
        const Shifted a = mat(x, 1, 37), one = mat({1.0f}, 1, 1);
        Sums products(stream_, 37, 777), columns(stream_, 37, 777);
        const auto sink = exact ? &Sums::sink : &Sums::fast_sink;
        gemm_->multiply_into_sink(context_, factors(ProductForm::tn, a.view(), one.view()),
                                  (products.*sink)(true));
        column_sums_into_sink(context_, a.view(), (columns.*sink)(true));
        for (const Sums* sums : {&products, &columns}) {
          EXPECT_EQ(sums->raised(), bad != 1.0f && (exact || !std::isfinite(bad)));
          const double other = exact ? sums->values()[34] : static_cast<double>(sums->fast()[34]);
          EXPECT_EQ(other, 0.5);
          if (exact && bad != 1.0f) {
            EXPECT_EQ(sums->exact()[at], 0) << "it adds nothing";
          }
        }
      }
}

TEST_F(GemmCuda, ColumnSumsOfEveryLayoutAreAsGoodAsPlainOnes) {
  for (const Layout& layout : kLayouts)
    for (const auto& [rows, cols] : {std::pair{1, 1}, {300, 72}, {129, 264}, {77, 33}}) {
      const auto x = stored(random_values(rows * cols, "x"), layout.dtype);
      std::vector<float> plain(static_cast<std::size_t>(cols), 0);
      std::vector<double> reference(static_cast<std::size_t>(cols), 0);
      for (std::size_t i = 0; i < x.size(); ++i) {
        plain[i % plain.size()] += x[i];
        reference[i % plain.size()] += static_cast<double>(x[i]);
      }
      const Shifted x_ND = mat(x, rows, cols, layout);
      Sums sums(stream_, cols, 777);
      column_sums_into_sink(context_, x_ND.view(), sums.sink(true));
      expect_accurate(fmt::format("{} {} x {}", testing::text(layout), rows, cols), sums.values(),
                      plain, reference);
    }
}

// The order of a column's additions is one, whether 16 bytes are read at a time or one element.
TEST_F(GemmCuda, ColumnSumsDoNotDependOnAlignment) {
  const std::vector<float> x = random_values(300 * 72, "x");
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::vector<std::vector<float>> results;
    for (const Layout& layout :
         {Layout{dtype, 0, 0}, Layout{dtype, 8, 0}, Layout{dtype, 8, 1}, Layout{dtype, 3, 1}}) {
      const Shifted x_ND = mat(x, 300, 72, layout);
      Sums sums(stream_, 72, 777);
      column_sums_into_sink(context_, x_ND.view(), sums.fast_sink(true));
      results.push_back(sums.fast());
      EXPECT_EQ(results.back(), results.front()) << testing::text(layout);
    }
  }
}

}  // namespace
}  // namespace elaswave::kernels::cuda
