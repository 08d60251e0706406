// Element-wise operations, masks, sums of squares and digests, most of them bit by bit against
// scalar code: what equals scalar code on both instruction sets is equal between them.
#include <xmmintrin.h>

#include <limits>

#include "io/base/bf16.h"
#include "io/base/hash.h"
#include "model/kernels/adamw_formula.h"
#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

class ElementwiseTest : public KernelTest {};

// The published text, in any precision.
template <typename Real>
Real gelu(Real x) {
  const Real u =
      static_cast<Real>(std::sqrt(2.0 / M_PI)) * (x + static_cast<Real>(0.044715) * x * x * x);
  return static_cast<Real>(0.5) * x * (1 + std::tanh(u));
}
template <typename Real>
Real gelu_slope(Real x) {
  const Real root = static_cast<Real>(std::sqrt(2.0 / M_PI)), cubic = static_cast<Real>(0.044715);
  const Real t = std::tanh(root * (x + cubic * x * x * x));
  return static_cast<Real>(0.5) * (1 + t) +
         static_cast<Real>(0.5) * x * (1 - t * t) * root * (1 + 3 * cubic * x * x);
}
template <typename Real>
std::vector<Real> map(const std::vector<float>& values, Real (*f)(Real)) {
  std::vector<Real> out;
  for (const float value : values) out.push_back(f(static_cast<Real>(value)));
  return out;
}

TEST_F(ElementwiseTest, gelu_matches_reference) {
  device::CpuStream stream(2);
  for (const float scale : {0.01f, 1.0f, 5.0f}) {
    const std::int64_t rows = 113, cols = 37;
    const auto x = random_floats(rows * cols, 1, scale);
    const std::vector<float> ones(x.size(), 1.0f);
    const Padded in(x, rows, cols), dy(ones, rows, cols, 2);
    Padded y(rows, cols), dx(rows, cols, 1);
    ops().gelu_forward(stream, {in.view(), y.mat()});
    ops().gelu_backward(stream, {in.view(), dy.view(), dx.mat()});
    EXPECT_TRUE(y.guards_intact() && dx.guards_intact());
    expect_accurate("y", y.values(), map<float>(x, gelu), map<double>(x, gelu));
    expect_accurate("dx", dx.values(), map<float>(x, gelu_slope), map<double>(x, gelu_slope));
  }
}

TEST_F(ElementwiseTest, gelu_slope_is_the_derivative) {
  const auto x = converted<double>(random_floats(100, 1, 2));
  std::vector<double> slopes;
  for (const double value : x) slopes.push_back(gelu_slope(value));
  expect_gradient("gelu", x, slopes, [](const std::vector<double>& at) {
    double sum = 0;
    for (const double value : at) sum += gelu(value);
    return sum;
  });
}

TEST_F(ElementwiseTest, gelu_far_out) {
  device::CpuStream stream(1);
  std::vector<float> x = {-1e30f, -100.0f, -12.0f, 0.0f, 12.0f, 1e30f, NAN, 3.0f};
  std::vector<float> y(x.size()), dx(x.size()), ones(x.size(), 1.0f);
  const auto view = [](std::vector<float>& v) {
    return device::mat(std::span<float>(v), 1, std::ssize(v));
  };
  ops().gelu_forward(stream, {view(x), view(y)});
  ops().gelu_backward(stream, {view(x), view(ones), view(dx)});
  for (const std::size_t i : {0, 1, 2, 3}) {
    EXPECT_NEAR(y[i], 0, 1e-35) << x[i];
    EXPECT_NEAR(dx[i], i == 3 ? 0.5 : 0, 1e-30) << x[i];
  }
  EXPECT_EQ(y[4], 12.0f);
  EXPECT_EQ(y[5], 1e30f);
  EXPECT_EQ(dx[4], 1.0f);
  EXPECT_EQ(dx[5], 1.0f);
  EXPECT_TRUE(std::isnan(y[6]) && std::isnan(dx[6]));
}

