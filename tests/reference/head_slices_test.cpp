// The head on slices of the vocabulary: logits and statistics on each, combined in slice order,
// then gradients on each.
#include <cmath>
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
  std::vector<LogitStats> stats_SN;  // of the last chunk
};

// One chunk of a head on slices: slice i has the rows [cuts[i], cuts[i + 1]) of the vocabulary.
class SlicedChunk {
 public:
  SlicedChunk(Ops& ops, Head& head, const Cuts& cuts, std::int64_t first)
      : ops_(ops),
        head_(head),
        cuts_(cuts),
        first_(first),
        tokens_(std::min(head.chunk_tokens, head.N - first)),
        stats_(stream(), slices() * tokens_, LogitStats{}),
        total_(stream(), tokens_, LogitStats{}) {}

  std::vector<LogitStats> logits() {
    for (std::int64_t i = 0; i < slices(); ++i) {
      const std::int64_t V = rows(i);
      Padded& logits = logits_.emplace_back(Place{stream()}, tokens_, V, logits_stride(V) - V);
      ops_.head_logits(stream(), {.x_NC = x(),
                                  .w_VC = w(i),
                                  .targets_N = targets(),
                                  .vocab_begin = begin(i),
                                  .logits_NV = logits.mat(),
                                  .stats_N = part(stats_.span(), i * tokens_)});
    }
    return stats_.get();
  }
  void combine() {
    ops_.head_combine(
        stream(),
        {.stats_SN = stats_, .total_N = total_, .loss_N = part(head_.loss.span(), first_)});
  }
  // Adds to dW; returns dx.
  std::vector<float> gradient() {
    std::vector<float> dx;
    for (std::int64_t i = 0; i < slices(); ++i) {
      Padded& logits = logits_[static_cast<std::size_t>(i)];
      Padded term(head_.place, tokens_, head_.C, 1);
      ops_.head_gradient(
          stream(), {.logits_NV = logits.mat(),
                     .x_NC = x(),
                     .w_VC = w(i),
                     .targets_N = targets(),
                     .vocab_begin = begin(i),
                     .total_N = total_,
                     .scale = head_.scale,
                     .dx_NC = term.mat(),
                     .dw_VC = head_.dw.part(begin(i) * head_.C, rows(i) * head_.C, first_ == 0)});
      EXPECT_TRUE(term.guards_intact() && logits.guards_intact());
      const std::vector<float> values = term.values();
      if (i == 0)
        dx = values;
      else
        for (std::size_t j = 0; j < dx.size(); ++j) dx[j] += values[j];
    }
    return dx;
  }

 private:
  Stream& stream() { return head_.place.stream; }
  std::int64_t slices() const { return std::ssize(cuts_) - 1; }
  std::int64_t begin(std::int64_t i) const { return cuts_[static_cast<std::size_t>(i)]; }
  std::int64_t rows(std::int64_t i) const { return begin(i + 1) - begin(i); }
  ConstMat x() const { return head_.x.view().rows_from(first_, tokens_); }
  ConstMat w(std::int64_t i) const { return head_.w.view().rows_from(begin(i), rows(i)); }
  template <typename T>
  std::span<T> part(std::span<T> all, std::int64_t from) const {
    return all.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(tokens_));
  }
  std::span<const std::int32_t> targets() const {
    return part(std::as_const(head_.targets).span(), first_);
  }

  Ops& ops_;
  Head& head_;
  const Cuts& cuts_;
  std::int64_t first_, tokens_;
  DeviceVector<LogitStats> stats_, total_;
  std::vector<Padded> logits_;
};

enum class Want { loss, gradients };

class HeadSlicesTest : public StorageTest {
 protected:
  Sliced run(Head& head, const Cuts& cuts, Want want = Want::gradients) {
    Sliced result;
    for (std::int64_t first = 0; first < head.N; first += head.chunk_tokens) {
      SlicedChunk chunk(ops(), head, cuts, first);
      result.stats_SN = chunk.logits();
      chunk.combine();
      if (want == Want::loss) continue;
      const auto dx = chunk.gradient();
      result.dx_NC.insert(result.dx_NC.end(), dx.begin(), dx.end());
    }
    result.loss_N = head.loss.get();
    return result;
  }
};
EW_FOR_STORAGE_TYPES(HeadSlicesTest);

TEST_P(HeadSlicesTest, one_slice_is_head_loss_bit_by_bit) {
  for (const HeadShape& shape :
       {HeadShape{113, 37, 257}, HeadShape{1, 8, 5}, HeadShape{301, 24, 1031},
        HeadShape{64, 64, 1024}, HeadShape{301, 24, 1031, 0.5f, 100}, HeadShape{2, 8, 60001}}) {
    SCOPED_TRACE("V " + std::to_string(shape.V));
    Head whole(place(), shape), head(place(), shape);
    whole.scale = head.scale = 0.3f;
    ops().head_loss(stream(), whole.args());
    const Sliced sliced = run(head, {0, shape.V});
    EXPECT_TRUE(same_bits(sliced.loss_N, whole.loss.get()));
    EXPECT_TRUE(same_bits(sliced.dx_NC, whole.dx.values()));
    EXPECT_TRUE(head.dw.exact() == whole.dw.exact());
  }
}

