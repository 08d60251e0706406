// The head's loss over chunks of f32 logits: on a slice of the vocabulary a pass over a chunk for
// the statistics of its rows and one for its gradient, with products before and after. HeadLoss has
// both in one pass: a block keeps what it can of its row, and the rest is still in the L2 cache. It
// shares their arithmetic, so the bits are the same.
//
// The gradient of bf16 weights is bf16: products take operands of one type. It is written over the
// logits, row by row at the beginning of the row's f32 memory.
//
// Order of sums, fixed by V: a thread's vectors of 4 ascending (kThreads apart), then halves of
// warps, then warps in order.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "model/kernels/cuda_kernels.h"
#include "model/kernels/cuda_parts.h"
#include "model/kernels/gemm_cuda.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {
namespace {

constexpr int kThreads = 512;  // of a row
constexpr int kWidth = 8;      // elements a thread takes at a time: 16 bytes of the gradient's
constexpr int kSweep = kThreads * kWidth;
// Logits of its row that a block keeps: 112 KiB, of which two fit into a multiprocessor. What its
// 264 blocks do not keep of rows of 50257 is 23 MB, less than half of an H200's L2 cache.
constexpr std::int64_t kMostKept = 7 * kSweep;

/// A sum of e^(x - largest), taken in one pass (Milakov and Gimelshein, arXiv 1805.02867). Starts
/// at the lowest number rather than -infinity, whose distance to itself is not a number. NaN and
/// +infinity leave a sum that is NaN.
struct ExpSum {
  float largest = -FLT_MAX, sum = 0;

