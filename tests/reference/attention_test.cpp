// Attention against a plain quadratic softmax in double.
#include <algorithm>
#include <cmath>

#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

struct Shape {
  std::int64_t B, T, H, D;
  float rate;
  std::int64_t C() const { return H * D; }
  std::int64_t N() const { return B * T; }
};

// factor(sample, element) is the dropout mask. `dtype` is what the plain version stores: outputs
// and the two operands of products that are made on the way, probabilities and gradients of scores.
template <typename Real, typename Factor>
struct Plain {
  const Shape& shape;
  const Factor& factor;
  DType dtype;
  std::vector<Real> qkv;
  std::vector<Real> out = std::vector<Real>(static_cast<std::size_t>(shape.N() * shape.C()));
  std::vector<Real> lse = std::vector<Real>(static_cast<std::size_t>(shape.N() * shape.H));
  std::vector<Real> dqkv = std::vector<Real>(qkv.size());

  std::size_t at(std::int64_t b, std::int64_t t, std::int64_t which, std::int64_t h,
                 std::int64_t d) const {
    return static_cast<std::size_t>((b * shape.T + t) * 3 * shape.C() + which * shape.C() +
                                    h * shape.D + d);
  }
  std::size_t out_at(std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t d) const {
    return static_cast<std::size_t>((b * shape.T + t) * shape.C() + h * shape.D + d);
  }
  Real mask(std::int64_t b, std::int64_t h, std::int64_t query, std::int64_t key) const {
    return static_cast<Real>(factor(b, (h * shape.T + query) * shape.T + key));
  }

  // Probabilities of one query; also its log sum exp.
  std::vector<Real> probabilities(std::int64_t b, std::int64_t h, std::int64_t query,
                                  Real* log_sum) const {
    std::vector<Real> p(static_cast<std::size_t>(query + 1));
    const Real scale = 1 / std::sqrt(static_cast<Real>(shape.D));
    Real top = -INFINITY, sum = 0;
    for (std::int64_t key = 0; key <= query; ++key) {
      Real score = 0;
      for (std::int64_t d = 0; d < shape.D; ++d)
        score += qkv[at(b, query, 0, h, d)] * qkv[at(b, key, 1, h, d)];
      p[static_cast<std::size_t>(key)] = score * scale;
      top = std::max(top, score * scale);
    }
    for (Real& value : p) sum += value = std::exp(value - top);
    for (Real& value : p) value /= sum;
    *log_sum = top + std::log(sum);
    return p;
  }

  // The sum of p * dp from what forward stored.
  Real stored_delta(const std::vector<Real>& dout, std::int64_t b, std::int64_t h,
                    std::int64_t query) const {
    Real delta = 0;
    for (std::int64_t d = 0; d < shape.D; ++d)
      delta += dout[out_at(b, query, h, d)] * out[out_at(b, query, h, d)];
    return delta;
  }

  void forward() {
    for (std::int64_t b = 0; b < shape.B; ++b)
      for (std::int64_t h = 0; h < shape.H; ++h)
        for (std::int64_t query = 0; query < shape.T; ++query) {
          Real& log_sum = lse[static_cast<std::size_t>((b * shape.H + h) * shape.T + query)];
          const std::vector<Real> p = probabilities(b, h, query, &log_sum);
          for (std::int64_t d = 0; d < shape.D; ++d) {
            Real sum = 0;
            for (std::int64_t key = 0; key <= query; ++key)
              sum += stored(p[static_cast<std::size_t>(key)] * mask(b, h, query, key), dtype) *
                     qkv[at(b, key, 2, h, d)];
            out[out_at(b, query, h, d)] = stored(sum, dtype);
          }
        }
  }

  void backward(const std::vector<Real>& dout) {
    const Real scale = 1 / std::sqrt(static_cast<Real>(shape.D));
    for (std::int64_t b = 0; b < shape.B; ++b)
      for (std::int64_t h = 0; h < shape.H; ++h)
        for (std::int64_t query = 0; query < shape.T; ++query) {
          Real log_sum;
          const std::vector<Real> p = probabilities(b, h, query, &log_sum);
          std::vector<Real> dp(p.size());
          Real delta = 0;
          for (std::int64_t key = 0; key <= query; ++key) {
            const auto k = static_cast<std::size_t>(key);
            Real sum = 0;
            for (std::int64_t d = 0; d < shape.D; ++d) {
              const Real gradient = dout[out_at(b, query, h, d)];
              sum += gradient * qkv[at(b, key, 2, h, d)];
              dqkv[at(b, key, 2, h, d)] += stored(p[k] * mask(b, h, query, key), dtype) * gradient;
            }
            dp[k] = sum * mask(b, h, query, key);
            delta += p[k] * dp[k];
          }
          if (dtype != DType::f32) delta = stored_delta(dout, b, h, query);
          for (std::int64_t key = 0; key <= query; ++key) {
            const auto k = static_cast<std::size_t>(key);
            const Real ds = stored(p[k] * (dp[k] - delta), dtype) * scale;
            for (std::int64_t d = 0; d < shape.D; ++d) {
              dqkv[at(b, query, 0, h, d)] += ds * qkv[at(b, key, 1, h, d)];
              dqkv[at(b, key, 1, h, d)] += ds * qkv[at(b, query, 0, h, d)];
            }
          }
        }
    for (Real& value : dqkv) value = stored(value, dtype);
  }
};

