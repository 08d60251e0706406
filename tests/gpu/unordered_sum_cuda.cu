#include <cuda_bf16.h>

#include "parallel/device/cuda_launch.h"
#include "tests/gpu/unordered_sum.h"

namespace elaswave::test {
namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kRowsOfBlock = 8;
constexpr float kOne = 1024.0f * 1024.0f * 1024.0f * 1024.0f;  // 2^kFractionBits
static_assert(kernels::kFractionBits == 40);

__device__ float value_of(float x) {
  return x;
}
__device__ float value_of(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <typename T>
__global__ void add_rows_kernel(const T* x, std::int64_t rows, std::int64_t cols,
                                std::int64_t stride, float* sums) {
  const std::int64_t c = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  const std::int64_t begin = blockIdx.y * kRowsOfBlock;
  float sum = 0;
  for (std::int64_t row = begin; row < begin + kRowsOfBlock && row < rows; ++row)
    sum = __fadd_rn(sum, value_of(x[row * stride + c]));
  atomicAdd(sums + c, sum);
}

__global__ void quantise_kernel(const float* sums, std::int64_t cols, std::int64_t* out) {
  const std::int64_t c = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c < cols) out[c] = __float2ll_rn(__fmul_rn(sums[c], kOne));
}

template <typename T>
void add_rows(device::CudaStream& stream, const ColumnSum& args) {
  const auto columns = static_cast<unsigned>((args.x_NC.cols + kThreads - 1) / kThreads);
  const auto rows = static_cast<unsigned>((args.x_NC.rows + kRowsOfBlock - 1) / kRowsOfBlock);
  device::launch(stream, {.blocks_x = columns, .blocks_y = rows, .threads = kThreads},
                 add_rows_kernel<T>, reinterpret_cast<const T*>(args.x_NC.data), args.x_NC.rows,
                 args.x_NC.cols, args.x_NC.stride, args.scratch_C.data());
  device::launch(stream, {.blocks_x = columns, .threads = kThreads}, quantise_kernel,
                 static_cast<const float*>(args.scratch_C.data()), args.x_NC.cols,
                 args.sums_C.data());
}

}  // namespace

void sum_columns_by_atomics(device::CudaStream& stream, const ColumnSum& args) {
  stream.zero(args.scratch_C.data(), static_cast<std::int64_t>(args.scratch_C.size_bytes()));
  if (args.x_NC.dtype == DType::f32)
    add_rows<float>(stream, args);
  else
    add_rows<__nv_bfloat16>(stream, args);
}

}  // namespace elaswave::test
