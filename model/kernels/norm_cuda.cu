// Layer norm over rows. A row belongs to a group of 32 to 512 threads of one block, as many as give
// each thread at most kThreadElems of its columns: the columns of thread t are those of vectors t,
// t + group, t + 2 group, ... whether or not they are read as vectors.
//
// Order of sums, fixed by the shape: over C, a thread's columns ascending, then halves of warps,
// then warps in order. dgamma and dbeta: rows of a block that one group takes, in order; groups of
// the block in order; blocks 32 apart in order; these 32 sums in order.
#include <algorithm>

#include "model/kernels/cuda_kernels.h"
#include "model/kernels/cuda_parts.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {
namespace {

// With twice as many, backward would take all the registers there are.
constexpr int kThreadElems = 16;
constexpr int kThreads = 256;  // of a block, unless a row takes 512
constexpr int kLargestGroup = 512;
constexpr int kLargestRow = kLargestGroup * kThreadElems;
template <typename T>
constexpr int kVectors = kThreadElems / kVectorElems<T>;

// Rows are dealt to about this many blocks in backward: two for each of an H200's 132
// multiprocessors. Part of the order of summation.
constexpr std::int64_t kPartials = 264;
constexpr std::int64_t kFewestRows =
    16;                       // of a block, so that partial sums are few beside the rows
constexpr int kSumWays = 32;  // sums of partial sums, each by one warp

/// Threads of a row: a power of two.
int group_of(std::int64_t C) {
  EW_CHECK(C <= kLargestRow, "layer norm of {} columns, at most {}", C, kLargestRow);
  int group = kWarp;
  while (std::int64_t{group} * kThreadElems < C) group *= 2;
  return group;
}
std::int64_t rows_of_block(std::int64_t N) {
  return std::max(kFewestRows, ceil_div(N, kPartials));
}

/// A thread's place.
struct Place {
  int group;    // number of its group in the block
  int groups;   // of the block
  int thread;   // within the group
  int threads;  // of a group

  __device__ explicit Place(int group_threads)
      : group(static_cast<int>(threadIdx.x) / group_threads),
        groups(static_cast<int>(blockDim.x) / group_threads),
        thread(static_cast<int>(threadIdx.x) % group_threads),
        threads(group_threads) {}
  /// Its column at position `vector` of its vectors.
  template <typename T>
  __device__ int column(int vector) const {
    return (vector * threads + thread) * kVectorElems<T>;
  }
};

/// Sums of the threads of each group; every thread gets its group's. `shared` holds a number a
/// warp. REQUIRES: all threads call.
__device__ float group_sum(const Place& place, float value, float* shared) {
  value = warp_reduce(value, Add{});
  if (place.threads == kWarp) return value;  // the same for all groups
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = place.threads / kWarp;
  __syncthreads();  // nobody reads the numbers of the sum before
  if (threadIdx.x % kWarp == 0) shared[warp] = value;
  __syncthreads();  // every warp's number is there
  float sum = shared[place.group * warps];
  for (int w = 1; w < warps; ++w) sum += shared[place.group * warps + w];
  return sum;
}

/// Two sums at once, each as group_sum() has it.
__device__ void group_sums(const Place& place, float& a, float& b, float2* shared) {
  a = warp_reduce(a, Add{});
  b = warp_reduce(b, Add{});
  if (place.threads == kWarp) return;  // the same for all groups
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = place.threads / kWarp;
  __syncthreads();  // nobody reads the numbers of the sums before
  if (threadIdx.x % kWarp == 0) shared[warp] = make_float2(a, b);
  __syncthreads();  // every warp's numbers are there
  const float2* group = shared + place.group * warps;
  float2 sums = group[0];
#pragma unroll 1
  for (int w = 1; w < warps; ++w) {
    const float2 more = group[w];
    sums.x += more.x, sums.y += more.y;
  }
  a = sums.x, b = sums.y;
}

template <typename T>
struct ForwardCall {
  const T* x;
  T* y;
  std::int64_t x_stride, y_stride, N;
  int C;
  const float *gamma, *beta;
  float *mean, *rstd;
  float epsilon;
  int group;
  bool vectors;
};

template <typename T>
__global__ void __launch_bounds__(kLargestGroup) forward_kernel(ForwardCall<T> call) {
  constexpr int kWidth = kVectorElems<T>;
  __shared__ float shared[kLargestGroup / kWarp];
  const Place place(call.group);
  const std::int64_t row = std::int64_t{blockIdx.x} * place.groups + place.group;
  const int C = row < call.N ? call.C : 0;  // a group without a row has no columns
  const T* from = call.x + row * call.x_stride;
  T* to = call.y + row * call.y_stride;
  const float inverse = 1.0f / static_cast<float>(call.C);
  float x[kVectors<T>][kWidth], sum = 0, squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors<T>; ++v) {
    const int c = place.column<T>(v);
    load_part(from + c, C - c, call.vectors, x[v]);
  }
#pragma unroll
  for (int v = 0; v < kVectors<T>; ++v)
#pragma unroll
    for (int e = 0; e < kWidth; ++e) sum += x[v][e];
  const float mean = group_sum(place, sum, shared) * inverse;
#pragma unroll
  for (int v = 0; v < kVectors<T>; ++v)
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const float d = place.column<T>(v) + e < C ? x[v][e] - mean : 0.0f;
      squares = __fmaf_rn(d, d, squares);
    }
  const float rstd = 1.0f / sqrtf(group_sum(place, squares, shared) * inverse + call.epsilon);
