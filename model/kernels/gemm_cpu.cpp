#include "model/kernels/gemm_cpu.h"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>

#include "io/base/error.h"
#include "io/base/hash.h"
#include "model/kernels/cpu_kernels.h"

namespace elaswave::kernels {

namespace {

// How shapes are cut. Measured with oneDNN 2.6.3 (AVX-512, two cores at their peak of 227 GFLOP/s)
// on the products of GPT-2 124M at 1024 tokens, tiles of 64 .. 1024 on either side: NN and TN reach
// 97 % or more from 128 x 192 on, narrower tiles lose up to 8 %.
constexpr std::int64_t kTileRows = 256;
constexpr std::int64_t kTileCols = 768;
// The library's kernels produce blocks of up to 48 columns and 8 rows: other tile sizes waste
// lanes.
constexpr std::int64_t kColUnit = 48;
constexpr std::int64_t kRowUnit = 8;
// Enough tiles to share among threads (12 divides by 2, 3, 4 and 6); more cost more than they
// balance.
constexpr std::int64_t kWantedTiles = 12;
constexpr std::int64_t kLeastRows = 128;
constexpr std::int64_t kLeastCols = 192;
// About 20 microseconds of work: below it a call and its hand-over show.
constexpr std::int64_t kLeastTileFlops = 4'000'000;
// Grows with every change of gemm_tiling that the constants above do not show.
constexpr std::uint64_t kRuleVersion = 2;

// Equal shares of `size`, as few as a tile of `most` allows, rounded up to the unit.
std::int64_t even_share(std::int64_t size, std::int64_t most, std::int64_t unit) {
  return std::min(size, round_up(ceil_div(size, ceil_div(size, most)), unit));
}

struct Tile {
  std::int64_t row = 0, col = 0, rows = 0, cols = 0;
};

Tile tile_at(const Gemm& gemm, const Tiling& tiling, std::int64_t index) {
  const std::int64_t row = index / tiling.col_tiles * tiling.tile_rows;
  const std::int64_t col = index % tiling.col_tiles * tiling.tile_cols;
  return {row, col, std::min(tiling.tile_rows, gemm.M - row),
          std::min(tiling.tile_cols, gemm.N - col)};
}

// The library refuses a leading dimension below the row length even where there is only one row.
std::int64_t leading(const ConstMat& view) {
  return std::max(view.stride, view.cols);
}

// One tile, one library call, on this thread alone.
void multiply_tile(const Gemm& gemm, const Tile& tile, float* c, std::int64_t c_stride) {
  ensure_float_mode();
  // The library brings its own OpenMP team, whose size changes the bits. The setting belongs to the
  // calling thread and costs nanoseconds, so it is renewed with each call instead of trusting that
  // nobody touched it. This is the only use of OpenMP.
  omp_set_num_threads(1);
  const bool a_transposed = gemm.product == Product::tn;
  const bool b_transposed = gemm.product == Product::nt;
  const float* a = gemm.a.f32() + (a_transposed ? tile.row : tile.row * gemm.a.stride);
  const float* b = gemm.b.f32() + (b_transposed ? tile.col * gemm.b.stride : tile.col);
  const dnnl_status_t status = dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N',
                                          tile.rows, tile.cols, gemm.K, 1.0f, a, leading(gemm.a), b,
                                          leading(gemm.b), 0.0f, c, std::max(c_stride, tile.cols));
  EW_CHECK(status == dnnl_success, "dnnl_sgemm returned {} for a tile of {} x {} x {}",
           static_cast<int>(status), tile.rows, tile.cols, gemm.K);
}

// With this many rows the product of a transposed B gains more than the transposition costs: the
// library runs NT at 80 to 95 % of NN, and one pass over B is about 3 % of a product of 1024 rows.
constexpr std::int64_t kTransposeLeastRows = 512;
constexpr std::int64_t kTransposeRows = 64;  // of B, one task

// Rows whose length is a multiple of the page size meet in the same few cache sets: 7 % slower.
std::int64_t padded_stride(std::int64_t cols) {
  return cols % 1024 == 0 ? cols + 16 : cols;
}

// The same product with B laid out anew, K x N.
Gemm with_b_transposed(const CpuContext& context, const Gemm& gemm) {
  const std::int64_t stride = padded_stride(gemm.N);
  float* b_KN = context.workspace.transposed(gemm.K * stride);
  context.stream.pool().run(ceil_div(gemm.N, kTransposeRows), [&](std::int64_t task) {
    const std::int64_t first = task * kTransposeRows;
    const std::int64_t count = std::min(kTransposeRows, gemm.N - first);
    context.simd.transpose(gemm.b.f32() + first * gemm.b.stride, count, gemm.K, gemm.b.stride,
                           b_KN + first, stride);
  });
  Gemm other = gemm;
  other.product = Product::nn;
  other.b = {reinterpret_cast<const std::byte*>(b_KN), DType::f32, gemm.K, gemm.N, stride};
  return other;
}

float* grown(device::Buffer& buffer, std::int64_t elems) {
  const std::int64_t bytes = elems * static_cast<std::int64_t>(sizeof(float));
  if (buffer.size_bytes() < bytes) {
    buffer = device::Buffer();  // first: both at once might not fit
    buffer = device::Buffer(bytes);
  }
  return buffer.as<float>().data();
}

void check_f32(const ConstMat& view) {
  EW_CHECK(view.dtype == DType::f32, "the CPU products take f32, not {}", name(view.dtype));
  EW_CHECK(view.rows <= 1 || view.stride >= view.cols, "stride {} below {} columns", view.stride,
           view.cols);
}

void check_sink(const GradSink& sink, std::int64_t elems) {
  EW_CHECK((sink.exact != nullptr) != (sink.fast != nullptr), "a sink is either exact or fast");
  EW_CHECK(sink.elems == elems, "a sink of {} elements for {}", sink.elems, elems);
  EW_CHECK(sink.exact == nullptr || (sink.limit > 0 && sink.limit < 0x1p22f),
           "limit {} of an exact sink", sink.limit);
  EW_CHECK(sink.flag != nullptr, "a sink without a range flag");
}

}  // namespace