// Odd widths make rows start at every position within a block of four random words.
TEST_F(ElementwiseTest, residual_is_the_scalar_definition) {
  for (const float rate : {0.0f, 0.1f, 0.5f, 0x1p-23f, 1 - 0x1p-24f}) {
    for (const std::int64_t C : {1, 37, 64, 131, 300}) {
      const std::int64_t B = 3, T = 11, N = B * T;
      const auto a = random_floats(N * C, 1), b = random_floats(N * C, 2);
      const auto streams = sample_streams(B, 3);
      const Dropout dropout = {rate, streams};
      device::CpuStream stream(2);
      const Padded residual(a, N, C), branch(b, N, C, 1);
      Padded out(N, C, 2), dbranch(N, C);
      ops().residual_forward(stream, {residual.view(), branch.view(), T, dropout, out.mat()});
      ops().residual_backward(stream, {branch.view(), T, dropout, dbranch.mat()});
      EXPECT_TRUE(out.guards_intact() && dbranch.guards_intact());
      const auto got = out.values(), back = dbranch.values();
      for (std::int64_t i = 0; i < N * C; ++i) {
        const auto e = static_cast<std::size_t>(i);
        const float factor = dropout_factor(dropout, i / (T * C), i % (T * C));
        ASSERT_EQ(got[e], a[e] + b[e] * factor) << rate << " " << C << " element " << i;
        ASSERT_EQ(back[e], b[e] * factor) << rate << " " << C << " element " << i;
      }
    }
  }
}

TEST_F(ElementwiseTest, residual_in_place) {
  const std::int64_t T = 9, C = 50;
  const auto a = random_floats(T * C, 1), b = random_floats(T * C, 2);
  const auto streams = sample_streams(1, 3);
  const Dropout dropout = {0.3f, streams};
  device::CpuStream stream(1);
  Padded residual(a, T, C), branch(b, T, C), out(T, C), dbranch(T, C);
  ops().residual_forward(stream, {residual.view(), branch.view(), T, dropout, out.mat()});
  ops().residual_backward(stream, {residual.view(), T, dropout, dbranch.mat()});
  Padded in_place = residual;
  ops().residual_forward(stream, {in_place.view(), branch.view(), T, dropout, in_place.mat()});
  EXPECT_EQ(in_place.values(), out.values());
  ops().residual_backward(stream, {residual.view(), T, dropout, residual.mat()});
  EXPECT_EQ(residual.values(), dbranch.values());
}

// Ranges of rows that begin and end inside samples, put together, are the whole.
TEST_F(ElementwiseTest, residual_of_row_ranges) {
  const std::int64_t B = 3, T = 11, N = B * T;
  for (const float rate : {0.0f, 0.3f})
    for (const std::int64_t C : {1, 37, 64}) {
      const auto a = random_floats(N * C, 1), b = random_floats(N * C, 2);
      const auto streams = sample_streams(B, 3);
      const Dropout dropout = {rate, streams};
      device::CpuStream stream(2);
      const Padded residual(a, N, C), branch(b, N, C, 1);
      Padded out(N, C, 2), dbranch(N, C), parts(N, C, 2), dparts(N, C);
      ops().residual_forward(stream, {residual.view(), branch.view(), T, dropout, out.mat()});
      ops().residual_backward(stream, {branch.view(), T, dropout, dbranch.mat()});
      const std::int64_t cuts[] = {0, 5, 6, 6, 22, 25, N};  // one range is empty
      for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
        const std::int64_t begin = cuts[i], rows = cuts[i + 1] - cuts[i];
        ops().residual_forward(
            stream, {residual.view().rows_from(begin, rows), branch.view().rows_from(begin, rows),
                     T, dropout, parts.mat().rows_from(begin, rows), begin});
        ops().residual_backward(stream, {branch.view().rows_from(begin, rows), T, dropout,
                                         dparts.mat().rows_from(begin, rows), begin});
      }
      EXPECT_EQ(parts.values(), out.values()) << rate << " " << C;
      EXPECT_EQ(dparts.values(), dbranch.values()) << rate << " " << C;
      EXPECT_TRUE(parts.guards_intact() && dparts.guards_intact());
    }
}

TEST_F(ElementwiseTest, dropout_keeps_its_rate) {
  const std::int64_t T = 256, C = 768;
  const std::vector<float> ones(static_cast<std::size_t>(T * C), 1.0f);
  for (const float rate : {0.1f, 0.5f, 0.9f}) {
    const auto streams = sample_streams(1, 17);
    device::CpuStream stream(2);
    std::vector<float> out(ones.size());
    ops().residual_backward(stream, {device::mat(std::span<const float>(ones), T, C),
                                     T,
                                     {rate, streams},
                                     device::mat(std::span<float>(out), T, C)});
    const auto kept =
        static_cast<double>(std::count_if(out.begin(), out.end(), [](float x) { return x != 0; }));
    const double n = static_cast<double>(out.size()),
                 expected = n * (1.0 - static_cast<double>(rate));
    // Five standard deviations of a binomial.
    EXPECT_NEAR(kept, expected, 5 * std::sqrt(expected * static_cast<double>(rate))) << rate;
  }
}

