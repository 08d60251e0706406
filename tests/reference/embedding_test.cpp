// Embedding forward and backward, bit by bit against scalar code.
#include "io/base/hash.h"
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

// Dense rows of 40 can be loaded in whole vectors, padded rows of 37 cannot.
const Case kCases[] = {{}, {.rate = 0.3f}, {.C = 40, .rate = 0.3f}};

class EmbeddingTest : public StorageTest {};
EW_FOR_STORAGE_TYPES(EmbeddingTest);
class EmbeddingSinkTest : public KernelTest {};

TEST_P(EmbeddingTest, forward_is_the_scalar_definition) {
  for (const Case& c : kCases) {
    const auto ids = some_ids(c);
    const auto wte = stored(random_floats(c.V * c.C, 1)),
               wpe = stored(random_floats(c.positions * c.C, 2));
    const auto streams = sample_streams(c.B, 3);
    const Dropout dropout = {c.rate, streams};
    const std::int64_t extra = c.C % 2;
    const Padded tokens(place(), wte, c.V, c.C, 3 * extra),
        positions(place(), wpe, c.positions, c.C, extra);
    Padded x(place(), c.N(), c.C, 2 * extra);
    const DeviceVector<std::int32_t> ids_there(stream(), ids);
    ops().embedding_forward(stream(),
                            {ids_there, tokens.view(), positions.view(), c.T, dropout, x.mat()});
    EXPECT_TRUE(x.guards_intact());
    const auto got = x.values();
    for (std::int64_t i = 0; i < c.N() * c.C; ++i) {
      const std::int64_t row = i / c.C, t = row % c.T, col = i % c.C;
      const auto id = static_cast<std::int64_t>(ids[static_cast<std::size_t>(row)]);
      const float sum = wte[static_cast<std::size_t>(id * c.C + col)] +
                        wpe[static_cast<std::size_t>(t * c.C + col)];
      ASSERT_EQ(got[static_cast<std::size_t>(i)],
                stored(sum * dropout_factor(dropout, row / c.T, t * c.C + col)))
          << i;
    }
  }
}

struct Sums64 {
  std::vector<std::int64_t> wte, wpe;
};

