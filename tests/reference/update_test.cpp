// Optimizer updates, mean gradients, sums of squares and digests, bit by bit against scalar code:
// what equals scalar code on two backends is equal between them.
#include <bit>
#include <cmath>
#include <limits>

#include "io/base/bf16.h"
#include "io/base/hash.h"
#include "model/kernels/adamw_formula.h"
#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

class UpdateTest : public KernelTest {};

std::uint32_t word(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

// Optimizer state of one block: on the host as it was, and in device memory.
struct Block {
  Block(Stream& stream, std::int64_t n, std::uint64_t seed, float gradient_scale)
      : w0(random_floats(n, seed + 1)),
        m0(random_floats(n, seed + 2, 1e-3f)),
        v0(random_floats(n, seed + 3, 1e-6f)),
        g0(random_floats(n, seed + 4, gradient_scale)),
        w(stream, w0),
        m(stream, m0),
        v(stream, v0),
        g(stream, g0),
        working(stream, n, bf16{}) {
    for (float& value : v0) value = std::abs(value);
    v.set(v0);
  }
  AdamW args(const AdamWScalars& scalars) {
    return {w, m, v, g, scalars, working.data(), DType::bf16};
  }

  std::vector<float> w0, m0, v0, g0;
  DeviceVector<float> w, m, v, g;
  DeviceVector<bf16> working;
};

void expect_updated(const Block& block, const AdamWScalars& scalars) {
  const auto w = block.w.get(), m = block.m.get(), v = block.v.get();
  const auto working = block.working.get();
  for (std::size_t j = 0; j < w.size(); ++j) {
    const AdamWElement expected =
        adamw_element(scalars, {block.w0[j], block.m0[j], block.v0[j]}, block.g0[j]);
    if (std::isnan(expected.master)) {
      ASSERT_TRUE(std::isnan(w[j]) && std::isnan(to_float(working[j])));
      continue;
    }
    ASSERT_EQ(word(w[j]), word(expected.master)) << j << " of " << w.size();
    ASSERT_EQ(word(m[j]), word(expected.moment1)) << j << " of " << w.size();
    ASSERT_EQ(word(v[j]), word(expected.moment2)) << j << " of " << w.size();
    ASSERT_EQ(working[j].bits, to_bf16(expected.master).bits) << j << " of " << w.size();
  }
}

TEST_F(UpdateTest, adamw_is_the_scalar_formula) {
  const AdamWScalars scalars = {3e-4f, 0.9f,  0.95f,          1e-8f,
                                0.1f,  0.37f, 1 / (1 - 0.9f), 1 / (1 - 0.95f)};
  std::vector<Block> blocks;
  for (const std::int64_t n : {1, 7, 8, 15, 16, 17, 33, 1000, 0, 16384}) {
    const std::uint64_t i = blocks.size();  // every other block's squares reach denormals
    blocks.emplace_back(stream(), n, 10 * i, i % 2 == 0 ? 1.0f : 1e-20f);
  }
  Block& odd = blocks[7];
  odd.w0[0] = 0x1p-140f, odd.m0[1] = 0x1p-149f, odd.v0[2] = 0, odd.g0[2] = 0, odd.m0[3] = 0;
  odd.g0[4] = 1e30f, odd.w0[5] = NAN;
  odd.w.set(odd.w0), odd.m.set(odd.m0), odd.v.set(odd.v0), odd.g.set(odd.g0);
  std::vector<AdamW> args;
  for (Block& block : blocks) args.push_back(block.args(scalars));
  ops().adamw(stream(), args);
  for (const Block& block : blocks) expect_updated(block, scalars);
}

TEST_F(UpdateTest, adamw_stores_working_f32) {
  Block block(stream(), 100, 0, 1);
  DeviceVector<float> working(stream(), 100, 0.0f);
  AdamW args = block.args({1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1, 1});
  args.working = working.data();
  args.working_dtype = DType::f32;
  ops().adamw(stream(), {&args, 1});
  EXPECT_EQ(working.get(), block.w.get());
  EXPECT_NE(working.get(), block.w0);
}

// A backup's block: nobody computes with it.
TEST_F(UpdateTest, adamw_without_working_weights_updates_the_same) {
  const AdamWScalars scalars = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1, 1};
  Block with(stream(), 1003, 0, 1), without(stream(), 1003, 0, 1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    AdamW blocks[] = {with.args(scalars), without.args(scalars)};
    blocks[1].working = nullptr;
    blocks[1].working_dtype = dtype;
    ops().adamw(stream(), blocks);
    EXPECT_NE(with.w.get(), with.w0);
    EXPECT_EQ(with.w.get(), without.w.get());
    EXPECT_EQ(with.m.get(), without.m.get());
    EXPECT_EQ(with.v.get(), without.v.get());
  }
}