float* Workspace::shared(std::int64_t elems) {
  return grown(shared_, elems);
}

float* Workspace::transposed(std::int64_t elems) {
  return grown(transposed_, elems);
}

float* Workspace::widened(std::int64_t elems) {
  return grown(widened_, elems);
}

void Workspace::prepare_workers(int workers, std::int64_t elems) {
  const std::int64_t bytes = elems * static_cast<std::int64_t>(sizeof(float));
  if (workers_.size() < static_cast<std::size_t>(workers))
    workers_.resize(static_cast<std::size_t>(workers));
  for (int index = 0; index < workers; ++index) {
    device::Buffer& buffer = workers_[static_cast<std::size_t>(index)];
    if (buffer.size_bytes() < bytes) buffer = device::Buffer(bytes);
  }
}

Gemm gemm_of(Product product, const ConstMat& a, const ConstMat& b) {
  check_f32(a);
  check_f32(b);
  const std::int64_t M = product == Product::tn ? a.cols : a.rows;
  const std::int64_t K = product == Product::tn ? a.rows : a.cols;
  const std::int64_t N = product == Product::nt ? b.rows : b.cols;
  const std::int64_t b_inner = product == Product::nt ? b.cols : b.rows;
  EW_CHECK(K == b_inner && K > 0 && M > 0 && N > 0, "a product of {} x {} and {} x {} (form {})",
           a.rows, a.cols, b.rows, b.cols, static_cast<int>(product));
  return {product, a, b, M, N, K};
}

Tiling gemm_tiling(std::int64_t M, std::int64_t N, std::int64_t K) {
  const std::int64_t affordable = std::max<std::int64_t>(1, 2 * M * N * K / kLeastTileFlops);
  if (affordable == 1) return {M, N, 1, 1};  // one call, however long and thin
  std::int64_t rows = kTileRows, cols = kTileCols;
  const std::int64_t wanted = std::min(kWantedTiles, affordable);
  const auto too_few = [&] { return ceil_div(M, rows) * ceil_div(N, cols) < wanted; };
  while (too_few() && cols > kLeastCols) cols /= 2;
  while (too_few() && rows > kLeastRows) rows /= 2;
  rows = even_share(M, rows, kRowUnit);
  cols = even_share(N, cols, kColUnit);
  return {rows, cols, ceil_div(M, rows), ceil_div(N, cols)};
}

