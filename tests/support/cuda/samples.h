// Small kernels for the tests of the emulator and of the device layer: right ones, and ones that
// are wrong in a way that must be noticed. All pointers are device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "parallel/device/cuda_device.h"

namespace elaswave::samples {

using device::CudaStream;

/// x[i] = value.
void fill(CudaStream& stream, float* x, std::int64_t count, float value);
/// y[i] = y[i] * factor + x[i], one rounding each.
void scale_add(CudaStream& stream, float* y, const float* x, std::int64_t count, float factor);
/// sums[b] = the sum of the 256 values from x[256 * b]: by a tree in shared memory, by shuffles,
/// and by a tree in dynamic shared memory.
void sum_by_shared(CudaStream& stream, const float* x, float* sums, unsigned blocks);
void sum_by_shuffles(CudaStream& stream, const float* x, float* sums, unsigned blocks);
void sum_by_dynamic(CudaStream& stream, const float* x, float* sums, unsigned blocks);
/// votes[w] = which lanes of warp w hold an x that is positive; one block of 64 threads, x of 64.
/// Threads at and beyond `count` exit first.
void positive(CudaStream& stream, const float* x, unsigned* votes, unsigned count);
/// Each of 3 x 2 x 2 blocks writes its number, x fastest.
void number_blocks(CudaStream& stream, unsigned* numbers);
/// y = bf16(x), as bits.
void to_bf16(CudaStream& stream, const float* x, std::uint16_t* y, std::int64_t count);
/// counts[0] += 1 from each of `blocks` blocks of 64 threads.
void count_threads(CudaStream& stream, unsigned* counts, unsigned blocks);

/// Half a warp shuffles, the other half waits at another place.
void diverge_in_warp(CudaStream& stream, float* x);
/// One warp waits at one barrier, one at another.
void diverge_in_block(CudaStream& stream, float* x);
/// Reads from a lane that has exited.
void shuffle_from_exited(CudaStream& stream, float* x);
/// Reverses 64 values in each block through shared memory; `waits` or forgets to.
enum class Barrier : std::uint8_t { waits, forgotten };
void reverse(CudaStream& stream, float* x, unsigned blocks, Barrier barrier);

}  // namespace elaswave::samples