template <typename Real, typename Factor>
Plain<Real, Factor> plain_of(const Shape& shape, const Factor& factor, const std::vector<Real>& qkv,
                             const std::vector<Real>& dout, DType dtype) {
  Plain<Real, Factor> plain{shape, factor, dtype, qkv};
  plain.forward();
  plain.backward(dout);
  return plain;
}

class AttentionTest : public StorageTest {
 protected:
  struct Results {
    std::vector<float> out, lse, dqkv;
    bool guards = false;
  };
  Results run(Stream& stream, const Shape& shape, const Dropout& dropout,
              const std::vector<float>& qkv, const std::vector<float>& dout, std::int64_t extra = 5,
              std::int64_t head_begin = 0) {
    const Place here = on(stream);
    const Padded in(here, qkv, shape.N(), 3 * shape.C(), extra),
        gradient(here, dout, shape.N(), shape.C(), extra);
    Padded out(here, shape.N(), shape.C(), extra), dqkv(here, shape.N(), 3 * shape.C(), extra);
    DeviceVector<float> lse(stream, shape.N() * shape.H, 0.0f);
    ops().attention_forward(stream, {.qkv_N3C = in.view(),
                                     .T = shape.T,
                                     .H = shape.H,
                                     .dropout = dropout,
                                     .out_NC = out.mat(),
                                     .lse_NH = lse,
                                     .head_begin = head_begin});
    ops().attention_backward(stream, {.qkv_N3C = in.view(),
                                      .out_NC = out.view(),
                                      .dout_NC = gradient.view(),
                                      .lse_NH = lse,
                                      .T = shape.T,
                                      .H = shape.H,
                                      .dropout = dropout,
                                      .dqkv_N3C = dqkv.mat(),
                                      .head_begin = head_begin});
    return {.out = out.values(),
            .lse = lse.get(),
            .dqkv = dqkv.values(),
            .guards = out.guards_intact() && dqkv.guards_intact()};
  }
  std::vector<float> random(std::int64_t n, std::uint64_t seed, float scale = 1) const {
    return stored(random_floats(n, seed, scale));
  }
};
EW_FOR_STORAGE_TYPES(AttentionTest);

TEST_P(AttentionTest, matches_reference) {
  const Shape shapes[] = {{2, 113, 3, 8, 0},     {1, 113, 2, 16, 0.2f}, {2, 64, 2, 64, 0.1f},
                          {1, 130, 2, 80, 0.1f}, {1, 1, 1, 64, 0},      {2, 65, 1, 37, 0.3f},
                          {1, 203, 2, 64, 0},    {1, 239, 1, 64, 0.5f}, {3, 3, 2, 16, 0}};
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(::testing::Message()
                 << shape.B << " " << shape.T << " " << shape.H << " " << shape.D);
    const auto qkv = random(shape.N() * 3 * shape.C(), 1, 1.5f);
    const auto dout = random(shape.N() * shape.C(), 2);
    const auto streams = sample_streams(shape.B, 3);
    const Dropout dropout = {shape.rate, streams};
    const auto factor = [&](std::int64_t b, std::int64_t element) {
      return dropout_factor(dropout, b, element);
    };
    const auto reference =
        plain_of(shape, factor, converted<double>(qkv), converted<double>(dout), DType::f32);
    const auto plain = plain_of(shape, factor, qkv, dout, dtype());
    const std::int64_t extra = shape.D % 16 == 0 ? 0 : 5;  // whole vectors can be loaded, or not
    const Results ours = run(stream(), shape, dropout, qkv, dout, extra);
    EXPECT_TRUE(ours.guards);
    expect_accurate("out", ours.out, plain.out, reference.out);
    expect_accurate("lse", ours.lse, plain.lse, reference.lse);
    expect_accurate("dqkv", ours.dqkv, plain.dqkv, reference.dqkv);
  }
}

TEST(AttentionReference, gradient_is_the_derivative) {
  const Shape shape = {1, 7, 2, 4, 0.25f};
  const auto streams = sample_streams(shape.B, 9);
  const Dropout dropout = {shape.rate, streams};
  const auto factor = [&](std::int64_t b, std::int64_t element) {
    return dropout_factor(dropout, b, element);
  };
  const auto qkv = converted<double>(random_floats(shape.N() * 3 * shape.C(), 5));
  const auto dout = converted<double>(random_floats(shape.N() * shape.C(), 6));
  const auto reference = plain_of(shape, factor, qkv, dout, DType::f32);
  expect_gradient("qkv", qkv, reference.dqkv, [&](const std::vector<double>& at) {
    Plain<double, decltype(factor)> plain{shape, factor, DType::f32, at};
    plain.forward();
    double loss = 0;
    for (std::size_t i = 0; i < dout.size(); ++i) loss += plain.out[i] * dout[i];
    return loss;
  });
}

