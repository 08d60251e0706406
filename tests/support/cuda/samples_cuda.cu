#include <cuda_bf16.h>

#include "parallel/device/cuda_launch.h"
#include "tests/support/cuda/samples.h"

namespace elaswave::samples {
namespace {

using device::launch;
using device::LaunchShape;

constexpr unsigned kThreads = 256;
constexpr unsigned kWarp = 32;
constexpr unsigned kAll = 0xFFFFFFFFu;

unsigned blocks_for(std::int64_t count) {
  return static_cast<unsigned>((count + kThreads - 1) / kThreads);
}

__device__ std::int64_t global_index() {
  return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

__global__ void fill_kernel(float* x, std::int64_t count, float value) {
  if (const std::int64_t i = global_index(); i < count) x[i] = value;
}

__global__ void scale_add_kernel(float* __restrict__ y, const float* __restrict__ x,
                                 std::int64_t count, float factor) {
  if (const std::int64_t i = global_index(); i < count)
    y[i] = __fadd_rn(__fmul_rn(y[i], factor), __ldg(x + i));
}

__device__ float tree_sum(float* partial, float own) {
  partial[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  return partial[0];
}

__global__ void sum_shared_kernel(const float* x, float* sums) {
  __shared__ float partial[kThreads];
  const float sum = tree_sum(partial, x[global_index()]);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void sum_dynamic_kernel(const float* x, float* sums) {
  const float sum = tree_sum(device::dynamic_shared<float>(), x[global_index()]);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The same tree: pairs 128, 64, 32 apart, then within a warp.
__global__ void sum_shuffle_kernel(const float* x, float* sums) {
  __shared__ float of_warp[kThreads / kWarp];
  float sum = x[global_index()];
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(kAll, sum, apart);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  sum = threadIdx.x < kThreads / kWarp ? of_warp[threadIdx.x] : 0.0f;
  for (int apart = kThreads / kWarp / 2; apart > 0; apart /= 2)
    sum += __shfl_down_sync(kAll, sum, apart);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void positive_kernel(const float* x, unsigned* votes, unsigned count) {
  if (threadIdx.x >= count) return;
  const unsigned vote = __ballot_sync(kAll, x[threadIdx.x] > 0);
  if (threadIdx.x % kWarp == 0) votes[threadIdx.x / kWarp] = vote;
}

__global__ void number_kernel(unsigned* numbers) {
  const unsigned number = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) numbers[number] = number;
}

__global__ void bf16_kernel(const float* x, std::uint16_t* y, std::int64_t count) {
  if (const std::int64_t i = global_index(); i < count)
    reinterpret_cast<__nv_bfloat16*>(y)[i] = __float2bfloat16_rn(x[i]);
}

__global__ void count_kernel(unsigned* counts) {
  atomicAdd(counts, 1u);
}

__global__ void warp_divergence_kernel(float* x) {
  float value = x[threadIdx.x];
  if (threadIdx.x < kWarp / 2)
    value += __shfl_xor_sync(kAll, value, 1);
  else
    __syncwarp();
  x[threadIdx.x] = value;
}

__global__ void block_divergence_kernel(float* x) {
  if (threadIdx.x < kWarp) {
    __syncthreads();
    x[threadIdx.x] = 1;
  } else {
    x[threadIdx.x] = 2;
    __syncthreads();
  }
}

__global__ void exited_kernel(float* x) {
  if (threadIdx.x == 5) return;
  x[threadIdx.x] = __shfl_sync(kAll, x[threadIdx.x], 5);
}

__global__ void reverse_kernel(float* x, Barrier barrier) {
  __shared__ float values[64];
  float* own = x + std::size_t{blockIdx.x} * 64;
  values[threadIdx.x] = own[threadIdx.x];
  if (barrier == Barrier::waits) __syncthreads();
  own[threadIdx.x] = values[63 - threadIdx.x];
}

}  // namespace

void fill(CudaStream& stream, float* x, std::int64_t count, float value) {
  launch(stream, {.blocks_x = blocks_for(count), .threads = kThreads}, fill_kernel, x, count,
         value);
}

void scale_add(CudaStream& stream, float* y, const float* x, std::int64_t count, float factor) {
  launch(stream, {.blocks_x = blocks_for(count), .threads = kThreads}, scale_add_kernel, y, x,
         count, factor);
}

void sum_by_shared(CudaStream& stream, const float* x, float* sums, unsigned blocks) {
  launch(stream, {.blocks_x = blocks, .threads = kThreads}, sum_shared_kernel, x, sums);
}

void sum_by_shuffles(CudaStream& stream, const float* x, float* sums, unsigned blocks) {
  launch(stream, {.blocks_x = blocks, .threads = kThreads}, sum_shuffle_kernel, x, sums);
}

void sum_by_dynamic(CudaStream& stream, const float* x, float* sums, unsigned blocks) {
  launch(stream,
         {.blocks_x = blocks, .threads = kThreads, .shared_bytes = kThreads * sizeof(float)},
         sum_dynamic_kernel, x, sums);
}

void positive(CudaStream& stream, const float* x, unsigned* votes, unsigned count) {
  launch(stream, {.threads = 64}, positive_kernel, x, votes, count);
}

void number_blocks(CudaStream& stream, unsigned* numbers) {
  launch(stream, {.blocks_x = 3, .blocks_y = 2, .blocks_z = 2, .threads = 32}, number_kernel,
         numbers);
}

void to_bf16(CudaStream& stream, const float* x, std::uint16_t* y, std::int64_t count) {
  launch(stream, {.blocks_x = blocks_for(count), .threads = kThreads}, bf16_kernel, x, y, count);
}

void count_threads(CudaStream& stream, unsigned* counts, unsigned blocks) {
  launch(stream, {.blocks_x = blocks, .threads = 64}, count_kernel, counts);
}

void diverge_in_warp(CudaStream& stream, float* x) {
  launch(stream, {.threads = 32}, warp_divergence_kernel, x);
}

void diverge_in_block(CudaStream& stream, float* x) {
  launch(stream, {.threads = 64}, block_divergence_kernel, x);
}

void shuffle_from_exited(CudaStream& stream, float* x) {
  launch(stream, {.threads = 32}, exited_kernel, x);
}

void reverse(CudaStream& stream, float* x, unsigned blocks, Barrier barrier) {
  launch(stream, {.blocks_x = blocks, .threads = 64}, reverse_kernel, x, barrier);
}

}  // namespace elaswave::samples