#pragma unroll
  for (int v = 0; v < kVectors<T>; ++v) {
    const int c = place.column<T>(v);
    if (c >= C) continue;
    float gamma[kWidth], beta[kWidth], y[kWidth];
    load_part(call.gamma + c, C - c, call.vectors, gamma);
    load_part(call.beta + c, C - c, call.vectors, beta);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) y[e] = __fmaf_rn((x[v][e] - mean) * rstd, gamma[e], beta[e]);
    store_part(to + c, C - c, call.vectors, y);
  }
  if (place.thread == 0 && row < call.N) call.mean[row] = mean, call.rstd[row] = rstd;
}

template <typename T>
struct BackwardCall {
  const T *dy, *x, *dresidual;  // dresidual may be null
  T* dx;
  std::int64_t dy_stride, x_stride, dresidual_stride, dx_stride, N;
  int C;
  const float *gamma, *mean, *rstd;
  float* partial;  // [block][dgamma, dbeta][C]
  std::int64_t block_rows;
  int group;
  bool vectors;
};

/// Sums over one row of g and g n, with g = dy * gamma and n = (x - mean) * rstd; adds the row to
/// the thread's dgamma and dbeta.
template <typename T, typename Sums>
__device__ void take_row(const BackwardCall<T>& call, const Place& place, std::int64_t row, int C,
                         float& sum_g, float& sum_gn, Sums& dgamma, Sums& dbeta) {
  constexpr int kWidth = kVectorElems<T>;
  const T *dy_row = call.dy + row * call.dy_stride, *x_row = call.x + row * call.x_stride;
  const float mean = C > 0 ? call.mean[row] : 0.0f, rstd = C > 0 ? call.rstd[row] : 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors<T>; ++v) {
    const int c = place.column<T>(v);
    float dy[kWidth], x[kWidth], gamma[kWidth];
    load_part(dy_row + c, C - c, call.vectors, dy);
    load_part(x_row + c, C - c, call.vectors, x);
    load_part(call.gamma + c, C - c, call.vectors, gamma);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const float normal = c + e < C ? (x[e] - mean) * rstd : 0.0f, g = dy[e] * gamma[e];
      sum_g += g;
      sum_gn = __fmaf_rn(g, normal, sum_gn);
      dgamma[v][e] = __fmaf_rn(dy[e], normal, dgamma[v][e]);
      dbeta[v][e] += dy[e];
    }
  }
}