std::uint32_t word(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

TEST_F(ElementwiseTest, adamw_is_the_scalar_formula) {
  const AdamWScalars scalars = {3e-4f, 0.9f,  0.95f,          1e-8f,
                                0.1f,  0.37f, 1 / (1 - 0.9f), 1 / (1 - 0.95f)};
  std::vector<std::vector<float>> w, m, v, g;
  std::vector<AdamW> blocks;
  const std::int64_t sizes[] = {1, 7, 8, 15, 16, 17, 33, 1000, 0, 16384};
  const std::size_t count = std::size(sizes);
  std::vector<std::vector<std::uint16_t>> working(count);
  for (std::size_t i = 0; i < count; ++i) {
    w.push_back(random_floats(sizes[i], 10 * i + 1));
    m.push_back(random_floats(sizes[i], 10 * i + 2, 1e-3f));
    v.push_back(random_floats(sizes[i], 10 * i + 3, 1e-6f));
    for (float& value : v.back()) value = std::abs(value);
    g.push_back(random_floats(sizes[i], 10 * i + 4,
                              i % 2 == 0 ? 1.0f : 1e-20f));  // squares reach denormals
    working[i].resize(w[i].size());
  }
  w[7][0] = 0x1p-140f, m[7][1] = 0x1p-149f, v[7][2] = 0, g[7][2] = 0, m[7][3] = 0, g[7][4] = 1e30f,
  w[7][5] = NAN;
  const auto w0 = w, m0 = m, v0 = v;
  for (std::size_t i = 0; i < count; ++i)
    blocks.push_back({w[i], m[i], v[i], g[i], scalars,
                      reinterpret_cast<std::byte*>(working[i].data()), DType::bf16});
  device::CpuStream stream(2);
  ops().adamw(stream, blocks);
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < w[i].size(); ++j) {
      const AdamWElement expected = adamw_element(scalars, {w0[i][j], m0[i][j], v0[i][j]}, g[i][j]);
      if (std::isnan(expected.master)) {
        ASSERT_TRUE(std::isnan(w[i][j]) && std::isnan(to_float(bf16{working[i][j]})));
        continue;
      }
      ASSERT_EQ(word(w[i][j]), word(expected.master)) << i << " " << j;
      ASSERT_EQ(word(m[i][j]), word(expected.moment1)) << i << " " << j;
      ASSERT_EQ(word(v[i][j]), word(expected.moment2)) << i << " " << j;
      ASSERT_EQ(working[i][j], to_bf16(expected.master).bits) << i << " " << j;
    }
}

// A library may leave a thread in another mode; every task puts it right before it computes.
TEST_F(ElementwiseTest, denormals_survive_a_changed_float_mode) {
  constexpr unsigned kFlush = (1u << 15) | (1u << 6), kRoundUp = 2u << 13;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | kFlush | kRoundUp);
  std::vector<float> x(20, 0x1p-140f), y = x, out(20);
  device::CpuStream stream(1);
  ops().residual_forward(stream, {device::mat(std::span<const float>(x), 1, 20),
                                  device::mat(std::span<const float>(y), 1, 20),
                                  1,
                                  {},
                                  device::mat(std::span<float>(out), 1, 20)});
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after & (kFlush | kRoundUp), 0u);
  for (const float value : out) EXPECT_EQ(word(value), word(0x1p-139f));
}

TEST_F(ElementwiseTest, adamw_stores_working_f32) {
  auto w = random_floats(100, 1), m = random_floats(100, 2), v = std::vector<float>(100, 1.0f),
       g = random_floats(100, 3);
  std::vector<float> working(100);
  const AdamW block = {w,
                       m,
                       v,
                       g,
                       {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1, 1},
                       reinterpret_cast<std::byte*>(working.data()),
                       DType::f32};
  device::CpuStream stream(1);
  ops().adamw(stream, {&block, 1});
  EXPECT_EQ(working, w);
}

// A backup's block: nobody computes with it.
TEST_F(ElementwiseTest, adamw_without_working_weights_updates_the_same) {
  const AdamWScalars scalars = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1, 1};
  const auto w0 = random_floats(1003, 1), m0 = random_floats(1003, 2), g = random_floats(1003, 3);
  auto w = w0, m = m0, v = std::vector<float>(1003, 1.0f), w2 = w0, m2 = m0, v2 = v;
  std::vector<std::uint16_t> working(1003);
  device::CpuStream stream(1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const AdamW blocks[] = {
        {w, m, v, g, scalars, reinterpret_cast<std::byte*>(working.data()), DType::bf16},
        {w2, m2, v2, g, scalars, nullptr, dtype}};
    ops().adamw(stream, blocks);
    EXPECT_NE(w, w0);
    EXPECT_EQ(w, w2);
    EXPECT_EQ(m, m2);
    EXPECT_EQ(v, v2);
  }
}

