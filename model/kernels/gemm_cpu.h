// Matrix products of the CPU backend: C = A B, A B^T or A^T B in f32, cut into tiles that follow
// from the shape alone. A tile is exactly one single-threaded library call, so the bits of a
// product depend on its shape, the instruction set and the library version, never on the number of
// threads.
//
// All matrices are row-major; leading dimensions are in elements and do not change results (nor
// does alignment). THREADS: one caller per stream. A call returns when its result is complete.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/kernels/gemm_simd.h"
#include "model/kernels/ops.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"

namespace elaswave::kernels {

/// nn: A is M x K, B is K x N. nt: B is stored N x K. tn: A is stored K x M.
enum class Product : std::uint8_t { nn, nt, tn };

/// The operands of one product with an M x N result and sums of K terms. REQUIRES: f32 views.
struct Gemm {
  Product product = Product::nn;
  ConstMat a, b;
  std::int64_t M = 0, N = 0, K = 0;
};

/// Checks that the inner sizes agree and returns the product.
Gemm gemm_of(Product product, const ConstMat& a, const ConstMat& b);

/// How a product is cut: tiles of tile_rows x tile_cols, the last row and column of tiles smaller.
struct Tiling {
  std::int64_t tile_rows = 0, tile_cols = 0;  // elements
  std::int64_t row_tiles = 0, col_tiles = 0;  // counts
  std::int64_t tiles() const { return row_tiles * col_tiles; }
};

/// Pure: a function of its arguments.
Tiling gemm_tiling(std::int64_t M, std::int64_t N, std::int64_t K);

/// Identifies the rules by which shapes are cut; part of the numeric class.
std::uint64_t gemm_table_hash();

/// Memory of a kernel that outlives one call: grows to the largest request, never shrinks. One
/// owner, used by one call at a time.
class Workspace {
 public:
  /// At least `elems` floats, 64-byte aligned, contents unspecified; valid until the next call of
  /// shared().
  float* shared(std::int64_t elems);
  /// As shared(), a second piece: holds a transposed operand for the length of one product.
  float* transposed(std::int64_t elems);
  /// As shared(), a third piece: f32 copies of operands stored in bf16 (widened_cpu.h).
  float* widened(std::int64_t elems);
  /// Makes worker(w, elems) valid for w < workers.
  void prepare_workers(int workers, std::int64_t elems);
  /// The memory of one worker: at least the prepared number of floats. THREADS: any.
  float* worker(int index) { return workers_[static_cast<std::size_t>(index)].as<float>().data(); }

 private:
  device::Buffer shared_, transposed_, widened_;
  std::vector<device::Buffer> workers_;
};

/// What every function of this backend needs to run: where, with which vector routines, in which
/// memory.
struct CpuContext {
  device::CpuStream& stream;
  const GemmSimd& simd;
  Workspace& workspace;
};

/// C = product (+ bias_N added to every row when it is not empty). REQUIRES: c is f32 and M x N.
void gemm(const CpuContext& context, const Gemm& gemm, const Mat& c,
          std::span<const float> bias_N = {});

/// sink += product, each element rounded once (exact mode). REQUIRES: sink.elems == M * N.
void gemm_into_sink(const CpuContext& context, const Gemm& gemm, const GradSink& sink);

/// sink_D += column sums of x: strips of kSumColumns columns, each summed over blocks of kSumRows
/// rows and then over blocks, in order.
inline constexpr std::int64_t kSumColumns = 128;
inline constexpr std::int64_t kSumRows = 64;
void column_sums_into_sink(const CpuContext& context, const ConstMat& x_ND, const GradSink& sink_D);

}  // namespace elaswave::kernels
