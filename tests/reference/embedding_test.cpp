// Embedding forward and backward, bit by bit against scalar code.
#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

struct Case {
  std::int64_t B = 3, T = 13, C = 37, V = 11, positions = 20;
  float rate = 0;
  std::int64_t N() const { return B * T; }
};

std::vector<std::int32_t> some_ids(const Case& c) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < c.N(); ++i)  // ids 0 .. V - 3: two rows never occur
    ids.push_back(static_cast<std::int32_t>(mix64(static_cast<std::uint64_t>(i)) %
                                            static_cast<std::uint64_t>(c.V - 2)));
  return ids;
}

class EmbeddingTest : public KernelTest {};

TEST_F(EmbeddingTest, forward_is_the_scalar_definition) {
  for (const float rate : {0.0f, 0.3f}) {
    const Case c = {.rate = rate};
    const auto ids = some_ids(c);
    const auto wte = random_floats(c.V * c.C, 1), wpe = random_floats(c.positions * c.C, 2);
    const auto streams = sample_streams(c.B, 3);
    const Dropout dropout = {rate, streams};
    const Padded tokens(wte, c.V, c.C), positions(wpe, c.positions, c.C, 1);
    Padded x(c.N(), c.C, 2);
    device::CpuStream stream(2);
    ops().embedding_forward(stream, {ids, tokens.view(), positions.view(), c.T, dropout, x.mat()});
    EXPECT_TRUE(x.guards_intact());
    const auto got = x.values();
    for (std::int64_t i = 0; i < c.N() * c.C; ++i) {
      const std::int64_t row = i / c.C, t = row % c.T, col = i % c.C;
      const auto id = static_cast<std::int64_t>(ids[static_cast<std::size_t>(row)]);
      const float sum = wte[static_cast<std::size_t>(id * c.C + col)] +
                        wpe[static_cast<std::size_t>(t * c.C + col)];
      ASSERT_EQ(got[static_cast<std::size_t>(i)],
                sum * dropout_factor(dropout, row / c.T, t * c.C + col))
          << i;
    }
  }
}

struct Sums {
  std::vector<std::int64_t> wte, wpe;
};

// The contract in scalar code: f32 sums in order of position, one rounding into the grid.
Sums expected_sums(const Case& c, const std::vector<std::int32_t>& ids,
                   const std::vector<float>& dx, const Dropout& dropout) {
  Sums sums = {std::vector<std::int64_t>(static_cast<std::size_t>(c.V * c.C)),
               std::vector<std::int64_t>(static_cast<std::size_t>(c.positions * c.C))};
  const auto gradient = [&](std::int64_t row, std::int64_t col) {
    return dx[static_cast<std::size_t>(row * c.C + col)] *
           dropout_factor(dropout, row / c.T, row % c.T * c.C + col);
  };
  const auto sum_where = [&](std::int64_t col, const auto& belongs) {
    float sum = 0;
    bool any = false;
    for (std::int64_t row = 0; row < c.N(); ++row)
      if (belongs(row)) sum = any ? sum + gradient(row, col) : gradient(row, col), any = true;
    return std::llrint(static_cast<double>(sum) * 0x1p40);
  };
  for (std::int64_t col = 0; col < c.C; ++col) {
    for (std::int64_t id = 0; id < c.V; ++id)
      sums.wte[static_cast<std::size_t>(id * c.C + col)] = sum_where(
          col, [&](std::int64_t row) { return ids[static_cast<std::size_t>(row)] == id; });
    for (std::int64_t t = 0; t < c.T; ++t)
      sums.wpe[static_cast<std::size_t>(t * c.C + col)] =
          sum_where(col, [&](std::int64_t row) { return row % c.T == t; });
  }
  return sums;
}