TEST_F(UpdateTest, mean_rounds_once) {
  std::vector<std::int64_t> sums;
  for (std::uint64_t i = 0; i < 1000; ++i)  // every magnitude, both signs
    sums.push_back(static_cast<std::int64_t>(mix64(i) >> (i % 64)) * (i % 2 == 0 ? 1 : -1));
  for (const std::int64_t extreme :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(),
        (std::int64_t{1} << 53) + 1, (std::int64_t{1} << 54) + 2, std::int64_t{0},
        std::int64_t{-1}})
    sums.push_back(extreme);
  const auto fast = random_floats(1003, 5);
  const DeviceVector<std::int64_t> sums_there(stream(), sums);
  const DeviceVector<float> fast_there(stream(), fast);
  DeviceVector<float> exact_mean(stream(), std::ssize(sums), 0.0f),
      fast_mean(stream(), std::ssize(fast), 0.0f);
  const double scale = 0x1p-40 / 13;
  const MeanGradient blocks[] = {{sums_there, {}, scale, exact_mean},
                                 {{}, fast_there, 1.0 / 13, fast_mean}};
  ops().mean_gradient(stream(), blocks);
  std::vector<float> mean = exact_mean.get();
  for (std::size_t i = 0; i < sums.size(); ++i)
    ASSERT_EQ(word(mean[i]), word(static_cast<float>(static_cast<double>(sums[i]) * scale)))
        << sums[i];
  mean = fast_mean.get();
  for (std::size_t i = 0; i < fast.size(); ++i)
    ASSERT_EQ(word(mean[i]), word(static_cast<float>(static_cast<double>(fast[i]) * (1.0 / 13))))
        << i;
}

// Ranges of the given sizes, on the host and in device memory, and the last of them from its fourth
// element on: a range may begin anywhere.
struct Ranges {
  Ranges(Stream& stream, const std::vector<std::int64_t>& sizes, float scale) {
    for (const std::int64_t n : sizes) {
      host.push_back(random_floats(n, static_cast<std::uint64_t>(n) + 1, scale));
      there.emplace_back(stream, host.back());
    }
    for (const auto& range : there) spans.push_back(range.span());
    spans.push_back(spans.back().subspan(3));
    host.emplace_back(host.back().begin() + 3, host.back().end());
  }
  std::vector<std::vector<float>> host;
  std::vector<DeviceVector<float>> there;
  std::vector<std::span<const float>> spans;
};

// The order of the README: pieces of 65536, in each 32 interleaved chains folded in halves, then
// pieces in order.
double squares_in_order(std::span<const float> x) {
  double total = 0;
  for (std::size_t first = 0; first < x.size(); first += 65536) {
    double chains[32] = {};
    for (std::size_t i = first; i < std::min(first + 65536, x.size()); ++i)
      chains[(i - first) % 32] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    for (std::size_t half = 16; half > 0; half /= 2)
      for (std::size_t l = 0; l < half; ++l) chains[l] += chains[l + half];
    total += chains[0];
  }
  return total;
}

TEST_F(UpdateTest, sum_squares_has_one_order) {
  expect_same_for_streams([&](Stream& stream, std::int64_t) {
    const Ranges ranges(stream, {0, 1, 5, 31, 32, 33, 1000, 65536, 65537, 200001}, 1e3f);
    std::vector<double> sums(ranges.spans.size());
    ops().sum_squares(stream, ranges.spans, sums);
    stream.synchronize();
    for (std::size_t i = 0; i < sums.size(); ++i)
      EXPECT_EQ(sums[i], squares_in_order(ranges.host[i])) << i;
    return bytes_of(sums);
  });
}

std::uint64_t scalar_digest(std::span<const float> range, std::uint64_t key) {
  std::uint64_t sum = 0;
  for (std::size_t j = 0; j < range.size(); ++j)
    sum += mix64(mix64(key + j * kGolden64) ^ word(range[j]));
  return sum;
}

TEST_F(UpdateTest, digest_is_the_scalar_definition) {
  expect_same_for_streams([&](Stream& stream, std::int64_t) {
    const Ranges ranges(stream, {0, 1, 7, 31, 32, 33, 257, 65536, 70001}, 1);
    std::vector<std::uint64_t> keys, digests(ranges.spans.size());
    while (keys.size() < digests.size()) keys.push_back(mix64(keys.size()));
    ops().digest(stream, ranges.spans, keys, digests);
    stream.synchronize();
    for (std::size_t i = 0; i < digests.size(); ++i)
      EXPECT_EQ(digests[i], scalar_digest(ranges.host[i], keys[i])) << i;
    return bytes_of(digests);
  });
}

TEST_F(UpdateTest, any_flipped_bit_changes_the_digest) {
  auto values = random_floats(101, 1);
  const std::uint64_t key = 42;
  DeviceVector<float> there(stream(), values);
  const auto digest = [&] {
    there.set(values);
    const std::span<const float> range = there;
    std::uint64_t out = 0;
    ops().digest(stream(), {&range, 1}, {&key, 1}, {&out, 1});
    stream().synchronize();
    return out;
  };
  const std::uint64_t before = digest();
  for (float& value : values)
    for (int bit = 0; bit < 32; ++bit) {
      const float kept = value;
      value = std::bit_cast<float>(word(value) ^ (1u << bit));
      ASSERT_NE(digest(), before);
      value = kept;
    }
  EXPECT_EQ(digest(), before);
}

}  // namespace
}  // namespace elaswave::kernels