std::uint64_t gemm_table_hash() {
  std::uint64_t hash = kRuleVersion;
  for (const std::int64_t value :
       {kTileRows, kTileCols, kColUnit, kRowUnit, kWantedTiles, kLeastRows, kLeastCols,
        kLeastTileFlops, kTransposeLeastRows, kSumColumns, kSumRows, kCpuLossChunkTokens})
    hash = combine64(hash, static_cast<std::uint64_t>(value));
  return hash;
}

void gemm(const CpuContext& context, const Gemm& product, const Mat& c,
          std::span<const float> bias_N) {
  const bool transpose = product.product == Product::nt && product.M >= kTransposeLeastRows;
  const Gemm gemm = transpose ? with_b_transposed(context, product) : product;
  check_f32(c);
  EW_CHECK(c.rows == gemm.M && c.cols == gemm.N, "a {} x {} product stored as {} x {}", gemm.M,
           gemm.N, c.rows, c.cols);
  EW_CHECK(bias_N.empty() || static_cast<std::int64_t>(bias_N.size()) == gemm.N,
           "a bias of {} for {} columns", bias_N.size(), gemm.N);
  const Tiling tiling = gemm_tiling(gemm.M, gemm.N, gemm.K);
  context.stream.pool().run(tiling.tiles(), [&](std::int64_t index) {
    const Tile tile = tile_at(gemm, tiling, index);
    float* out = c.f32() + tile.row * c.stride + tile.col;
    multiply_tile(gemm, tile, out, c.stride);
    if (bias_N.empty()) return;
    for (std::int64_t row = 0; row < tile.rows; ++row)  // while the tile is in the cache
      context.simd.add(bias_N.data() + tile.col, tile.cols, out + row * c.stride);
  });
}

void gemm_into_sink(const CpuContext& context, const Gemm& gemm, const GradSink& sink) {
  check_sink(sink, gemm.M * gemm.N);
  const Tiling tiling = gemm_tiling(gemm.M, gemm.N, gemm.K);
  const std::int64_t tile_stride = round_up(tiling.tile_cols, 16);
  context.workspace.prepare_workers(context.stream.pool().threads(),
                                    tiling.tile_rows * tile_stride);
  context.stream.pool().run_indexed(tiling.tiles(), [&](std::int64_t index, int worker) {
    const Tile tile = tile_at(gemm, tiling, index);
    float* product = context.workspace.worker(worker);
    multiply_tile(gemm, tile, product, tile_stride);
    for (std::int64_t row = 0; row < tile.rows; ++row)
      add_to_sink(context, sink, (tile.row + row) * gemm.N + tile.col, product + row * tile_stride,
                  tile.cols);
  });
}

void column_sums_into_sink(const CpuContext& context, const ConstMat& x_ND,
                           const GradSink& sink_D) {
  check_f32(x_ND);
  check_sink(sink_D, x_ND.cols);
  context.stream.pool().run(ceil_div(x_ND.cols, kSumColumns), [&](std::int64_t strip) {
    ensure_float_mode();
    const std::int64_t col = strip * kSumColumns;
    const std::int64_t cols = std::min(kSumColumns, x_ND.cols - col);
    alignas(64) float sum[kSumColumns] = {};
    for (std::int64_t first = 0; first < x_ND.rows; first += kSumRows) {
      alignas(64) float block[kSumColumns] = {};
      const std::int64_t last = std::min(first + kSumRows, x_ND.rows);
      for (std::int64_t row = first; row < last; ++row)
        context.simd.add(x_ND.f32() + row * x_ND.stride + col, cols, block);
      context.simd.add(block, cols, sum);
    }
    add_to_sink(context, sink_D, col, sum, cols);
  });
}

}  // namespace elaswave::kernels
