// The kernels around the library's matrix products: what it has no operation for. Contracts of
// gemm_cuda.h. THREADS: the stream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "model/kernels/cuda_kernels.h"

namespace elaswave::kernels::cuda {

/// Ends the program unless the sink is one of the two kinds, whole, and of `elems` elements.
void check_sink(const GradSink& sink, std::int64_t elems);

/// Adds n gradients to the exact sink's elements from `first` on, or stores them; raises the flag
/// for those out of range.
void add_to_exact_sink(const CudaContext& context, const GradSink& sink, std::int64_t first,
                       const float* gradient, std::int64_t n);

/// Raises the flag of a fast sink when one of its sums is not finite.
void flag_non_finite(const CudaContext& context, const GradSink& sink);

/// out = values, rounded to nearest even.
void round_to_bf16(const CudaContext& context, std::span<const float> values, std::byte* out);

}  // namespace elaswave::kernels::cuda