TEST_P(AttentionTest, same_bits_on_every_stream_and_stride) {
  const Shape shape = {2, 150, 3, 24, 0.1f};
  const auto qkv = random(shape.N() * 3 * shape.C(), 1), dout = random(shape.N() * shape.C(), 2);
  const auto streams = sample_streams(shape.B, 3);
  expect_same_for_streams([&](Stream& stream, std::int64_t extra) {
    const Results r = run(stream, shape, {shape.rate, streams}, qkv, dout, extra);
    return bytes_of(r.out, r.lse, r.dqkv);
  });
}

// The columns of heads [begin, begin + H) in each of `groups` groups of the whole's columns.
std::vector<float> columns_of_heads(const std::vector<float>& whole, const Shape& shape,
                                    std::int64_t groups, std::int64_t begin, std::int64_t H) {
  std::vector<float> part;
  for (std::int64_t row = 0; row < shape.N(); ++row)
    for (std::int64_t group = 0; group < groups; ++group) {
      const auto first = whole.begin() + (row * groups + group) * shape.C() + begin * shape.D;
      part.insert(part.end(), first, first + H * shape.D);
    }
  return part;
}

// Slices of heads, uneven on purpose, have the bits of the same heads in the whole: masks too.
TEST_P(AttentionTest, slices_of_heads) {
  for (const Shape& whole :
       {Shape{2, 70, 5, 24, 0.2f}, Shape{2, 33, 5, 9, 0}, Shape{1, 65, 5, 64, 0.1f}}) {
    const auto qkv = random(whole.N() * 3 * whole.C(), 1), dout = random(whole.N() * whole.C(), 2);
    const auto streams = sample_streams(whole.B, 3);
    const Dropout dropout = {whole.rate, streams};
    const Results all = run(stream(), whole, dropout, qkv, dout);
    const std::int64_t cuts[] = {0, 1, 3, 5};
    for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
      const std::int64_t begin = cuts[i], H = cuts[i + 1] - cuts[i];
      SCOPED_TRACE(::testing::Message() << "heads " << begin << "+" << H << " of " << whole.D);
      Shape slice = whole;
      slice.H = H;
      const Results mine = run(stream(), slice, dropout, columns_of_heads(qkv, whole, 3, begin, H),
                               columns_of_heads(dout, whole, 1, begin, H), 5, begin);
      EXPECT_TRUE(mine.guards);
      EXPECT_EQ(mine.out, columns_of_heads(all.out, whole, 1, begin, H));
      EXPECT_EQ(mine.dqkv, columns_of_heads(all.dqkv, whole, 3, begin, H));
      for (std::int64_t b = 0; b < whole.B; ++b)
        for (std::int64_t e = 0; e < H * whole.T; ++e)
          ASSERT_EQ(mine.lse[static_cast<std::size_t>(b * H * whole.T + e)],
                    all.lse[static_cast<std::size_t>((b * whole.H + begin) * whole.T + e)]);
    }
  }
}

// Scores far apart: the running maximum moves between blocks and early sums are scaled to nothing.
TEST_P(AttentionTest, large_scores) {
  const Shape shape = {1, 200, 1, 16, 0};
  auto qkv = random(shape.N() * 3 * shape.C(), 1, 12.0f);
  const auto dout = random(shape.N() * shape.C(), 2);
  const auto factor = [](std::int64_t, std::int64_t) { return 1.0f; };
  const auto reference =
      plain_of(shape, factor, converted<double>(qkv), converted<double>(dout), DType::f32);
  const auto plain = plain_of(shape, factor, qkv, dout, dtype());
  const Results ours = run(stream(), shape, {}, qkv, dout);
  expect_accurate("out", ours.out, plain.out, reference.out);
  expect_accurate("dqkv", ours.dqkv, plain.dqkv, reference.dqkv);
}

// A later position changes nothing before it, and what is not finite stays visible.
TEST_P(AttentionTest, causal_and_non_finite) {
  const Shape shape = {1, 100, 1, 16, 0};
  auto qkv = random(shape.N() * 3 * shape.C(), 1);
  const auto dout = random(shape.N() * shape.C(), 2);
  const Results before = run(stream(), shape, {}, qkv, dout);
  qkv[static_cast<std::size_t>(70 * 3 * shape.C() + shape.C())] = NAN;  // a key
  const Results after = run(stream(), shape, {}, qkv, dout);
  const auto boundary = 70 * shape.C();
  EXPECT_TRUE(std::equal(before.out.begin(), before.out.begin() + boundary, after.out.begin()));
  for (std::int64_t t = 70; t < shape.T; ++t)
    EXPECT_TRUE(std::isnan(after.out[static_cast<std::size_t>(t * shape.C())])) << t;
}

}  // namespace
}  // namespace elaswave::kernels
