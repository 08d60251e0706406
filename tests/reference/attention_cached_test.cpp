// Attention over a cache against a plain softmax in double, and against attention over the whole
// sequence.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

struct Shape {
  std::int64_t T, H, D;
  std::int64_t C() const { return H * D; }
};

// `dtype` is what the plain version stores: the result and probabilities, an operand of a product.
template <typename Real>
std::vector<Real> plain(const Shape& shape, const std::vector<Real>& qkv, DType dtype) {
  std::vector<Real> out(static_cast<std::size_t>(shape.T * shape.C()));
  const auto at = [&](std::int64_t t, std::int64_t which, std::int64_t column) {
    return qkv[static_cast<std::size_t>((t * 3 + which) * shape.C() + column)];
  };
  const Real scale = 1 / std::sqrt(static_cast<Real>(shape.D));
  for (std::int64_t h = 0; h < shape.H; ++h)
    for (std::int64_t query = 0; query < shape.T; ++query) {
      std::vector<Real> p(static_cast<std::size_t>(query + 1));
      for (std::int64_t key = 0; key <= query; ++key) {
        Real score = 0;
        for (std::int64_t d = 0; d < shape.D; ++d)
          score += at(query, 0, h * shape.D + d) * at(key, 1, h * shape.D + d);
        p[static_cast<std::size_t>(key)] = score * scale;
      }
      const Real top = *std::max_element(p.begin(), p.end());
      Real sum = 0;
      for (Real& value : p) sum += value = std::exp(value - top);
      for (std::int64_t d = 0; d < shape.D; ++d) {
        Real weighted = 0;
        for (std::int64_t key = 0; key <= query; ++key)
          weighted +=
              stored(p[static_cast<std::size_t>(key)] / sum, dtype) * at(key, 2, h * shape.D + d);
        out[static_cast<std::size_t>(query * shape.C() + h * shape.D + d)] =
            stored(weighted, dtype);
      }
    }
  return out;
}

class AttentionCachedTest : public StorageTest {
 protected:
  /// Feeds the sequence in pieces of the given lengths; the cache starts as NaN and has spare rows.
  std::vector<float> run(Stream& stream, const Shape& shape, const std::vector<float>& qkv,
                         const std::vector<std::int64_t>& pieces, std::int64_t extra = 5) {
    const Place here = on(stream);
    const Padded in(here, qkv, shape.T, 3 * shape.C(), extra);
    Padded out(here, shape.T, shape.C(), extra);
    const std::int64_t capacity = shape.T + 3;
    const std::vector<float> nothing(static_cast<std::size_t>(capacity * shape.C()), NAN);
    Padded keys(here, nothing, capacity, shape.C(), extra + 1),
        values(here, nothing, capacity, shape.C(), extra);
    std::int64_t past = 0;
    for (const std::int64_t piece : pieces) {
      ops().attention_cached(stream, {.qkv_N3C = in.view().rows_from(past, piece),
                                      .past = past,
                                      .H = shape.H,
                                      .keys_TC = keys.mat(),
                                      .values_TC = values.mat(),
                                      .out_NC = out.mat().rows_from(past, piece)});
      past += piece;
    }
    EXPECT_EQ(past, shape.T);
    EXPECT_TRUE(out.guards_intact() && keys.guards_intact() && values.guards_intact());
    return out.values();
  }
  std::vector<float> run(const Shape& shape, const std::vector<float>& qkv,
                         const std::vector<std::int64_t>& pieces) {
    return run(stream(), shape, qkv, pieces);
  }

  std::vector<float> whole(const Shape& shape, const std::vector<float>& qkv) {
    const Padded in(place(), qkv, shape.T, 3 * shape.C());
    Padded out(place(), shape.T, shape.C());
    DeviceVector<float> lse(stream(), shape.T * shape.H, 0.0f);
    ops().attention_forward(
        stream(),
        {.qkv_N3C = in.view(), .T = shape.T, .H = shape.H, .out_NC = out.mat(), .lse_NH = lse});
    return out.values();
  }