// Even, uneven and one-row slices; vocabularies that no vector length divides.
TEST_P(HeadSlicesTest, match_reference) {
  struct Case {
    HeadShape shape;
    Cuts cuts;
  };
  for (const Case& c :
       {Case{{113, 37, 257}, {0, 129, 257}}, Case{{113, 37, 257}, {0, 100, 101, 257}},
        Case{{1, 8, 5}, {0, 2, 4, 5}}, Case{{301, 24, 1031}, {0, 258, 516, 774, 1031}},
        Case{{140, 16, 300, 0.5f, 70}, {0, 17, 33, 299, 300}},
        Case{{300, 16, 300, 0.5f, 8192}, {0, 150, 300}}}) {
    SCOPED_TRACE("V " + std::to_string(c.shape.V) + " in " + std::to_string(c.cuts.size() - 1));
    Head head(place(), c.shape), loss_only(place(), c.shape);
    head.scale = 0.25f;
    const auto want = head_reference<double>(head, c.cuts);
    const auto plain = head_reference<float>(head, c.cuts);
    const Sliced sliced = run(head, c.cuts);
    expect_accurate("loss", sliced.loss_N, plain.loss_N, want.loss_N);
    expect_accurate("dx", sliced.dx_NC, plain.dx_NC, want.dx_NC);
    expect_accurate("dW", head.dw.values(), plain.dw_VC, want.dw_VC);
    EXPECT_FALSE(head.dw.raised());
    EXPECT_TRUE(same_bits(run(loss_only, c.cuts, Want::loss).loss_N, sliced.loss_N))
        << "the loss does not depend on gradients";
  }
}

// Slice edges included: the front target is 0, the back one V - 1.
TEST_P(HeadSlicesTest, each_target_is_in_one_slice) {
  Head head(place(), {200, 12, 61});
  const Cuts cuts = {0, 1, 20, 40, 60, 61};
  std::vector<std::int32_t>& targets = head.targets_values;
  for (std::int64_t id = 0; id < head.V; ++id)
    targets[static_cast<std::size_t>(id) + 1] = static_cast<std::int32_t>(id);
  head.targets.set(targets);
  const Sliced sliced = run(head, cuts);
  for (std::size_t n = 0; n < 200; ++n)
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const bool here = targets[n] >= cuts[i] && targets[n] < cuts[i + 1];
      EXPECT_EQ(sliced.stats_SN[i * 200 + n].target != -kInfinity, here) << n << " slice " << i;
    }
}

TEST_P(HeadSlicesTest, same_bits_on_every_stream) {
  expect_same_for_streams([&](Stream& stream, std::int64_t) {
    Head head(on(stream), {256 + 45, 96, 2003});
    const Sliced sliced = run(head, {0, 700, 1500, 2003});
    return bytes_of(sliced.loss_N, sliced.dx_NC, head.dw.exact());
  });
}

// Logits of several thousand; the largest of slices lie far apart.
TEST_P(HeadSlicesTest, large_logits_stay_finite) {
  Head head(place(), {17, 64, 300, 1000.0f});
  const Sliced sliced = run(head, {0, 3, 150, 300});
  expect_accurate("large logits", sliced.loss_N, head_reference<float>(head).loss_N,
                  head_reference<double>(head).loss_N);
}

// A weight that is not finite is seen by all tokens and by all slices, a token's input by that
// token alone.
TEST_P(HeadSlicesTest, what_is_not_finite_reaches_every_slice) {
  const Cuts cuts = {0, 20, 50};
  for (const float bad : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    Head weight(place(), {30, 12, 50}), input(place(), {30, 12, 50});
    weight.w.set(33, 0, bad);  // in the second slice
    input.x.set(0, 5, bad);
    for (std::int64_t n = 0; n < 30; ++n)  // so that infinity meets the same sign everywhere
      weight.x.set(n, 0, 1);
    const Sliced all = run(weight, cuts);
    for (const float loss : all.loss_N) EXPECT_TRUE(std::isnan(loss));
    for (const float dx : all.dx_NC) EXPECT_TRUE(std::isnan(dx));
    EXPECT_TRUE(weight.dw.raised());
    const Sliced one = run(input, cuts);
    EXPECT_TRUE(std::isnan(one.loss_N[0]));
    for (std::size_t n = 1; n < 30; ++n) EXPECT_TRUE(std::isfinite(one.loss_N[n])) << n;
    EXPECT_TRUE(input.dw.raised());
  }
}

class HeadCombineTest : public KernelTest {
 protected:
  struct Combined {
    std::vector<LogitStats> total;
    std::vector<float> loss;
  };
  Combined combine(const std::vector<LogitStats>& stats, std::int64_t tokens) {
    const DeviceVector<LogitStats> there(stream(), stats);
    DeviceVector<LogitStats> total(stream(), tokens, LogitStats{});
    DeviceVector<float> loss(stream(), tokens, 0.0f);
    ops().head_combine(stream(), {there, total, loss});
    return {total.get(), loss.get()};
  }
};

// By hand: 3 slices, 2 tokens.
TEST_F(HeadCombineTest, adds_in_slice_order) {
  const auto [total, loss] = combine({{2, 3, -kInfinity},
                                      {-500, 7, -501},
                                      {4, 1.5f, 3.5f},
                                      {-3000, 2, -kInfinity},
                                      {1, 20, -kInfinity},
                                      {-500.5f, 1, -kInfinity}},
                                     2);
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

// Equal largest logits: the factors are 1, and 2^24 takes in one 1 after another without a trace,
// but not their sum.
TEST_F(HeadCombineTest, never_adds_in_another_order) {
  const LogitStats big = {1, 0x1p24f, 1}, one = {1, 1, -kInfinity};
  EXPECT_EQ(combine({big, one, one}, 1).total[0].sum, 0x1p24f);
  EXPECT_EQ(combine({one, one, big}, 1).total[0].sum, 0x1p24f + 2);
}

}  // namespace
}  // namespace elaswave::kernels
