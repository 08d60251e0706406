#include "model/kernels/cuda_device.h"
#include "model/kernels/gemm_cuda.h"
#include "model/kernels/gemm_kernels.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kQuad = 4;  // floats in 16 bytes

unsigned blocks_for(std::int64_t elems, int width) {
  return static_cast<unsigned>(ceil_div(elems, static_cast<std::int64_t>(kThreads) * width));
}
__device__ std::int64_t first_element(int width) {
  return (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * width;
}

template <int kWidth>
__global__ void sink_add_kernel(DeviceSink sink, const float* gradient, std::int64_t n) {
  const std::int64_t first = first_element(kWidth);
  if (first + kWidth <= n) {
    float g[kWidth];
    load(gradient + first, g);
    sink_add(sink, first, g);
    return;
  }
  for (std::int64_t i = first; i < n; ++i) {
    const float g[1] = {gradient[i]};
    sink_add(sink, i, g);
  }
}

template <int kWidth>
__global__ void flag_non_finite_kernel(DeviceSink sink, std::int64_t n) {
  const std::int64_t first = first_element(kWidth);
  bool good = true;
  if (first + kWidth <= n) {
    float sum[kWidth];
    load(sink.fast + first, sum);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) good = good && fabsf(sum[i]) <= FLT_MAX;
  } else {
    for (std::int64_t i = first; i < n; ++i) good = good && fabsf(sink.fast[i]) <= FLT_MAX;
  }
  if (!good) *static_cast<volatile std::uint32_t*>(sink.flag) = 1;
}

__global__ void round_to_bf16_kernel(const float* values, std::int64_t n, bf16* out) {
  const std::int64_t i = first_element(1);
  if (i < n) out[i].bits = bf16_bits(values[i]);
}

// Where column sums go: a row for each segment of rows, or the sink.
struct ToRows {
  float* sums;
  std::int64_t cols;
  __device__ void operator()(std::int64_t segment, std::int64_t column, float sum) const {
    sums[segment * cols + column] = sum;
  }
};
struct ToSink {
  DeviceSink sink;
  __device__ void operator()(std::int64_t, std::int64_t column, float sum) const {
    const float g[1] = {sum};
    sink_add(sink, column, g);
  }
};

// Block (x, y) sums segment x of rows, columns from y * kWarp * kWidth on: warp w, a lane of the
// sum, takes rows w, w + kSumLanes, ... of the segment. The order of additions to one column does
// not depend on kWidth.
template <typename T, int kWidth, typename Put>
__global__ void column_sums_kernel(const T* x, std::int64_t rows, std::int64_t cols,
                                   std::int64_t stride, std::int64_t segment_rows, Put put) {
  static_assert(kSumLanes * kWarp == kThreads);
  alignas(16) __shared__ float lanes[kSumLanes][kWarp * kWidth];
  const int lane = static_cast<int>(threadIdx.x) / kWarp;
  const int offset = static_cast<int>(threadIdx.x) % kWarp * kWidth;
  const std::int64_t strip = static_cast<std::int64_t>(blockIdx.y) * kWarp * kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * segment_rows;
  const std::int64_t last = first + segment_rows < rows ? first + segment_rows : rows;
  float sum[kWidth] = {};
  if (strip + offset < cols) {
#pragma unroll 4
    for (std::int64_t row = first + lane; row < last; row += kSumLanes) {
      float value[kWidth];
      load(x + row * stride + strip + offset, value);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += value[i];
    }
  }
  store(&lanes[lane][offset], sum);
  __syncthreads();  // all lanes' sums are there
  for (int column = static_cast<int>(threadIdx.x); column < kWarp * kWidth; column += kThreads) {
    if (strip + column >= cols) return;
    float total = lanes[0][column];
    for (int other = 1; other < kSumLanes; ++other) total += lanes[other][column];
    put(blockIdx.x, strip + column, total);
  }
}

template <typename T, int kWidth, typename Put>
void column_sums(const CudaContext& context, const ConstMat& x_ND, std::int64_t segment_rows,
                 const Put& put) {
  const device::LaunchShape shape{
      .blocks_x = static_cast<unsigned>(ceil_div(x_ND.rows, segment_rows)),
      .blocks_y = static_cast<unsigned>(ceil_div(x_ND.cols, std::int64_t{kWarp} * kWidth)),
      .threads = kThreads};
  device::launch(context.stream, shape, column_sums_kernel<T, kWidth, Put>,
                 reinterpret_cast<const T*>(x_ND.data), x_ND.rows, x_ND.cols, x_ND.stride,
                 segment_rows, put);
}

template <typename T>
void sums_of_segments(const CudaContext& context, const ConstMat& x_ND, const ToRows& to) {
  if (vectors_fit(x_ND.cols, {x_ND}))
    column_sums<T, kVectorElems<T>>(context, x_ND, kSumRows, to);
  else
    column_sums<T, 1>(context, x_ND, kSumRows, to);
}

}  // namespace

void check_sink(const GradSink& sink, std::int64_t elems) {
  EW_CHECK(sink.elems == elems, "a sink of {} elements for {}", sink.elems, elems);
  EW_CHECK(sink.exact == nullptr || (sink.limit > 0 && sink.limit < 0x1p22f),
           "limit {} of an exact sink", sink.limit);
}

void add_to_exact_sink(const CudaContext& context, const GradSink& sink, std::int64_t first,
                       const float* gradient, std::int64_t n) {
  DeviceSink at = device_sink(sink);
  at.exact += first;
  const bool wide = vectors_fit(at, kQuad);  // gradient: scratch, aligned
  device::launch(context.stream, {.blocks_x = blocks_for(n, wide ? kQuad : 1), .threads = kThreads},
                 wide ? sink_add_kernel<kQuad> : sink_add_kernel<1>, at, gradient, n);
}

void flag_non_finite(const CudaContext& context, const GradSink& sink) {
  const DeviceSink at = device_sink(sink);
  const bool wide = vectors_fit(at, kQuad);
  device::launch(context.stream,
                 {.blocks_x = blocks_for(sink.elems, wide ? kQuad : 1), .threads = kThreads},
                 wide ? flag_non_finite_kernel<kQuad> : flag_non_finite_kernel<1>, at, sink.elems);
}

void round_to_bf16(const CudaContext& context, std::span<const float> values, std::byte* out) {
  const auto n = static_cast<std::int64_t>(values.size());
  device::launch(context.stream, {.blocks_x = blocks_for(n, 1), .threads = kThreads},
                 round_to_bf16_kernel, values.data(), n, reinterpret_cast<bf16*>(out));
}

void column_sums_into_sink(const CudaContext& context, const ConstMat& x_ND,
                           const GradSink& sink_D) {
  check_sink(sink_D, x_ND.cols);
  EW_CHECK(x_ND.rows > 0 && x_ND.cols > 0, "column sums of {} x {}", x_ND.rows, x_ND.cols);
  const std::int64_t segments = ceil_div(x_ND.rows, kSumRows);
  float* sums_SD = context.scratch.device<float>(ScratchUse::partial, segments * x_ND.cols);
  const ToRows to{sums_SD, x_ND.cols};
  if (x_ND.dtype == DType::bf16)
    sums_of_segments<bf16>(context, x_ND, to);
  else
    sums_of_segments<float>(context, x_ND, to);
  const ConstMat partial{reinterpret_cast<const std::byte*>(sums_SD), DType::f32, segments,
                         x_ND.cols, x_ND.cols};
  column_sums<float, 1>(context, partial, segments, ToSink{device_sink(sink_D)});
}

}  // namespace elaswave::kernels::cuda
