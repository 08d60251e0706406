// The operations of ops.h as functions of the CUDA backend. Shapes, aliasing and contracts are
// those of ops.h; matrices are f32 or bf16, all of one call of the same type, arithmetic is f32.
// Calls enqueue on the stream. Throws DeviceLost and, when scratch grows, OutOfMemory. THREADS: one
// caller per context.
//
// Nothing on the device can end the program: what the CPU backend checks in device memory (ids)
// cannot be checked here. An id outside of the vocabulary gives a row of NaN in forward and no
// addend in backward.
//
// Sums have an order that shapes fix. Where it is the CPU's (README), so are the bits: dropout
// masks, embedding sums, the exact grid, AdamW, mean gradients, sums of squares, digests.
#pragma once

#include <cstdint>
#include <span>

#include "model/kernels/cuda_scratch.h"
#include "model/kernels/ops.h"

namespace elaswave::device {
class CudaStream;
}

namespace elaswave::kernels::cuda {

/// What every function of this backend needs to run: where, and in which memory.
struct CudaContext {
  device::CudaStream& stream;
  Scratch& scratch;  // of the same stream
};

// embedding_cuda.cu, embedding_backward_cuda.cu
void embedding_forward(const CudaContext&, const EmbeddingForward&);
void embedding_backward(const CudaContext&, const EmbeddingBackward&);
void embedding_lookup(const CudaContext&, const EmbeddingLookup&);
void embedding_lookup_backward(const CudaContext&, const EmbeddingLookupBackward&);
void embedding_positions(const CudaContext&, const EmbeddingPositions&);
void embedding_positions_backward(const CudaContext&, const EmbeddingPositionsBackward&);

// elementwise_cuda.cu
void gelu_forward(const CudaContext&, const GeluForward&);
void gelu_backward(const CudaContext&, const GeluBackward&);
void residual_forward(const CudaContext&, const ResidualForward&);
void residual_backward(const CudaContext&, const ResidualBackward&);

// optimizer_cuda.cu
void adamw(const CudaContext&, std::span<const AdamW>);
void mean_gradient(const CudaContext&, std::span<const MeanGradient>);
void store_weights(const CudaContext&, std::span<const StoreWeights>);
void reserve_lists(const CudaContext&, std::span<const std::int64_t> block_elems);
void sum_squares(const CudaContext&, std::span<const std::span<const float>> ranges,
                 std::span<double> out);
void digest(const CudaContext&, std::span<const std::span<const float>> ranges,
            std::span<const std::uint64_t> keys, std::span<std::uint64_t> out);

// norm_cuda.cu
void layernorm_forward(const CudaContext&, const LayerNormForward&);
void layernorm_backward(const CudaContext&, const LayerNormBackward&);

// attention_cuda.cu, attention_backward_cuda.cu: heads of at most 256 elements, any strides. A
// position that a call does not attend to changes no bit, whatever is in it.
void attention_forward(const CudaContext&, const AttentionForward&);
void attention_backward(const CudaContext&, const AttentionBackward&);
void attention_cached(const CudaContext&, const AttentionCached&);

// head_cuda.cu. Losses of f32 logits whatever the weights' type. The gradient of logits is of the
// weights' type: a bf16 one begins where the row's logits began. A target outside of the vocabulary
// has an infinite loss and the gradient of log sum exp alone.
class Gemm;
void head_loss(const CudaContext&, Gemm&, const HeadLoss&);
void head_logits(const CudaContext&, Gemm&, const HeadLogits&);
void head_combine(const CudaContext&, const HeadCombine&);
void head_gradient(const CudaContext&, Gemm&, const HeadGradient&);

}  // namespace elaswave::kernels::cuda
