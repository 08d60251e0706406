// Element-wise and embedding kernels of the CUDA backend bit by bit against the CPU's, in layouts
// and sizes beyond those of the bodies that all backends share.
#include <cmath>

#include "io/base/hash.h"
#include "tests/reference/cuda_case.h"

namespace elaswave::kernels {
namespace {

class CudaElementwise : public BitsTest {};

TEST_F(CudaElementwise, residual_has_the_bits_of_the_cpu) {
  for (const Layout& layout : kLayouts)
    for (const Shape& s : kShapes)
      for (const float rate : {0.0f, 0.3f})
        for (const std::int64_t begin : {std::int64_t{0}, s.T / 2 + 1}) {
          const std::int64_t N = s.N() - begin;
          if (N <= 0) continue;
          SCOPED_TRACE(::testing::Message() << text(s) << ' ' << rate << " from row " << begin);
          const auto streams = sample_streams(s.B, 3);
          const Dropout dropout = {rate, streams};
          const auto a = stored(random_floats(N * s.C, 1), layout.dtype);
          const auto b = stored(random_floats(N * s.C, 2), layout.dtype);
          expect_same_bits(here(layout), cpu(layout.dtype), [&](const Side& on) {
            const Shifted residual = on.matrix(a, N, s.C), branch = on.matrix(b, N, s.C);
            Shifted out = on.matrix(N, s.C), dbranch = on.matrix(N, s.C);
            on.ops.residual_forward(
                on.stream, {residual.view(), branch.view(), s.T, dropout, out.mat(), begin});
            on.ops.residual_backward(on.stream,
                                     {branch.view(), s.T, dropout, dbranch.mat(), begin});
            return bytes_of(on.values(out), on.values(dbranch));
          });
        }
}

TEST_F(CudaElementwise, gelu_keeps_its_bits_in_every_layout) {
  for (const Layout& layout : kLayouts)
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(text(s));
      const auto x = random_floats(s.N() * s.C, 1, 3), dy = random_floats(s.N() * s.C, 2);
      expect_same_bits(here(layout), here({layout.dtype}), [&](const Side& on) {
        const Shifted in = on.matrix(x, s.N(), s.C), gradient = on.matrix(dy, s.N(), s.C);
        Shifted y = on.matrix(s.N(), s.C), dx = on.matrix(s.N(), s.C);
        on.ops.gelu_forward(on.stream, {in.view(), y.mat()});
        on.ops.gelu_backward(on.stream, {in.view(), gradient.view(), dx.mat()});
        return bytes_of(y.values(), dx.values());
      });
    }
}

std::vector<std::int32_t> some_ids(std::int64_t N, std::int64_t V) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < N; ++i) {  // one id is frequent, some do not occur
    const std::uint64_t word = mix64(static_cast<std::uint64_t>(i));
    ids.push_back(word % 3 == 0 ? static_cast<std::int32_t>(V / 2)
                                : static_cast<std::int32_t>(word % static_cast<std::uint64_t>(V)));
  }
  return ids;
}

TEST_F(CudaElementwise, embedding_forward_has_the_bits_of_the_cpu) {
  for (const Layout& layout : kLayouts)
    for (const Shape& s : kShapes)
      for (const float rate : {0.0f, 0.3f}) {
        SCOPED_TRACE(::testing::Message() << text(s) << ' ' << rate);
        const std::int64_t N = s.N(), V = 11, begin = s.T / 2, rows = N - begin;
        const auto ids = some_ids(N, V);
        const auto streams = sample_streams(s.B, 3);
        const Dropout dropout = {rate, streams};
        const auto wte = stored(random_floats(V * s.C, 1), layout.dtype);
        const auto wpe = stored(random_floats((s.T + 2) * s.C, 2), layout.dtype);
        const auto in = stored(random_floats(N * s.C, 4), layout.dtype);
        expect_same_bits(here(layout), cpu(layout.dtype), [&](const Side& on) {
          const DeviceVector<std::int32_t> ids_there(on.stream, ids);
          const Shifted tokens = on.matrix(wte, V, s.C), positions = on.matrix(wpe, s.T + 2, s.C);
          const Shifted x = on.matrix(in, N, s.C);
          Shifted whole = on.matrix(N, s.C), slice = on.matrix(N, s.C), part = on.matrix(N, s.C);
          on.ops.embedding_forward(
              on.stream, {ids_there, tokens.view(), positions.view(), s.T, dropout, whole.mat()});
          on.ops.embedding_lookup(on.stream, {ids_there, tokens.view(), 4, slice.mat()});
          on.ops.embedding_positions(
              on.stream, {x.view().rows_from(begin, rows), positions.view(), s.T, begin, dropout,
                          part.mat().rows_from(begin, rows)});
          return bytes_of(on.values(whole), on.values(slice), on.values(part));
        });
      }
}