TEST_F(ElementwiseTest, mean_rounds_once) {
  std::vector<std::int64_t> sums;
  for (std::uint64_t i = 0; i < 1000; ++i)  // every magnitude, both signs
    sums.push_back(static_cast<std::int64_t>(mix64(i) >> (i % 64)) * (i % 2 == 0 ? 1 : -1));
  for (const std::int64_t extreme :
       {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(),
        (std::int64_t{1} << 53) + 1, (std::int64_t{1} << 54) + 2, std::int64_t{0},
        std::int64_t{-1}})
    sums.push_back(extreme);
  const auto fast = random_floats(1003, 5);
  std::vector<float> mean(sums.size()), fast_mean(fast.size());
  const double scale = 0x1p-40 / 13;
  const MeanGradient blocks[] = {{sums, {}, scale, mean}, {{}, fast, 1.0 / 13, fast_mean}};
  device::CpuStream stream(2);
  ops().mean_gradient(stream, blocks);
  for (std::size_t i = 0; i < sums.size(); ++i)
    ASSERT_EQ(word(mean[i]), word(static_cast<float>(static_cast<double>(sums[i]) * scale)))
        << sums[i];
  for (std::size_t i = 0; i < fast.size(); ++i)
    ASSERT_EQ(word(fast_mean[i]),
              word(static_cast<float>(static_cast<double>(fast[i]) * (1.0 / 13))))
        << i;
}

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

TEST_F(ElementwiseTest, sum_squares_has_one_order) {
  std::vector<std::vector<float>> data;
  std::vector<std::span<const float>> ranges;
  for (const std::int64_t n : {0, 1, 5, 31, 32, 33, 1000, 65536, 65537, 200001})
    data.push_back(random_floats(n, static_cast<std::uint64_t>(n), 1e3f));
  for (const auto& values : data) ranges.emplace_back(values);
  expect_same_for_threads([&](device::CpuStream& stream) {
    std::vector<double> sums(ranges.size());
    ops().sum_squares(stream, ranges, sums);
    for (std::size_t i = 0; i < ranges.size(); ++i)
      EXPECT_EQ(sums[i], squares_in_order(ranges[i])) << i;
    return bytes_of(sums);
  });
}

std::uint64_t scalar_digest(std::span<const float> range, std::uint64_t key) {
  std::uint64_t sum = 0;
  for (std::size_t j = 0; j < range.size(); ++j)
    sum += mix64(mix64(key + j * kGolden64) ^ word(range[j]));
  return sum;
}

TEST_F(ElementwiseTest, digest_is_the_scalar_definition) {
  std::vector<std::vector<float>> data;
  std::vector<std::span<const float>> ranges;
  std::vector<std::uint64_t> keys;
  for (const std::int64_t n : {0, 1, 7, 31, 32, 33, 257, 65536, 70001}) {
    data.push_back(random_floats(n, static_cast<std::uint64_t>(n) + 1));
    keys.push_back(mix64(static_cast<std::uint64_t>(n)));
  }
  for (const auto& values : data) ranges.emplace_back(values);
  expect_same_for_threads([&](device::CpuStream& stream) {
    std::vector<std::uint64_t> digests(ranges.size());
    ops().digest(stream, ranges, keys, digests);
    for (std::size_t i = 0; i < ranges.size(); ++i)
      EXPECT_EQ(digests[i], scalar_digest(ranges[i], keys[i])) << i;
    return bytes_of(digests);
  });
}

TEST_F(ElementwiseTest, any_flipped_bit_changes_the_digest) {
  auto values = random_floats(101, 1);
  const std::uint64_t key = 42;
  device::CpuStream stream(1);
  const auto digest = [&] {
    const std::span<const float> range = values;
    std::uint64_t out = 0;
    ops().digest(stream, {&range, 1}, {&key, 1}, {&out, 1});
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

TEST_F(ElementwiseTest, names_what_its_bits_depend_on) {
  const std::string text = ops().numeric_class();
  EXPECT_NE(text.find(ELASWAVE_TEST_ISA == Isa::avx2 ? "cpu/avx2/onednn-" : "cpu/avx512/onednn-"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(gemm_library_version()), std::string::npos) << text;
}

// A process holds the library to one instruction set: the second is refused with the reason.
TEST_F(ElementwiseTest, another_instruction_set_is_refused) {
  const auto other = make_cpu_ops(ELASWAVE_TEST_ISA == Isa::avx2 ? Isa::avx512 : Isa::avx2);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::unavailable);
  EXPECT_FALSE(other.error().fix.empty());
}

}  // namespace
}  // namespace elaswave::kernels
