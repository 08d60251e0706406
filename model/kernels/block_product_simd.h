// Products of small blocks in registers, and packing for them. Rules in simd.h apply: only
// *_simd.cpp include this.
//
// Right operands and results have rows of whole vectors; a result row of four is computed whole
// even where its last rows are beyond the end, so left operands and results have room for rows
// rounded up to kTileRows.
#pragma once

#include "model/kernels/simd.h"

namespace elaswave::kernels {
namespace {

constexpr std::int64_t kBlock = 64;  // queries or keys of a block
constexpr int kTileRows = 4;
constexpr std::int64_t kTileVectors =
    kLanes == 16 ? 4 : 3;  // 16 of 32, or 12 of 16 registers hold sums

constexpr std::int64_t round_up_to(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}
constexpr std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
constexpr std::int64_t blocks_of(std::int64_t T) {
  return (T + kBlock - 1) / kBlock;
}
constexpr std::int64_t padded(std::int64_t D) {
  return round_up_to(D, kLanes);
}

/// The left operand of a product: element (row, k) at data[row * row_step + k * depth_step].
struct Left {
  const float* data;
  std::int64_t row_step, depth_step;
};
/// A row-major matrix with rows `stride` apart.
struct Rows {
  float* data;
  std::int64_t stride;
};

enum class Start { zero, add };

/// Tile of kTileRows x `vectors`: out = (or +=) sum over k in [begin, end) of left(row, k) *
/// right[k], one fma each, in order of k.
template <int vectors>
ELASWAVE_INLINE void tile(const Left& left, const float* right, std::int64_t right_stride, Rows out,
                          std::int64_t begin, std::int64_t end, Start start) {
  F32 sums[kTileRows][vectors];
#pragma GCC unroll 4
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      sums[r][v] = start == Start::add ? load(out.data + r * out.stride + v * kLanes) : set1(0.0f);
  }
  for (std::int64_t k = begin; k < end; ++k) {
    F32 b[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) b[v] = load(right + k * right_stride + v * kLanes);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      const F32 a = set1(left.data[r * left.row_step + k * left.depth_step]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = fma(a, b[v], sums[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(out.data + r * out.stride + v * kLanes, sums[r][v]);
  }
}

/// What a block on the diagonal may leave out, by rows of the result: columns right of the
/// diagonal, terms after it, terms before it.
enum class Skip { nothing, columns_after, terms_after, terms_before };

struct Product {
  Left left;
  const float* right;
  std::int64_t right_stride;
  Rows out;
  std::int64_t rows, columns, depth;  // rows are rounded up to kTileRows, columns to whole vectors
  Start start;
  Skip skip;
};

void multiply(const Product& p) {
  for (std::int64_t first = 0; first < p.columns; first += kTileVectors * kLanes) {
    for (std::int64_t row = 0; row < p.rows; row += kTileRows) {
      std::int64_t begin = 0, end = p.depth, columns = p.columns;
      if (p.skip == Skip::columns_after) columns = smaller(columns, row + kTileRows);
      if (p.skip == Skip::terms_after) end = smaller(end, row + kTileRows);
      if (p.skip == Skip::terms_before) begin = row;
      const Left left = {p.left.data + row * p.left.row_step, p.left.row_step, p.left.depth_step};
      const Rows out = {p.out.data + row * p.out.stride + first, p.out.stride};
      const float* right = p.right + first;
      const std::int64_t vectors = (columns - first + kLanes - 1) / kLanes;
      if (vectors >= kTileVectors)
        tile<kTileVectors>(left, right, p.right_stride, out, begin, end, p.start);
      else if (vectors == 3)
        tile<3>(left, right, p.right_stride, out, begin, end, p.start);
      else if (vectors == 2)
        tile<2>(left, right, p.right_stride, out, begin, end, p.start);
      else if (vectors == 1)
        tile<1>(left, right, p.right_stride, out, begin, end, p.start);
    }
  }
}

/// out[r][c] = scale * in[r][c]; zero for columns up to `width` and rows up to kBlock.
void pack_rows(const float* in, std::int64_t in_stride, std::int64_t rows, std::int64_t columns,
               float scale, float* out, std::int64_t width) {
  for (std::int64_t r = 0; r < kBlock; ++r) {
    float* to = out + r * width;
    if (r >= rows) {
      for (std::int64_t c = 0; c < width; ++c) to[c] = 0;
      continue;
    }
    const float* from = in + r * in_stride;
    sweep(columns, [&](std::int64_t c, auto lanes) {
      store(to + c, load(from + c, lanes) * set1(scale), lanes);
    });
    for (std::int64_t c = columns; c < width; ++c) to[c] = 0;
  }
}

/// out[c][r] = in[r][c], rows of kBlock; zero for r >= rows.
void pack_transposed(const float* in, std::int64_t in_stride, std::int64_t rows,
                     std::int64_t columns, float* out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* from = in + r * in_stride;
    for (std::int64_t c = 0; c < columns; ++c) out[c * kBlock + r] = from[c];
  }
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t r = rows; r < kBlock; ++r) out[c * kBlock + r] = 0;
}

void write_rows(const float* in, std::int64_t width, std::int64_t rows, std::int64_t columns,
                float scale, float* out, std::int64_t out_stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    sweep(columns, [&](std::int64_t c, auto lanes) {
      store(out + r * out_stride + c, load(in + r * width + c, lanes) * set1(scale), lanes);
    });
  }
}

void clear(float* data, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) data[i] = 0;
}

}  // namespace
}  // namespace elaswave::kernels