  std::vector<float> random_qkv(const Shape& shape, float scale) const {
    return stored(random_floats(shape.T * 3 * shape.C(), 1, scale));
  }
};
EW_FOR_STORAGE_TYPES(AttentionCachedTest);

// Each of the two meets the error rule of kernel_numbers.h, so they differ by the sum of both
// bounds at most.
TEST_P(AttentionCachedTest, matches_reference_and_whole_sequence) {
  const Shape shapes[] = {{1, 1, 1},   {2, 3, 5},    {113, 3, 8},  {64, 2, 64}, {130, 2, 80},
                          {65, 1, 37}, {203, 2, 64}, {17, 1, 128}, {66, 4, 16}};
  for (const float scale : {1.5f, 12.0f})  // the second: scores far apart
    for (const Shape& shape : shapes) {
      SCOPED_TRACE(::testing::Message() << shape.T << " " << shape.H << " " << shape.D);
      const auto qkv = random_qkv(shape, scale);
      const auto reference = plain(shape, converted<double>(qkv), DType::f32);
      const auto loop = plain(shape, qkv, dtype());
      const auto ours = run(shape, qkv, {shape.T}), forward = whole(shape, qkv);
      expect_accurate("cached", ours, loop, reference);
      double largest = 0;
      for (const double value : reference) largest = std::max(largest, std::abs(value));
      const double bound =
          2 * largest_error(converted<double>(loop), reference) + largest * 0x1p-23;
      EXPECT_LE(largest_error(converted<double>(ours), converted<double>(forward)), 2 * bound);
    }
}

TEST_P(AttentionCachedTest, same_bits_for_all_splits) {
  const Shape shape = {9, 3, 24};
  const auto qkv = random_qkv(shape, 1.5f);
  const auto first = run(shape, qkv, {shape.T});
  std::int64_t splits = 0;
  for (std::uint32_t cuts = 0; cuts < 1u << (shape.T - 1); ++cuts, ++splits) {
    std::vector<std::int64_t> pieces = {1};
    for (std::int64_t t = 1; t < shape.T; ++t)
      if ((cuts >> (t - 1) & 1) != 0)
        pieces.push_back(1);
      else
        ++pieces.back();
    ASSERT_TRUE(run(shape, qkv, pieces) == first) << "cuts " << cuts;
  }
  const Shape longer = {150, 2, 40};
  const auto long_qkv = random_qkv(longer, 1.5f);
  const auto at_once = run(longer, long_qkv, {longer.T});
  const RandomStream random = random_stream(7, RandomUse::test);
  for (std::uint64_t round = 0, word = 0; round < 20; ++round, ++splits) {
    std::vector<std::int64_t> pieces;
    for (std::int64_t left = longer.T; left > 0; left -= pieces.back())
      pieces.push_back(std::min<std::int64_t>(left, 1 + random_word(random, word++) % 70));
    ASSERT_TRUE(run(longer, long_qkv, pieces) == at_once) << "round " << round;
  }
  std::printf("campaign: %lld splits\n", static_cast<long long>(splits));
}

TEST_P(AttentionCachedTest, same_bits_on_every_stream_and_stride) {
  const Shape shape = {70, 3, 24};
  const auto qkv = random_qkv(shape, 1.5f);
  expect_same_for_streams([&](Stream& stream, std::int64_t extra) {
    return bytes_of(run(stream, shape, qkv, {64, 1, 5}, extra));
  });
}

TEST_P(AttentionCachedTest, non_finite_stays_visible) {
  const Shape shape = {40, 1, 16};
  auto qkv = random_qkv(shape, 1);
  const auto before = run(shape, qkv, {30, 10});
  qkv[static_cast<std::size_t>(33 * 3 * shape.C() + shape.C())] = NAN;  // a key
  const auto after = run(shape, qkv, {30, 10});
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + 33 * shape.C(), after.begin()));
  for (std::int64_t t = 33; t < shape.T; ++t)
    EXPECT_TRUE(std::isnan(after[static_cast<std::size_t>(t * shape.C())])) << t;
}

}  // namespace
}  // namespace elaswave::kernels