/// dx = dresidual + rstd (g - mean_C(g) - n mean_C(g n)). Reads dy and x again, from the cache:
/// held in registers they would halve the rows in flight.
template <typename T>
__device__ void write_row(const BackwardCall<T>& call, const Place& place, std::int64_t row, int C,
                          float mean_g, float mean_gn) {
  constexpr int kWidth = kVectorElems<T>;
  if (C == 0) return;
  const T *dy_row = call.dy + row * call.dy_stride, *x_row = call.x + row * call.x_stride;
  const T* residual_row =
      call.dresidual == nullptr ? nullptr : call.dresidual + row * call.dresidual_stride;
  T* dx_row = call.dx + row * call.dx_stride;
  const float mean = call.mean[row], rstd = call.rstd[row];
#pragma unroll
  for (int v = 0; v < kVectors<T>; ++v) {
    const int c = place.column<T>(v);
    if (c >= C) continue;
    float dy[kWidth], x[kWidth], gamma[kWidth], dx[kWidth] = {};
    load_part(dy_row + c, C - c, call.vectors, dy);
    load_part(x_row + c, C - c, call.vectors, x);
    load_part(call.gamma + c, C - c, call.vectors, gamma);
    if (call.dresidual != nullptr) load_part(residual_row + c, C - c, call.vectors, dx);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const float normal = (x[e] - mean) * rstd;
      const float inner = __fmaf_rn(-normal, mean_gn, dy[e] * gamma[e] - mean_g);
      dx[e] = __fmaf_rn(inner, rstd, dx[e]);
    }
    store_part(dx_row + c, C - c, call.vectors, dx);
  }
}

/// Sums of the block's groups in order: group 0 begins and the others add, one after another.
template <typename T, typename Sums>
__device__ void write_partial(const BackwardCall<T>& call, const Place& place, const Sums& dgamma,
                              const Sums& dbeta) {
  float* to = call.partial + std::int64_t{blockIdx.x} * 2 * call.C;  // dgamma, then dbeta
  for (int group = 0; group < place.groups; ++group) {
    if (group == place.group) {
#pragma unroll
      for (int v = 0; v < kVectors<T>; ++v)
#pragma unroll
        for (int e = 0; e < kVectorElems<T>; ++e) {
          const int c = place.column<T>(v) + e;
          if (c >= call.C) continue;
          to[c] = dgamma[v][e] + (group > 0 ? to[c] : 0.0f);
          to[call.C + c] = dbeta[v][e] + (group > 0 ? to[call.C + c] : 0.0f);
        }
    }
    __syncthreads();  // what this group wrote is there for the next
  }
}

template <typename T>
__global__ void __launch_bounds__(kLargestGroup) backward_kernel(BackwardCall<T> call) {
  __shared__ float2 shared[kLargestGroup / kWarp];
  const Place place(call.group);
  const std::int64_t first = std::int64_t{blockIdx.x} * call.block_rows;
  const std::int64_t end = std::min(first + call.block_rows, call.N);
  const float inverse = 1.0f / static_cast<float>(call.C);
  float dgamma[kVectors<T>][kVectorElems<T>] = {}, dbeta[kVectors<T>][kVectorElems<T>] = {};
  for (std::int64_t base = first; base < end; base += place.groups) {
    const std::int64_t row = base + place.group;
    const int C = row < end ? call.C : 0;  // a group without a row has no columns
    float sum_g = 0, sum_gn = 0;
    take_row(call, place, row, C, sum_g, sum_gn, dgamma, dbeta);
    group_sums(place, sum_g, sum_gn, shared);
    write_row(call, place, row, C, sum_g * inverse, sum_gn * inverse);
  }
  write_partial(call, place, dgamma, dbeta);
}

/// One block: 32 columns of dgamma (blockIdx.y 0) or dbeta (1), summed over the partial sums.
__global__ void sum_partials_kernel(const float* partial, std::int64_t partials, std::int64_t C,
                                    DeviceSink dgamma, DeviceSink dbeta) {
  __shared__ float sums[kSumWays][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int way = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t c = std::int64_t{blockIdx.x} * kWarp + lane;
  float sum = 0;
  if (c < C)
#pragma unroll 8
    for (std::int64_t p = way; p < partials; p += kSumWays)
      sum += partial[(2 * p + blockIdx.y) * C + c];
  sums[way][lane] = sum;
  __syncthreads();  // every warp's sums are there
  if (way != 0 || c >= C) return;
  for (int w = 1; w < kSumWays; ++w) sum += sums[w][lane];
  const float total[1] = {sum};
  if (blockIdx.y == 0)
    sink_add(dgamma, c, total);
  else
    sink_add(dbeta, c, total);
}

void check_norm(const ConstMat& x, std::size_t gamma, std::size_t mean, std::size_t rstd) {
  EW_CHECK(static_cast<std::int64_t>(gamma) == x.cols, "gamma of {} for {} columns", gamma, x.cols);
  EW_CHECK(static_cast<std::int64_t>(mean) >= x.rows && static_cast<std::int64_t>(rstd) >= x.rows,
           "{} means and {} deviations for {} rows", mean, rstd, x.rows);
}
void check_same_shape(const ConstMat& a, const ConstMat& b) {
  EW_CHECK(a.rows == b.rows && a.cols == b.cols, "{} x {} beside {} x {}", a.rows, a.cols, b.rows,
           b.cols);
}
ConstMat row_of(std::span<const float> values) {
  return device::mat(values, 1, std::ssize(values));
}

}  // namespace

