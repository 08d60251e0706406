// The head and its loss in one operation, against double precision.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/reference/head_case.h"

namespace elaswave::kernels {
namespace {

class HeadTest : public StorageTest {
 protected:
  /// The call equals calls on its chunks, one after another.
  void expect_contributions(const HeadShape& shape) {
    Head whole(place(), shape), parts(place(), shape);
    ops().head_loss(stream(), whole.args());
    for (std::int64_t first = 0; first < shape.N; first += shape.chunk_tokens) {
      const std::int64_t count = std::min(shape.chunk_tokens, shape.N - first);
      const auto offset = static_cast<std::size_t>(first), size = static_cast<std::size_t>(count);
      HeadLoss args = parts.args();
      args.x_NC = args.x_NC.rows_from(first, count);
      args.targets_N = args.targets_N.subspan(offset, size);
      args.loss_N = args.loss_N.subspan(offset, size);
      args.dx_NC = args.dx_NC.rows_from(first, count);
      args.dw_VC.overwrite = first == 0;
      ops().head_loss(stream(), args);
    }
    EXPECT_EQ(whole.loss.get(), parts.loss.get());
    EXPECT_EQ(whole.dx.values(), parts.dx.values());
    EXPECT_TRUE(whole.dw.exact() == parts.dw.exact());
  }
};
EW_FOR_STORAGE_TYPES(HeadTest);

// Odd sizes, one token, chunks of one token to all of them, vocabularies below a vector and beyond
// what a block of a GPU keeps of a row, up to twice as much and more.
TEST_P(HeadTest, matches_reference) {
  for (const HeadShape& shape :
       {HeadShape{113, 37, 257}, HeadShape{1, 8, 5}, HeadShape{301, 24, 1031},
        HeadShape{64, 64, 1024}, HeadShape{520, 16, 300}, HeadShape{300, 16, 300, 0.5f, 8192},
        HeadShape{113, 37, 257, 0.5f, 50}, HeadShape{5, 37, 257, 0.5f, 1}, HeadShape{2, 8, 30011},
        HeadShape{2, 8, 60001}}) {
    SCOPED_TRACE("V " + std::to_string(shape.V) + ", " + std::to_string(shape.chunk_tokens) +
                 " tokens at a time");
    Head head(place(), shape);
    head.scale = 0.25f;
    const auto want = head_reference<double>(head);
    const auto plain = head_reference<float>(head);
    ops().head_loss(stream(), head.args());
    expect_accurate("loss", head.loss.get(), plain.loss_N, want.loss_N);
    expect_accurate("dx", head.dx.values(), plain.dx_NC, want.dx_NC);
    expect_accurate("dW", head.dw.values(), plain.dw_VC, want.dw_VC);
    EXPECT_TRUE(head.dx.guards_intact());
    EXPECT_FALSE(head.dw.raised());
  }
}

// d(scale * sum of losses) by central differences.
TEST(HeadReferenceTest, gradient_is_the_derivative) {
  device::CpuStream stream(1);
  Head head({stream}, {6, 5, 19});
  head.scale = 2;
  const auto gradient = head_reference<double>(head);
  const auto x = converted<double>(head.x_values), w = converted<double>(head.w_values);
  const auto value = [&](const std::vector<double>& xs, const std::vector<double>& ws) {
    const auto logits = naive_product<double>(xs, head.C, 1, ws, 1, head.C, head.N, head.V, head.C);
    double total = 0;
    for (std::int64_t n = 0; n < head.N; ++n) {
      const double* row = logits.data() + n * head.V;
      double sum = 0;
      for (std::int64_t v = 0; v < head.V; ++v) sum += std::exp(row[v]);
      total += std::log(sum) - row[head.targets_values[static_cast<std::size_t>(n)]];
    }
    return 2 * total;
  };
  expect_gradient("x", x, gradient.dx_NC, [&](const auto& at) { return value(at, w); });
  expect_gradient("w", w, gradient.dw_VC, [&](const auto& at) { return value(x, at); });
}

TEST_P(HeadTest, same_bits_on_every_stream) {
  expect_same_for_streams([&](Stream& stream, std::int64_t) {
    Head head(on(stream), {2 * 256 + 45, 96, 2003});
    ops().head_loss(stream, head.args());
    return bytes_of(head.loss.get(), head.dx.values(), head.dw.exact());
  });
}

// Each chunk of tokens is one addend: a call equals separate calls on its chunks, bit by bit.
TEST_P(HeadTest, chunks_are_separate_contributions) {
  EXPECT_EQ(loss_contributions(kCpuLossChunkTokens, kCpuLossChunkTokens), 1);
  EXPECT_EQ(loss_contributions(kCudaLossChunkTokens + 1, kCudaLossChunkTokens), 2);
  for (const std::int64_t chunk : {std::int64_t{60}, kCpuLossChunkTokens}) {
    const std::int64_t N = 2 * chunk + 27;
    EXPECT_EQ(loss_contributions(N, chunk), 3);
    expect_contributions({N, 40, 515, 0.5f, chunk});
  }
}

// A micro-batch after the first adds to the sums.
TEST_P(HeadTest, adds_to_the_sink) {
  Head head(place(), {33, 16, 100});
  ops().head_loss(stream(), head.args());
  std::vector<std::int64_t> sums = head.dw.exact();
  HeadLoss again = head.args();
  again.dw_VC.overwrite = false;
  ops().head_loss(stream(), again);
  for (std::int64_t& sum : sums) sum *= 2;
  EXPECT_TRUE(head.dw.exact() == sums);
}

TEST_P(HeadTest, loss_alone_has_the_same_bits_and_touches_nothing_else) {
  Head with(place(), {300, 32, 777}), without(place(), {300, 32, 777});
  ops().head_loss(stream(), with.args());
  ops().head_loss(stream(), without.loss_only());
  EXPECT_EQ(with.loss.get(), without.loss.get());
  EXPECT_EQ(without.dw.exact().front(), 777);
  EXPECT_EQ(without.dx.values().front(), stored(Padded::kGuard));
}

// Logits of several thousand: exp would overflow without the shift by the largest.
TEST_P(HeadTest, large_logits_stay_finite) {
  Head head(place(), {17, 64, 300, 1000.0f});
  ops().head_loss(stream(), head.args());
  expect_accurate("large logits", head.loss.get(), head_reference<float>(head).loss_N,
                  head_reference<double>(head).loss_N);
}

TEST_P(HeadTest, non_finite_input_raises_the_flag) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Head head(place(), {30, 12, 50});
    head.x.set(0, 5, bad);
    ops().head_loss(stream(), head.args());
    EXPECT_TRUE(head.dw.raised());
    EXPECT_TRUE(std::isnan(head.loss.get()[0]));
    EXPECT_TRUE(std::isfinite(head.loss.get()[1])) << "other tokens are not concerned";
  }
}

}  // namespace
}  // namespace elaswave::kernels
