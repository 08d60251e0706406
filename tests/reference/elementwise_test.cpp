// GELU and residual sums with dropout, the latter bit by bit against scalar code: what equals
// scalar code on two backends is equal between them.
#include <algorithm>
#include <cmath>

#include "tests/reference/kernel_test.h"
#include "tests/support/gelu.h"

namespace elaswave::kernels {
namespace {

using testing::gelu;
using testing::gelu_slope;

class ElementwiseTest : public StorageTest {};
EW_FOR_STORAGE_TYPES(ElementwiseTest);

template <typename Real>
std::vector<Real> map(const std::vector<float>& values, Real (*f)(Real)) {
  std::vector<Real> out;
  for (const float value : values) out.push_back(f(static_cast<Real>(value)));
  return out;
}

TEST_P(ElementwiseTest, gelu_matches_reference) {
  for (const float scale : {0.01f, 1.0f, 5.0f})
    for (const auto& [cols, extra] : {std::pair<std::int64_t, std::int64_t>{37, 1}, {64, 0}}) {
      const std::int64_t rows = 113;
      const auto x = stored(random_floats(rows * cols, 1, scale));
      const std::vector<float> ones(x.size(), 1.0f);
      const Padded in(place(), x, rows, cols, 3 * extra), dy(place(), ones, rows, cols, 2 * extra);
      Padded y(place(), rows, cols, 3 * extra), dx(place(), rows, cols, extra);
      ops().gelu_forward(stream(), {in.view(), y.mat()});
      ops().gelu_backward(stream(), {in.view(), dy.view(), dx.mat()});
      EXPECT_TRUE(y.guards_intact() && dx.guards_intact());
      expect_accurate("y", y.values(), stored(map<float>(x, gelu)), map<double>(x, gelu));
      expect_accurate("dx", dx.values(), stored(map<float>(x, gelu_slope)),
                      map<double>(x, gelu_slope));
    }
}

TEST(ElementwiseReference, gelu_slope_is_the_derivative) {
  const auto x = converted<double>(random_floats(100, 1, 2));
  std::vector<double> slopes;
  for (const double value : x) slopes.push_back(gelu_slope(value));
  expect_gradient("gelu", x, slopes, [](const std::vector<double>& at) {
    double sum = 0;
    for (const double value : at) sum += gelu(value);
    return sum;
  });
}

TEST_P(ElementwiseTest, gelu_far_out) {
  const auto x = stored({-1e30f, -100.0f, -12.0f, 0.0f, 12.0f, 1e30f, NAN, 3.0f});
  const std::int64_t n = std::ssize(x);
  const Padded in(place(), x, 1, n), ones(place(), std::vector<float>(x.size(), 1.0f), 1, n);
  Padded out(place(), 1, n), slope(place(), 1, n);
  ops().gelu_forward(stream(), {in.view(), out.mat()});
  ops().gelu_backward(stream(), {in.view(), ones.view(), slope.mat()});
  const auto y = out.values(), dx = slope.values();
  for (const std::size_t i : {0, 1, 2, 3}) {
    EXPECT_NEAR(y[i], 0, 1e-35) << x[i];
    EXPECT_NEAR(dx[i], i == 3 ? 0.5 : 0, 1e-30) << x[i];
  }
  EXPECT_EQ(y[4], 12.0f);
  EXPECT_EQ(y[5], x[5]);
  EXPECT_EQ(dx[4], 1.0f);
  EXPECT_EQ(dx[5], 1.0f);
  EXPECT_TRUE(std::isnan(y[6]) && std::isnan(dx[6]));
}

TEST_P(ElementwiseTest, gelu_in_place) {
  const std::int64_t rows = 11, cols = 45;
  const auto x = random_floats(rows * cols, 1), dy = random_floats(rows * cols, 2);
  Padded in(place(), x, rows, cols), gradient(place(), dy, rows, cols, 1);
  Padded y(place(), rows, cols), dx(place(), rows, cols);
  ops().gelu_forward(stream(), {in.view(), y.mat()});
  ops().gelu_backward(stream(), {in.view(), gradient.view(), dx.mat()});
  ops().gelu_backward(stream(), {in.view(), gradient.view(), gradient.mat()});
  ops().gelu_forward(stream(), {in.view(), in.mat()});
  EXPECT_EQ(gradient.values(), dx.values());
  EXPECT_EQ(in.values(), y.values());
}

// Odd widths make rows start at every position within a block of four random words; dense and
// padded rows allow and forbid loads of whole vectors.
TEST_P(ElementwiseTest, residual_is_the_scalar_definition) {
  for (const float rate : {0.0f, 0.1f, 0.5f, 0x1p-23f, 1 - 0x1p-24f})
    for (const std::int64_t C : {1, 37, 64, 131, 300})
      for (const std::int64_t extra : {0, 1}) {
        const std::int64_t B = 3, T = 11, N = B * T;
        const auto a = stored(random_floats(N * C, 1)), b = stored(random_floats(N * C, 2));
        const auto streams = sample_streams(B, 3);
        const Dropout dropout = {rate, streams};
        const Padded residual(place(), a, N, C, 3 * extra), branch(place(), b, N, C, extra);
        Padded out(place(), N, C, 2 * extra), dbranch(place(), N, C, 3 * extra);
        ops().residual_forward(stream(), {residual.view(), branch.view(), T, dropout, out.mat()});
        ops().residual_backward(stream(), {branch.view(), T, dropout, dbranch.mat()});
        EXPECT_TRUE(out.guards_intact() && dbranch.guards_intact());
        const auto got = out.values(), back = dbranch.values();
        for (std::int64_t i = 0; i < N * C; ++i) {
          const auto e = static_cast<std::size_t>(i);
          const float factor = dropout_factor(dropout, i / (T * C), i % (T * C));
          ASSERT_EQ(got[e], stored(a[e] + b[e] * factor)) << rate << " " << C << " element " << i;
          ASSERT_EQ(back[e], stored(b[e] * factor)) << rate << " " << C << " element " << i;
        }
      }
}

TEST_P(ElementwiseTest, residual_in_place) {
  const std::int64_t T = 9, C = 50;
  const auto a = random_floats(T * C, 1), b = random_floats(T * C, 2);
  const auto streams = sample_streams(1, 3);
  const Dropout dropout = {0.3f, streams};
  Padded residual(place(), a, T, C), branch(place(), b, T, C), in_place(place(), a, T, C);
  Padded out(place(), T, C), dbranch(place(), T, C);
  ops().residual_forward(stream(), {residual.view(), branch.view(), T, dropout, out.mat()});
  ops().residual_backward(stream(), {residual.view(), T, dropout, dbranch.mat()});
  ops().residual_forward(stream(), {in_place.view(), branch.view(), T, dropout, in_place.mat()});
  EXPECT_EQ(in_place.values(), out.values());
  ops().residual_backward(stream(), {residual.view(), T, dropout, residual.mat()});
  EXPECT_EQ(residual.values(), dbranch.values());
}

// Ranges of rows that begin and end inside samples, put together, are the whole.
TEST_P(ElementwiseTest, residual_of_row_ranges) {
  const std::int64_t B = 3, T = 11, N = B * T;
  for (const float rate : {0.0f, 0.3f})
    for (const std::int64_t C : {1, 37, 64}) {
      const auto a = stored(random_floats(N * C, 1)), b = stored(random_floats(N * C, 2));
      const auto streams = sample_streams(B, 3);
      const Dropout dropout = {rate, streams};
      const Padded residual(place(), a, N, C), branch(place(), b, N, C, 1);
      Padded out(place(), N, C, 2), dbranch(place(), N, C), parts(place(), N, C, 2),
          dparts(place(), N, C);
      ops().residual_forward(stream(), {residual.view(), branch.view(), T, dropout, out.mat()});
      ops().residual_backward(stream(), {branch.view(), T, dropout, dbranch.mat()});
      const std::int64_t cuts[] = {0, 5, 6, 6, 22, 25, N};  // one range is empty
      for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
        const std::int64_t begin = cuts[i], rows = cuts[i + 1] - cuts[i];
        ops().residual_forward(
            stream(), {residual.view().rows_from(begin, rows), branch.view().rows_from(begin, rows),
                       T, dropout, parts.mat().rows_from(begin, rows), begin});
        ops().residual_backward(stream(), {branch.view().rows_from(begin, rows), T, dropout,
                                           dparts.mat().rows_from(begin, rows), begin});
      }
      EXPECT_EQ(parts.values(), out.values()) << rate << " " << C;
      EXPECT_EQ(dparts.values(), dbranch.values()) << rate << " " << C;
      EXPECT_TRUE(parts.guards_intact() && dparts.guards_intact());
    }
}

TEST_P(ElementwiseTest, dropout_keeps_its_rate) {
  const std::int64_t T = 256, C = 768;
  const std::vector<float> ones(static_cast<std::size_t>(T * C), 1.0f);
  for (const float rate : {0.1f, 0.5f, 0.9f}) {
    const auto streams = sample_streams(1, 17);
    const Padded dout(place(), ones, T, C, 0);
    Padded dbranch(place(), T, C, 0);
    ops().residual_backward(stream(), {dout.view(), T, {rate, streams}, dbranch.mat()});
    const auto out = dbranch.values();
    const auto kept =
        static_cast<double>(std::count_if(out.begin(), out.end(), [](float x) { return x != 0; }));
    const double n = static_cast<double>(out.size()),
                 expected = n * (1.0 - static_cast<double>(rate));
    // Five standard deviations of a binomial.
    EXPECT_NEAR(kept, expected, 5 * std::sqrt(expected * static_cast<double>(rate))) << rate;
  }
}

}  // namespace
}  // namespace elaswave::kernels
