// The lists of attention operations that a GPU library is given, evaluated naively in double and
// held against attention written out by hand.
#include "model/kernels/sdpa_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "io/base/hash.h"
#include "io/base/philox.h"
#include "tests/support/sdpa_evaluator.h"

namespace elaswave::kernels {
namespace {

using elaswave::testing::SdpaEvaluator;

constexpr double kCanary = -12345.5;
// Sums of at most a few thousand products of size 1 in double, in another order.
constexpr double kTolerance = 1e-12;

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

// Rows of `cols` numbers, `stride` apart; what lies between is `gap`.
std::vector<double> rows(std::int64_t count, std::int64_t cols, std::int64_t stride, double gap,
                         std::string_view name) {
  const RandomStream stream = random_stream(hash_text(name), RandomUse::test);
  std::vector<double> result(at(count * stride), gap);
  for (std::int64_t r = 0; r < count; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      result[at(r * stride + c)] = 2 * static_cast<double>(uniform01(random_word(
                                           stream, static_cast<std::uint64_t>(r * cols + c)))) -
                                   1;
  return result;
}

// What a caller of ops.h holds, and attention by its definition.
struct Case {
  SdpaShape shape;
  std::vector<double> qkv, dout, out, lse, dqkv, row_sums;

  explicit Case(const SdpaShape& of) : shape(of) {
    const std::int64_t N = shape.B * shape.T;
    const double gap = std::numeric_limits<double>::quiet_NaN();  // reading it spoils the result
    qkv = rows(N, 3 * shape.C(), shape.qkv_stride, gap, "qkv");
    dout = rows(N, shape.C(), shape.dout_stride, gap, "dout");
    out.assign(at(N * shape.out_stride), kCanary);
    dqkv.assign(at(N * shape.dqkv_stride), kCanary);
    lse.assign(at(N * shape.H), kCanary);
    row_sums.assign(at(N * shape.H), kCanary);
  }

  // which: 0 q, 1 k, 2 v.
  double& of_qkv(std::vector<double>& packed, std::int64_t stride, int which, std::int64_t b,
                 std::int64_t t, std::int64_t h, std::int64_t d) const {
    return packed[at((b * shape.T + t) * stride + which * shape.C() + h * shape.D + d)];
  }
  double& of_out(std::vector<double>& dense, std::int64_t stride, std::int64_t b, std::int64_t t,
                 std::int64_t h, std::int64_t d) const {
    return dense[at((b * shape.T + t) * stride + h * shape.D + d)];
  }

  void by_graph() {
    const std::span<double> packed(qkv), gradients(dqkv);
    SdpaEvaluator evaluator;
    const std::int64_t C = shape.C();
    evaluator.bind(SdpaBinding::q, packed);
    evaluator.bind(SdpaBinding::k, packed.subspan(at(C)));
    evaluator.bind(SdpaBinding::v, packed.subspan(at(2 * C)));
    evaluator.bind(SdpaBinding::out, out);
    evaluator.bind(SdpaBinding::lse, lse);
    SdpaShape forward = shape;
    forward.dout_stride = forward.dqkv_stride = 0;
    evaluator.run(sdpa_forward(forward));
    evaluator.bind(SdpaBinding::dout, dout);
    evaluator.bind(SdpaBinding::dq, gradients);
    evaluator.bind(SdpaBinding::dk, gradients.subspan(at(C)));
    evaluator.bind(SdpaBinding::dv, gradients.subspan(at(2 * C)));
    evaluator.bind(SdpaBinding::row_sums, row_sums);
    evaluator.run(sdpa_backward(shape));
  }

  void by_hand() {
    for (std::int64_t b = 0; b < shape.B; ++b)
      for (std::int64_t h = 0; h < shape.H; ++h) {
        for (std::int64_t t = 0; t < shape.T; ++t)
          for (int which = 0; which < 3; ++which)
            for (std::int64_t d = 0; d < shape.D; ++d)
              of_qkv(dqkv, shape.dqkv_stride, which, b, t, h, d) = 0;
        for (std::int64_t t = 0; t < shape.T; ++t) query_by_hand(b, h, t);
      }
  }

  // One query's output and what it adds to the gradients.
  void query_by_hand(std::int64_t b, std::int64_t h, std::int64_t t) {
    const auto in = [&](int which, std::int64_t s, std::int64_t d) {
      return of_qkv(qkv, shape.qkv_stride, which, b, s, h, d);
    };
    const auto gradient = [&](int which, std::int64_t s, std::int64_t d) -> double& {
      return of_qkv(dqkv, shape.dqkv_stride, which, b, s, h, d);
    };
    // The scale is an f32 in every backend.
    const double scale =
        static_cast<double>(static_cast<float>(1 / std::sqrt(static_cast<double>(shape.D))));
    std::vector<double> p(at(t + 1)), dp(at(t + 1));
    double sum = 0, mean = 0;
    for (std::int64_t s = 0; s <= t; ++s) {
      double score = 0;
      for (std::int64_t d = 0; d < shape.D; ++d) score += in(0, t, d) * in(1, s, d);
      sum += p[at(s)] = std::exp(score * scale);
    }
    lse[at((b * shape.H + h) * shape.T + t)] = std::log(sum);
    for (std::int64_t d = 0; d < shape.D; ++d) {
      double value = 0;
      for (std::int64_t s = 0; s <= t; ++s) value += p[at(s)] / sum * in(2, s, d);
      of_out(out, shape.out_stride, b, t, h, d) = value;
    }
    for (std::int64_t s = 0; s <= t; ++s) {
      p[at(s)] /= sum;
      for (std::int64_t d = 0; d < shape.D; ++d) {
        const double g = of_out(dout, shape.dout_stride, b, t, h, d);
        dp[at(s)] += g * in(2, s, d);
        gradient(2, s, d) += p[at(s)] * g;
      }
      mean += p[at(s)] * dp[at(s)];
    }
    for (std::int64_t s = 0; s <= t; ++s) {
      const double ds = p[at(s)] * (dp[at(s)] - mean) * scale;
      for (std::int64_t d = 0; d < shape.D; ++d) {
        gradient(0, t, d) += ds * in(1, s, d);
        gradient(1, s, d) += ds * in(0, t, d);
      }
    }
  }
};

void expect_near(const std::vector<double>& got, const std::vector<double>& want,
                 const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], want[i], kTolerance * std::max(1.0, std::abs(want[i])))
        << what << " element " << i;
}

TEST(SdpaOps, the_graphs_are_attention_and_its_gradient) {
  for (const SdpaShape& shape :
       {SdpaShape::dense(1, 1, 1, 8), SdpaShape::dense(2, 5, 3, 8), SdpaShape::dense(1, 17, 2, 16),
        // Every stride its own, so that none can stand for another.
        SdpaShape{2, 7, 3, 8, 3 * 24 + 8, 24 + 16, 24 + 24, 3 * 24 + 32}}) {
    SCOPED_TRACE(shape.text());
    Case graph(shape), hand(shape);
    graph.by_graph();
    hand.by_hand();
    expect_near(graph.out, hand.out, "out");  // the canaries between rows too
    expect_near(graph.lse, hand.lse, "lse");
    expect_near(graph.dqkv, hand.dqkv, "dqkv");
  }
}

// Large scores must not overflow: the maximum is taken off before anything is raised to a power.
TEST(SdpaOps, large_scores_stay_finite) {
  Case graph(SdpaShape::dense(1, 4, 1, 8));
  for (double& value : graph.qkv) value *= 100;
  graph.by_graph();
  for (const auto* values : {&graph.out, &graph.lse, &graph.dqkv})
    for (const double value : *values) ASSERT_TRUE(std::isfinite(value));
}

TEST(SdpaOps, every_tensor_is_written_once_and_before_it_is_read) {
  const SdpaShape shape = SdpaShape::dense(2, 4, 3, 8);
  for (const SdpaGraph& graph : {sdpa_forward(shape), sdpa_backward(shape)}) {
    std::set<SdpaIndex> written;
    for (const SdpaOp& op : graph.ops) {
      for (const SdpaIndex read : {op.a, op.b, op.mask}) {
        if (read == kNoTensor) continue;
        EXPECT_TRUE(graph.tensors[at(read)].place != SdpaPlace::inner || written.contains(read))
            << graph.tensors[at(read)].name;
      }
      EXPECT_TRUE(written.insert(op.y).second) << graph.tensors[at(op.y)].name;
      if (op.kind == SdpaKind::matmul) {  // products read the storage type alone
        EXPECT_EQ(graph.tensors[at(op.a)].type, SdpaType::bf16);
        EXPECT_EQ(graph.tensors[at(op.b)].type, SdpaType::bf16);
      }
    }
    for (SdpaIndex i = 0; i < std::ssize(graph.tensors); ++i)
      EXPECT_TRUE(graph.tensors[at(i)].place != SdpaPlace::inner || written.contains(i))
          << graph.tensors[at(i)].name;
  }
}

TEST(SdpaOps, sizes) {
  const SdpaShape shape = SdpaShape::dense(2, 4, 3, 8);
  EXPECT_EQ(sdpa_forward(shape).ops.size(), 14u);
  EXPECT_EQ(sdpa_backward(shape).ops.size(), 21u);
  EXPECT_EQ(sdpa_row_sums_bytes(shape), 2 * 3 * 4 * 4);
  EXPECT_EQ(shape.text(), "b2 t4 h3 d8");
}

}  // namespace
}  // namespace elaswave::kernels