// The contract in scalar code: masked gradients as stored, f32 sums of them in order of position,
// one rounding into the grid.
Sums64 expected_sums(const Case& c, const std::vector<std::int32_t>& ids,
                     const std::vector<float>& dx, const Dropout& dropout, DType dtype) {
  Sums64 sums = {std::vector<std::int64_t>(static_cast<std::size_t>(c.V * c.C)),
                 std::vector<std::int64_t>(static_cast<std::size_t>(c.positions * c.C))};
  const auto gradient = [&](std::int64_t row, std::int64_t col) {
    return stored(dx[static_cast<std::size_t>(row * c.C + col)] *
                      dropout_factor(dropout, row / c.T, row % c.T * c.C + col),
                  dtype);
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

TEST_P(EmbeddingTest, backward_is_the_scalar_definition) {
  for (const Case& c : kCases) {
    const auto ids = some_ids(c);
    const auto dx = stored(random_floats(c.N() * c.C, 1));
    const auto streams = sample_streams(c.B, 3);
    const Dropout dropout = {c.rate, streams};
    const Sums64 once = expected_sums(c, ids, dx, dropout, dtype());
    Sums64 twice = once;
    for (std::int64_t& sum : twice.wte) sum *= 2;
    for (std::int64_t& sum : twice.wpe) sum *= 2;
    expect_same_for_streams([&](Stream& stream, std::int64_t) {
      const Padded gradient(on(stream), dx, c.N(), c.C, c.C % 2);
      const DeviceVector<std::int32_t> ids_there(stream, ids);
      Sums wte(stream, c.V * c.C, 12345),
          wpe(stream, c.positions * c.C, 12345);  // must be overwritten everywhere
      ops().embedding_backward(
          stream, {ids_there, gradient.view(), c.T, dropout, wte.sink(true), wpe.sink(true)});
      EXPECT_EQ(wte.exact(), once.wte);
      EXPECT_EQ(wpe.exact(), once.wpe);
      ops().embedding_backward(
          stream, {ids_there, gradient.view(), c.T, dropout, wte.sink(false), wpe.sink(false)});
      EXPECT_EQ(wte.exact(), twice.wte);
      EXPECT_EQ(wpe.exact(), twice.wpe);
      EXPECT_FALSE(wte.raised() || wpe.raised());
      return bytes_of(wte.exact(), wpe.exact());
    });
  }
}

TEST_P(EmbeddingTest, fast_sums) {
  const Case c = {.B = 1, .T = 6, .C = 20};
  const auto dx = stored(random_floats(c.N() * c.C, 1));
  const DeviceVector<std::int32_t> ids(stream(), some_ids(c));
  const Padded gradient(place(), dx, c.T, c.C, 0);
  Sums wte(stream(), c.V * c.C, 7), wpe(stream(), c.T * c.C, 7);
  const auto backward = [&](bool overwrite) {
    ops().embedding_backward(
        stream(),
        {ids, gradient.view(), c.T, {}, wte.fast_sink(overwrite), wpe.fast_sink(overwrite)});
  };
  backward(true);
  EXPECT_EQ(wpe.fast(), dx);
  const auto table = wte.fast();
  for (std::int64_t col = 0; col < c.C; ++col)
    EXPECT_EQ(table[static_cast<std::size_t>((c.V - 1) * c.C + col)], 0.0f);
  backward(false);
  const auto twice = wpe.fast();
  for (std::size_t i = 0; i < dx.size(); ++i) EXPECT_EQ(twice[i], dx[i] + dx[i]);
  EXPECT_FALSE(wte.raised() || wpe.raised());
}

// One token, one row: every magnitude meets the grid exactly once. Ties go to even, the limit
// itself is out.
TEST_F(EmbeddingSinkTest, rounds_to_the_grid) {
  std::vector<float> dx = {0.0f,      -0.0f,      0x1p-41f,    0x3p-41f,        -0x1p-41f, 0x5p-42f,
                           0x1p-40f,  1e-30f,     -0x1p-149f,  0x1.fffffep-18f, 0x1p-17f,  1.0f,
                           -3.14159f, 32767.998f, -32767.998f, 0x1.234568p-9f};
  for (const float value : random_floats(1000, 9))
    dx.push_back(std::ldexp(value, static_cast<int>(dx.size() % 50) - 37));
  const auto C = std::ssize(dx);
  const DeviceVector<std::int32_t> id(stream(), {0});
  const auto backward = [&](const std::vector<float>& gradients, Sums& wte, Sums& wpe) {
    const Padded gradient({stream()}, gradients, 1, C);
    ops().embedding_backward(stream(),
                             {id, gradient.view(), 1, {}, wte.sink(true), wpe.sink(true)});
  };
  Sums wte(stream(), C), wpe(stream(), C);
  backward(dx, wte, wpe);
  EXPECT_FALSE(wte.raised());
  const auto good = wte.exact();
  for (std::size_t i = 0; i < dx.size(); ++i)
    ASSERT_EQ(good[i], std::llrint(static_cast<double>(dx[i]) * 0x1p40)) << dx[i];
  for (const float bad : {32768.0f, -32768.0f, INFINITY, -INFINITY, NAN}) {
    Sums sums(stream(), C), other(stream(), C);
    std::vector<float> with = dx;
    with[17] = bad;
    backward(with, sums, other);
    EXPECT_TRUE(sums.raised()) << bad;
    EXPECT_EQ(sums.exact()[17], 0) << bad;
    EXPECT_EQ(sums.exact()[18], good[18]) << bad;
  }
}

}  // namespace
}  // namespace elaswave::kernels