// A rate of a half doubles what it keeps, so that masked gradients have no rounding that the CPU's
// f32 would lack.
TEST_F(CudaElementwise, embedding_backward_has_the_bits_of_the_cpu) {
  for (const Layout& layout : kLayouts)
    for (const Shape& s : kShapes)
      for (const float rate : {0.0f, 0.5f}) {
        SCOPED_TRACE(::testing::Message() << text(s) << ' ' << rate);
        const std::int64_t N = s.N(), V = 11, positions = s.T + 1;
        const std::int64_t begin = s.T / 2, rows = N - begin;
        const bool overwrite = rate == 0;
        const auto ids = some_ids(N, V);
        const auto streams = sample_streams(s.B, 3);
        const Dropout dropout = {rate, streams};
        const auto dx = stored(random_floats(N * s.C, 1), layout.dtype);
        expect_same_bits(here(layout), cpu(layout.dtype), [&](const Side& on) {
          const DeviceVector<std::int32_t> ids_there(on.stream, ids);
          const Shifted gradient = on.matrix(dx, N, s.C);
          Shifted masked = on.matrix(N, s.C);
          Sums wte(on.stream, V * s.C, 12345), wpe(on.stream, positions * s.C, 12345);
          Sums slice(on.stream, (V - 6) * s.C, 12345), part(on.stream, positions * s.C, 12345);
          for (const auto sink : {&Sums::sink, &Sums::fast_sink}) {
            on.ops.embedding_backward(on.stream, {ids_there, gradient.view(), s.T, dropout,
                                                  (wte.*sink)(overwrite), (wpe.*sink)(overwrite)});
            on.ops.embedding_lookup_backward(
                on.stream, {ids_there, gradient.view(), 3, (slice.*sink)(overwrite)});
            on.ops.embedding_positions_backward(
                on.stream, {gradient.view().rows_from(begin, rows), s.T, begin, dropout,
                            (part.*sink)(overwrite), masked.mat().rows_from(begin, rows)});
          }
          EXPECT_FALSE(wte.raised() || wpe.raised() || slice.raised() || part.raised());
          return bytes_of(wte.exact(), wte.fast(), wpe.exact(), wpe.fast(), slice.exact(),
                          slice.fast(), part.exact(), part.fast(), on.values(masked));
        });
      }
}

// More tokens than a window of rows has bits, so that groups cross windows, and most of one id.
TEST_F(CudaElementwise, embedding_backward_of_many_tokens) {
  const std::int64_t N = 65536 + 4099, V = 500, C = 2;
  const auto ids = some_ids(N, V);
  const auto dx = random_floats(N * C, 1, 0.01f);
  expect_same_bits(here({}), cpu(), [&](const Side& on) {
    const DeviceVector<std::int32_t> ids_there(on.stream, ids);
    const Shifted gradient = on.matrix(dx, N, C);
    Sums wte(on.stream, V * C, 12345);
    on.ops.embedding_lookup_backward(on.stream, {ids_there, gradient.view(), 0, wte.sink(true)});
    EXPECT_FALSE(wte.raised());
    return bytes_of(wte.exact());
  });
}

TEST_F(CudaElementwise, fast_sums_take_what_is_finite) {
  const DeviceVector<std::int32_t> id(stream(), {0});
  for (const float bad : {1.0f, 32768.0f, -1e30f, INFINITY, -INFINITY, NAN})
    for (const std::size_t at : {0, 7, 8}) {  // in vectors, and behind the last
      std::vector<float> dx(9, 0.5f);
      dx[at] = bad;
      const Padded gradient({stream()}, dx, 1, 9, 0);
      Sums sums(stream(), 9, 7);
      ops().embedding_lookup_backward(stream(), {id, gradient.view(), 0, sums.fast_sink(true)});
      EXPECT_EQ(sums.raised(), !std::isfinite(bad)) << bad << " at " << at;
      EXPECT_EQ(sums.fast()[3], 0.5f);
    }
}

TEST_F(CudaElementwise, ids_outside_of_the_vocabulary) {
  const DeviceVector<std::int32_t> ids(stream(), {1, 5, -1});
  const std::vector<float> ones(5 * 4, 1.0f);
  const Padded wte({stream()}, ones, 5, 4),
      wpe({stream()}, {ones.begin(), ones.begin() + 12}, 3, 4);
  Padded x({stream()}, 3, 4);
  ops().embedding_forward(stream(), {ids, wte.view(), wpe.view(), 3, {}, x.mat()});
  const auto got = x.values();
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(std::isnan(got[i]), i >= 4) << i;
  Sums sums(stream(), 20, 777);
  ops().embedding_lookup_backward(stream(), {ids, wpe.view(), 0, sums.sink(true)});
  const auto exact = sums.exact();
  for (std::size_t i = 0; i < 20; ++i)
    EXPECT_EQ(exact[i], i / 4 == 1 ? std::int64_t{1} << 40 : 0) << i;
}

TEST_F(CudaElementwise, no_rows) {
  Sums tokens(stream(), 12, 777), positions(stream(), 12, 777);
  const Mat none = {nullptr, DType::f32, 0, 4, 4};
  ops().embedding_lookup_backward(stream(), {{}, none, 0, tokens.sink(true)});
  ops().embedding_positions_backward(stream(), {none, 3, 0, {}, positions.sink(true), none});
  ops().gelu_forward(stream(), {none, none});
  EXPECT_EQ(tokens.exact(), std::vector<std::int64_t>(12, 0));
  EXPECT_EQ(positions.exact(), std::vector<std::int64_t>(12, 0));
}

}  // namespace
}  // namespace elaswave::kernels