void layernorm_forward(const CudaContext& context, const LayerNormForward& args) {
  const ConstMat& x = args.x_NC;
  check_norm(x, args.gamma_C.size(), args.mean_N.size(), args.rstd_N.size());
  check_same_shape(x, args.y_NC);
  EW_CHECK(args.beta_C.size() == args.gamma_C.size(), "beta of {} beside gamma of {}",
           args.beta_C.size(), args.gamma_C.size());
  const int group = group_of(x.cols), threads = std::max(kThreads, group);
  const bool vectors = vectors_fit(x.cols, {x, args.y_NC}) &&
                       vectors_fit(x.cols, {row_of(args.gamma_C), row_of(args.beta_C)});
  if (x.rows == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    device::launch(context.stream,
                   {.blocks_x = static_cast<unsigned>(ceil_div(x.rows, threads / group)),
                    .threads = static_cast<unsigned>(threads)},
                   forward_kernel<T>,
                   {typed<T>(x), typed<T>(args.y_NC), x.stride, args.y_NC.stride, x.rows,
                    static_cast<int>(x.cols), args.gamma_C.data(), args.beta_C.data(),
                    args.mean_N.data(), args.rstd_N.data(), args.epsilon, group, vectors});
  });
}

void layernorm_backward(const CudaContext& context, const LayerNormBackward& args) {
  const ConstMat &x = args.x_NC, &dy = args.dy_NC;
  ConstMat dresidual = args.dresidual_NC;
  check_norm(x, args.gamma_C.size(), args.mean_N.size(), args.rstd_N.size());
  check_same_shape(x, dy);
  check_same_shape(x, args.dx_NC);
  const std::int64_t C = x.cols, block_rows = rows_of_block(x.rows);
  EW_CHECK(args.dgamma_C.elems == C && args.dbeta_C.elems == C && x.rows > 0,
           "sinks of {} and {} for {} columns of {} rows", args.dgamma_C.elems, args.dbeta_C.elems,
           C, x.rows);
  if (dresidual.data != nullptr)
    check_same_shape(x, dresidual);
  else
    dresidual = {nullptr, x.dtype, x.rows, C, x.stride};
  const int group = group_of(C);
  const std::int64_t blocks = ceil_div(x.rows, block_rows);
  float* partial = context.scratch.device<float>(ScratchUse::partial, blocks * 2 * C);
  const bool vectors =
      vectors_fit(C, {dy, x, dresidual, args.dx_NC}) && vectors_fit(C, {row_of(args.gamma_C)});
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    device::launch(
        context.stream,
        {.blocks_x = static_cast<unsigned>(blocks),
         .threads = static_cast<unsigned>(std::max(kThreads, group))},
        backward_kernel<T>,
        {typed<T>(dy), typed<T>(x), typed<T>(dresidual), typed<T>(args.dx_NC), dy.stride, x.stride,
         dresidual.stride, args.dx_NC.stride, x.rows, static_cast<int>(C), args.gamma_C.data(),
         args.mean_N.data(), args.rstd_N.data(), partial, block_rows, group, vectors});
  });
  device::launch(context.stream,
                 {.blocks_x = static_cast<unsigned>(ceil_div(C, kWarp)),
                  .blocks_y = 2,
                  .threads = kSumWays * kWarp},
                 sum_partials_kernel, partial, blocks, C, device_sink(args.dgamma_C),
                 device_sink(args.dbeta_C));
}

}  // namespace elaswave::kernels::cuda