  __device__ void raise(float x) {
    if (x <= largest) return;
    sum *= expf(largest - x);
    largest = x;
  }
  __device__ void add(const ExpSum& other) {
    const float top = fmaxf(largest, other.largest);
    sum = sum * expf(largest - top) + other.sum * expf(other.largest - top);
    largest = top;
  }
};

/// The whole block's, in thread 0.
__device__ ExpSum block_sum(ExpSum mine) {
  __shared__ ExpSum warps[kThreads / kWarp];
#pragma unroll
  for (int half = kWarp / 2; half > 0; half /= 2) {
    ExpSum other;
    other.largest = __shfl_down_sync(kFullWarp, mine.largest, half);
    other.sum = __shfl_down_sync(kFullWarp, mine.sum, half);
    mine.add(other);
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
  __syncthreads();  // every warp's sum is there
  if (threadIdx.x == 0)
    for (int w = 1; w < kThreads / kWarp; ++w) mine.add(warps[w]);
  return mine;
}

/// A chunk of logits and where its targets are.
struct Chunk {
  float* logits;
  std::int64_t stride, V;
  const std::int32_t* targets;
  std::int64_t vocab_begin;
  bool vectors;

  /// The target's column, or one outside of [0, V) when another slice has it.
  __device__ std::int64_t target(std::int64_t row) const { return targets[row] - vocab_begin; }
};

/// The statistics of row blockIdx.x, in thread 0; the row's first `kept` logits in `keep`.
__device__ LogitStats row_statistics(const Chunk& chunk, float* keep, std::int64_t kept) {
  const std::int64_t row = blockIdx.x, V = chunk.V;
  const float* logits = chunk.logits + row * chunk.stride;
  ExpSum mine;
  for (std::int64_t i = std::int64_t{threadIdx.x} * kWidth; i < V; i += kSweep) {
    float x[kWidth];
    load_part(logits + i, V - i, chunk.vectors && i + kWidth <= V, x);
    if (i < kept) store(keep + i, x);
    const int count = static_cast<int>(std::min(std::int64_t{kWidth}, V - i));
    float top = x[0];
#pragma unroll
    for (int e = 1; e < kWidth; ++e)
      if (e < count) top = fmaxf(top, x[e]);
    mine.raise(top);
#pragma unroll
    for (int e = 0; e < kWidth; ++e)
      if (e < count) mine.sum += expf(x[e] - mine.largest);
  }
  mine = block_sum(mine);
  if (threadIdx.x != 0) return {};
  // Every number but -infinity adds more than 0.
  const bool nothing = mine.sum == 0;
  const std::int64_t target = chunk.target(row);
  return {nothing ? -INFINITY : mine.largest, nothing ? NAN : mine.sum,
          target >= 0 && target < V ? logits[target] : -INFINITY};
}

__device__ float loss_of(const LogitStats& total) {
  return logf(total.sum) - (total.target - total.largest);
}

/// One block: the statistics of row blockIdx.x.
__global__ void statistics_kernel(Chunk chunk, LogitStats* stats) {
  const LogitStats mine = row_statistics(chunk, nullptr, 0);
  if (threadIdx.x == 0) stats[blockIdx.x] = mine;
}

/// One thread a token.
__global__ void combine_kernel(const LogitStats* stats, std::int64_t slices, std::int64_t N,
                               LogitStats* total_N, float* loss_N) {
  const std::int64_t token = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (token >= N) return;
  LogitStats total = stats[token];
  for (std::int64_t s = 1; s < slices; ++s) {
    total.largest = fmaxf(total.largest, stats[s * N + token].largest);
    total.target = fmaxf(total.target, stats[s * N + token].target);
  }
  total.sum = 0;
  for (std::int64_t s = 0; s < slices; ++s) {
    const LogitStats slice = stats[s * N + token];
    total.sum = __fadd_rn(total.sum, __fmul_rn(slice.sum, expf(slice.largest - total.largest)));
  }
  total_N[token] = total;
  loss_N[token] = loss_of(total);
}

/// The gradient of row blockIdx.x over its logits, as T. `keep` as row_statistics() left it.
template <typename T>
__device__ void write_gradient(const Chunk& chunk, const LogitStats& total, float scale,
                               const float* keep, std::int64_t kept) {
  const std::int64_t row = blockIdx.x, V = chunk.V, target = chunk.target(row);
  const float* logits = chunk.logits + row * chunk.stride;
  T* gradient = reinterpret_cast<T*>(chunk.logits + row * chunk.stride);
  const float largest = total.largest, factor = scale / total.sum;
  for (std::int64_t base = 0; base < V; base += kSweep) {
    const std::int64_t i = base + std::int64_t{threadIdx.x} * kWidth;
    const bool vectors = chunk.vectors && i + kWidth <= V;
    float x[kWidth];
    if (base < kept)
      load(keep + i, x);
    else
      load_part(logits + i, V - i, vectors, x);
#pragma unroll
    for (int e = 0; e < kWidth; ++e)
      x[e] = expf(x[e] - largest) * factor - (i + e == target ? scale : 0.0f);
    // A narrower gradient lies over logits of other threads, in the first half of the row: they
    // have read theirs, or none of them is read from there.
    if constexpr (sizeof(T) < sizeof(float))
      if (V > 2 * kept) __syncthreads();
    store_part(gradient + i, V - i, vectors, x);
  }
}

/// One block: the gradient of row blockIdx.x.
template <typename T>
__global__ void gradient_kernel(Chunk chunk, const LogitStats* total, float scale) {
  write_gradient<T>(chunk, total[blockIdx.x], scale, nullptr, 0);
}

/// One block: loss and gradient of row blockIdx.x, where one slice has all of the vocabulary.
template <typename T>
__global__ void loss_gradient_kernel(Chunk chunk, float* loss_N, float scale, std::int64_t kept) {
  __shared__ LogitStats total;
  auto* keep = device::dynamic_shared<float>();
  const LogitStats mine = row_statistics(chunk, keep, kept);
  if (threadIdx.x == 0) {
    total = mine;
    loss_N[blockIdx.x] = loss_of(mine);
  }
  __syncthreads();  // the sums are there, and all logits have been read, the target's too
  write_gradient<T>(chunk, total, scale, keep, kept);
}

Chunk chunk_of(const Mat& logits_NV, std::span<const std::int32_t> targets,
               std::int64_t vocab_begin) {
  // Rows that begin at multiples of 16 bytes; their last elements are taken one by one.
  return {logits_NV.f32(), logits_NV.stride, logits_NV.cols,
          targets.data(),  vocab_begin,      vectors_fit(kWidth, {logits_NV})};
}

void statistics(const CudaContext& context, const Chunk& chunk, std::int64_t tokens,
                LogitStats* stats) {
  device::launch(context.stream, {.blocks_x = static_cast<unsigned>(tokens), .threads = kThreads},
                 statistics_kernel, chunk, stats);
}

void combine(const CudaContext& context, const LogitStats* stats, std::int64_t slices,
             std::int64_t tokens, LogitStats* total, float* loss) {
  constexpr unsigned kTokens = 128;  // of a block
  device::launch(context.stream,
                 {.blocks_x = static_cast<unsigned>(ceil_div(tokens, kTokens)), .threads = kTokens},
                 combine_kernel, stats, slices, tokens, total, loss);
}

/// Losses, and the gradient over the logits.
void losses_and_gradient(const CudaContext& context, const HeadGradient& args, float* loss_N) {
  const Chunk chunk = chunk_of(args.logits_NV, args.targets_N, 0);
  const std::int64_t kept = std::min(kMostKept, round_up(chunk.V, std::int64_t{kSweep}));
  with_type(args.w_VC.dtype, [&](auto type) {
    using T = decltype(type);
    device::launch(context.stream,
                   {.blocks_x = static_cast<unsigned>(args.logits_NV.rows),
                    .threads = kThreads,
                    .shared_bytes = static_cast<std::size_t>(kept) * sizeof(float)},
                   loss_gradient_kernel<T>, chunk, loss_N, args.scale, kept);
  });
}

/// Products of the gradient that lies over the logits, with weights and inputs.
void multiply_gradient(const CudaContext& context, Gemm& gemm, const HeadGradient& args) {
  Mat dlogits = args.logits_NV;
  dlogits.dtype = args.w_VC.dtype;
  dlogits.stride = dlogits.stride * size_bytes(DType::f32) / size_bytes(dlogits.dtype);
  gemm.multiply(context, factors(ProductForm::nn, dlogits, args.w_VC), args.dx_NC);
  gemm.multiply_into_sink(context, factors(ProductForm::tn, dlogits, args.x_NC), args.dw_VC);
}

template <typename Args>
void check_chunk(const Args& args, std::size_t stats) {
  const std::int64_t N = args.x_NC.rows;
  EW_CHECK(N > 0 && args.vocab_begin >= 0, "a chunk of {} tokens, from row {} of the vocabulary on",
           N, args.vocab_begin);
  EW_CHECK(std::ssize(args.targets_N) == N && static_cast<std::int64_t>(stats) == N,
           "{} targets and {} statistics for {} tokens", args.targets_N.size(), stats, N);
  EW_CHECK(args.logits_NV.dtype == DType::f32 && args.logits_NV.rows == N &&
               args.logits_NV.cols == args.w_VC.rows,
           "logits of {} x {} for {} tokens and {} rows of the vocabulary", args.logits_NV.rows,
           args.logits_NV.cols, N, args.w_VC.rows);
}

}  // namespace

void head_loss(const CudaContext& context, Gemm& gemm, const HeadLoss& args) {
  const std::int64_t N = args.x_NC.rows, V = args.w_VC.rows, stride = logits_stride(V);
  EW_CHECK(std::ssize(args.targets_N) == N && std::ssize(args.loss_N) == N && args.chunk_tokens > 0,
           "{} targets and {} losses for {} tokens, {} at a time", args.targets_N.size(),
           args.loss_N.size(), N, args.chunk_tokens);
  const std::int64_t rows = std::min(N, args.chunk_tokens);
  auto* logits = context.scratch.device<float>(ScratchUse::logits, rows * stride);
  auto* stats = context.scratch.device<LogitStats>(ScratchUse::statistics, rows);
  GradSink dw_VC = args.dw_VC;
  for (std::int64_t first = 0; first < N; first += args.chunk_tokens) {
    const std::int64_t tokens = std::min(args.chunk_tokens, N - first);
    const auto begin = static_cast<std::size_t>(first), count = static_cast<std::size_t>(tokens);
    HeadGradient chunk = {
        .logits_NV = {reinterpret_cast<std::byte*>(logits), DType::f32, tokens, V, stride},
        .x_NC = args.x_NC.rows_from(first, tokens),
        .w_VC = args.w_VC,
        .targets_N = args.targets_N.subspan(begin, count),
        .scale = args.scale,
        .dw_VC = dw_VC};
    gemm.multiply(context, factors(ProductForm::nt, chunk.x_NC, args.w_VC), chunk.logits_NV);
    float* loss_N = args.loss_N.data() + first;
    if (args.dx_NC.data == nullptr) {
      statistics(context, chunk_of(chunk.logits_NV, chunk.targets_N, 0), tokens, stats);
      combine(context, stats, 1, tokens, stats, loss_N);
      continue;
    }
    losses_and_gradient(context, chunk, loss_N);
    chunk.dx_NC = args.dx_NC.rows_from(first, tokens);
    multiply_gradient(context, gemm, chunk);
    dw_VC.overwrite = false;
  }
}

void head_logits(const CudaContext& context, Gemm& gemm, const HeadLogits& args) {
  check_chunk(args, args.stats_N.size());
  gemm.multiply(context, factors(ProductForm::nt, args.x_NC, args.w_VC), args.logits_NV);
  statistics(context, chunk_of(args.logits_NV, args.targets_N, args.vocab_begin), args.x_NC.rows,
             args.stats_N.data());
}

void head_combine(const CudaContext& context, const HeadCombine& args) {
  const std::size_t N = args.total_N.size();
  EW_CHECK(
      N > 0 && !args.stats_SN.empty() && args.stats_SN.size() % N == 0 && args.loss_N.size() == N,
      "{} statistics of slices and {} losses for {} tokens", args.stats_SN.size(),
      args.loss_N.size(), N);
  combine(context, args.stats_SN.data(), static_cast<std::int64_t>(args.stats_SN.size() / N),
          static_cast<std::int64_t>(N), args.total_N.data(), args.loss_N.data());
}

void head_gradient(const CudaContext& context, Gemm& gemm, const HeadGradient& args) {
  check_chunk(args, args.total_N.size());
  const Chunk chunk = chunk_of(args.logits_NV, args.targets_N, args.vocab_begin);
  with_type(args.w_VC.dtype, [&](auto type) {
    using T = decltype(type);
    device::launch(context.stream,
                   {.blocks_x = static_cast<unsigned>(args.logits_NV.rows), .threads = kThreads},
                   gradient_kernel<T>, chunk, args.total_N.data(), args.scale);
  });
  multiply_gradient(context, gemm, args);
}

}  // namespace elaswave::kernels::cuda