TEST_F(EmbeddingTest, backward_is_the_scalar_definition) {
  for (const float rate : {0.0f, 0.3f}) {
    const Case c = {.rate = rate};
    const auto ids = some_ids(c);
    const auto dx = random_floats(c.N() * c.C, 1);
    const auto streams = sample_streams(c.B, 3);
    const Dropout dropout = {rate, streams};
    const Padded gradient(dx, c.N(), c.C);
    const Sums expected = expected_sums(c, ids, dx, dropout);
    for (const int threads : {1, 2, 3, 4, 8}) {
      device::CpuStream stream(threads);
      ExactSums wte(c.V * c.C, 12345),
          wpe(c.positions * c.C, 12345);  // must be overwritten everywhere
      ops().embedding_backward(
          stream, {ids, gradient.view(), c.T, dropout, wte.sink(true), wpe.sink(true)});
      EXPECT_EQ(wte.sums, expected.wte);
      EXPECT_EQ(wpe.sums, expected.wpe);
      ops().embedding_backward(
          stream, {ids, gradient.view(), c.T, dropout, wte.sink(false), wpe.sink(false)});
      Sums twice = expected;
      for (std::int64_t& sum : twice.wte) sum *= 2;
      for (std::int64_t& sum : twice.wpe) sum *= 2;
      EXPECT_EQ(wte.sums, twice.wte);
      EXPECT_EQ(wpe.sums, twice.wpe);
      EXPECT_EQ(wte.flag.bad + wpe.flag.bad, 0u);
    }
  }
}

TEST_F(EmbeddingTest, fast_sums) {
  const Case c = {.B = 1, .T = 6, .C = 20};
  const auto ids = some_ids(c);
  const auto dx = random_floats(c.N() * c.C, 1);
  std::vector<float> wte(static_cast<std::size_t>(c.V * c.C), 7),
      wpe(static_cast<std::size_t>(c.T * c.C), 7);
  RangeFlag flag;
  device::CpuStream stream(1);
  const auto sink = [&](std::vector<float>& sums, bool overwrite) {
    return GradSink{
        .fast = sums.data(), .elems = std::ssize(sums), .overwrite = overwrite, .flag = &flag};
  };
  const ConstMat view = device::mat(std::span<const float>(dx), c.T, c.C);
  ops().embedding_backward(stream, {ids, view, c.T, {}, sink(wte, true), sink(wpe, true)});
  EXPECT_EQ(wpe, dx);
  for (std::int64_t col = 0; col < c.C; ++col)
    EXPECT_EQ(wte[static_cast<std::size_t>((c.V - 1) * c.C + col)], 0.0f);
  ops().embedding_backward(stream, {ids, view, c.T, {}, sink(wte, false), sink(wpe, false)});
  for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_EQ(wpe[i], dx[i] + dx[i]);
  EXPECT_EQ(flag.bad, 0u);
}

// One token, one row: every magnitude meets the grid exactly once. Ties go to even, the limit
// itself is out.
TEST_F(EmbeddingTest, rounds_to_the_grid) {
  std::vector<float> dx = {0.0f,      -0.0f,      0x1p-41f,    0x3p-41f,        -0x1p-41f, 0x5p-42f,
                           0x1p-40f,  1e-30f,     -0x1p-149f,  0x1.fffffep-18f, 0x1p-17f,  1.0f,
                           -3.14159f, 32767.998f, -32767.998f, 0x1.234568p-9f};
  for (const float value : random_floats(1000, 9))
    dx.push_back(std::ldexp(value, static_cast<int>(dx.size() % 50) - 37));
  const auto C = std::ssize(dx);
  const std::int32_t id = 0;
  device::CpuStream stream(1);
  ExactSums wte(C), wpe(C);
  ops().embedding_backward(stream, {{&id, 1},
                                    device::mat(std::span<const float>(dx), 1, C),
                                    1,
                                    {},
                                    wte.sink(true),
                                    wpe.sink(true)});
  EXPECT_EQ(wte.flag.bad, 0u);
  for (std::size_t i = 0; i < dx.size(); ++i)
    ASSERT_EQ(wte.sums[i], std::llrint(static_cast<double>(dx[i]) * 0x1p40)) << dx[i];
  for (const float bad : {32768.0f, -32768.0f, INFINITY, -INFINITY, NAN}) {
    ExactSums sums(C), other(C);
    std::vector<float> with = dx;
    with[17] = bad;
    ops().embedding_backward(stream, {{&id, 1},
                                      device::mat(std::span<const float>(with), 1, C),
                                      1,
                                      {},
                                      sums.sink(true),
                                      other.sink(true)});
    EXPECT_EQ(sums.flag.bad, 1u) << bad;
    EXPECT_EQ(sums.sums[17], 0) << bad;
    EXPECT_EQ(sums.sums[18], wte.sums[18]) << bad;
  }
}

}  // namespace
}  // namespace elaswave::kernels
