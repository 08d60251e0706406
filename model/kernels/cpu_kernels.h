// The operations of ops.h that are not matrix products, as functions of the CPU backend, and what
// they share. Shapes, aliasing and contracts are those of ops.h; linear_cpu.h has the others.
// THREADS: one caller per stream.
//
// Work is cut into tasks by shape constants. Where a sum crosses tasks, their partial results are
// added in order of task.
#pragma once

#include <algorithm>

#include "model/kernels/float_mode.h"
#include "model/kernels/gemm_cpu.h"
#include "model/kernels/ops.h"
#include "model/kernels/simd_kernels.h"

namespace elaswave::kernels {

/// About this many elements make a task of element-wise work: some microseconds, far above the cost
/// of handing it over.
inline constexpr std::int64_t kTaskElems = 32768;

inline std::int64_t rows_per_task(std::int64_t cols) {
  return std::max<std::int64_t>(1, kTaskElems / std::max<std::int64_t>(1, cols));
}

/// body(first, count) over [0, size) in pieces of `piece`, each a task.
template <typename Body>
void run_pieces(const CpuContext& context, std::int64_t size, std::int64_t piece,
                const Body& body) {
  const auto task = [&](std::int64_t index) {
    ensure_float_mode();
    const std::int64_t first = index * piece;
    body(first, std::min(piece, size - first));
  };
  context.stream.pool().run(ceil_div(size, piece), task);
}
/// The same with the number of the thread, for Workspace::worker.
template <typename Body>
void run_pieces_indexed(const CpuContext& context, std::int64_t size, std::int64_t piece,
                        const Body& body) {
  const auto task = [&](std::int64_t index, int worker) {
    ensure_float_mode();
    const std::int64_t first = index * piece;
    body(first, std::min(piece, size - first), worker);
  };
  context.stream.pool().run_indexed(ceil_div(size, piece), task);
}

/// REQUIRES: f32 views: class CpuOps widens others (widened_cpu.h).
const float* read_f32(const ConstMat& view);
float* write_f32(const Mat& view);

/// Adds n gradients to the sink's elements from `first` on; raises the flag for those out of range.
void add_to_sink(const CpuContext& context, const GradSink& sink, std::int64_t first,
                 const float* gradient, std::int64_t n);
/// Makes elements [first, first + n) of a sink that starts with this addend zero; otherwise leaves
/// them.
void skip_in_sink(const GradSink& sink, std::int64_t first, std::int64_t n);

/// The mask of one sample, from its element 0. REQUIRES: 0 < rate < 1 and a stream for the sample.
DropoutMask dropout_mask(const Dropout& dropout, std::int64_t sample);
/// Ends the program unless rows [row_begin, row_begin + rows) lie in samples of T rows that have
/// streams (where dropout needs them).
void check_rows(std::int64_t row_begin, std::int64_t rows, std::int64_t T, const Dropout& dropout);
/// The mask of row `row` of a micro-batch of samples of T rows of C elements. REQUIRES: rate > 0
/// and check_rows.
DropoutMask row_mask(const Dropout& dropout, std::int64_t row, std::int64_t T, std::int64_t C);

void embedding_forward(const CpuContext&, const ElementwiseKernels&, const EmbeddingForward&);
void embedding_backward(const CpuContext&, const ElementwiseKernels&, const EmbeddingBackward&);
void embedding_lookup(const CpuContext&, const ElementwiseKernels&, const EmbeddingLookup&);
void embedding_lookup_backward(const CpuContext&, const ElementwiseKernels&,
                               const EmbeddingLookupBackward&);
void embedding_positions(const CpuContext&, const ElementwiseKernels&, const EmbeddingPositions&);
void embedding_positions_backward(const CpuContext&, const ElementwiseKernels&,
                                  const EmbeddingPositionsBackward&);
void layernorm_forward(const CpuContext&, const NormKernels&, const LayerNormForward&);
void layernorm_backward(const CpuContext&, const NormKernels&, const LayerNormBackward&);
void attention_forward(const CpuContext&, const AttentionKernels&, const AttentionForward&);
void attention_backward(const CpuContext&, const AttentionKernels&, const AttentionBackward&);
void attention_cached(const CpuContext&, const CachedAttentionKernels&, const AttentionCached&);
void gelu_forward(const CpuContext&, const ElementwiseKernels&, const GeluForward&);
void gelu_backward(const CpuContext&, const ElementwiseKernels&, const GeluBackward&);
void residual_forward(const CpuContext&, const ElementwiseKernels&, const ResidualForward&);
void residual_backward(const CpuContext&, const ElementwiseKernels&, const ResidualBackward&);
void adamw(const CpuContext&, const ElementwiseKernels&, std::span<const AdamW>);
void mean_gradient(const CpuContext&, const ElementwiseKernels&, std::span<const MeanGradient>);
void store_weights(const CpuContext&, std::span<const StoreWeights>);
void sum_squares(const CpuContext&, const ElementwiseKernels&,
                 std::span<const std::span<const float>> ranges, std::span<double> out);
void digest(const CpuContext&, const ElementwiseKernels&,
            std::span<const std::span<const float>> ranges, std::span<const std::uint64_t> keys,
            std::span<std::uint64_t> out);

}  // namespace elaswave::kernels
