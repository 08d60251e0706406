// Causal attention of our own, backward: probabilities are recomputed from the log sum exp (Dao et
// al., arXiv 2205.14135, algorithm 4). One kernel has a block for each tile of keys and sums dk and
// dv over queries, another a block for each tile of queries and sums dq over keys: scores are
// computed twice, nothing is added by atomics.
//
// P = e^(s - lse), ds = P (mask dP - delta) with delta = sum over D of dout * out; dv = (mask P)^T
// dout, dq = scale ds k, dk = ds^T (scale q).
#include <algorithm>

#include "model/kernels/attention_tiles_cuda.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {
namespace {

template <typename T>
struct BackwardCall {
  const T *qkv, *out, *dout;
  T* dqkv;
  std::int64_t qkv_stride, out_stride, dout_stride, dqkv_stride;
  const float* lse;  // [(sample * H + head) * T + query], as delta
  float* delta;
  Heads heads;
  bool vectors;
  HeadMask mask;
};

/// A block's head: where its rows begin.
template <typename T>
struct BlockHead {
  const T *q, *k, *v, *dout;
  T *dq, *dk, *dv;
  const float *lse, *delta;

  __device__ explicit BlockHead(const BackwardCall<T>& call) {
    const Heads& heads = call.heads;
    const std::int64_t sample = blockIdx.z, head = blockIdx.y, row = sample * heads.T;
    const std::int64_t column = head * heads.D;
    q = call.qkv + row * call.qkv_stride + column;
    k = q + heads.C();
    v = k + heads.C();
    dout = call.dout + row * call.dout_stride + column;
    dq = call.dqkv + row * call.dqkv_stride + column;
    dk = dq + heads.C();
    dv = dk + heads.C();
    lse = call.lse + (sample * heads.H + head) * heads.T;
    delta = call.delta + (sample * heads.H + head) * heads.T;
  }
};

/// One warp: delta of one row and head.
template <typename T>
__global__ void delta_kernel(BackwardCall<T> call) {
  const Heads& heads = call.heads;
  const std::int64_t index = std::int64_t{blockIdx.x} * kTileWarps + threadIdx.x / 32;
  if (index >= heads.B * heads.T * heads.H) return;  // the whole warp
  const std::int64_t row = index / heads.H, head = index % heads.H;
  const T* out = call.out + row * call.out_stride + head * heads.D;
  const T* dout = call.dout + row * call.dout_stride + head * heads.D;
  float sum = 0;
  for (std::int64_t d = threadIdx.x % 32; d < heads.D; d += 32)
    sum = __fmaf_rn(element(out + d), element(dout + d), sum);
  sum = warp_reduce(sum, Add{});
  if (threadIdx.x % 32 == 0)
    call.delta[(row / heads.T * heads.H + head) * heads.T + row % heads.T] = sum;
}

struct Differential {
  float weight = 0;  // masked probability
  float score = 0;   // gradient of the score
};

/// Of one query and key; zeros where the causal mask hides the key or there is no such query.
template <typename T>
__device__ Differential differentiate(const BackwardCall<T>& call, std::int64_t query,
                                      std::int64_t key, float score, float dweight, float lse,
                                      float delta) {
  if (key > query || query >= call.heads.T) return {};
  const float probability = expf(score - lse);
  const float factor = call.mask.factor(query, key);
  return {probability * factor, probability * (dweight * factor - delta)};
}

/// One block: dk and dv of kTile keys (block 0 has the first, which take longest) of head
/// blockIdx.y of sample blockIdx.z.
template <int kColumns, typename T>
__global__ void key_gradient_kernel(BackwardCall<T> call) {
  constexpr int kStride = kTileStride<kColumns>, kElems = kTileElems<kColumns>;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  float* keys = device::dynamic_shared<float>();
  float *values = keys + kElems, *queries = values + kElems, *douts = queries + kElems;
  float* weights = douts + kElems + warp * 2 * kWarpRows * kTile;
  float* dscores = weights + kWarpRows * kTile;
  const BlockHead<T> head(call);
  const int D = static_cast<int>(call.heads.D);
  const std::int64_t tokens = call.heads.T, first = std::int64_t{blockIdx.x} * kTile;
  const std::int64_t key = first + warp * kWarpRows;  // the warp's first
  load_tile<kColumns>(keys, head.k + first * call.qkv_stride, call.qkv_stride, tokens - first, D,
                      1.0f, call.vectors);
  load_tile<kColumns>(values, head.v + first * call.qkv_stride, call.qkv_stride, tokens - first, D,
                      1.0f, call.vectors);
  float dk[kWarpRows][kColumns] = {}, dv[kWarpRows][kColumns] = {};
  for (std::int64_t begin = first; begin < tokens; begin += kTile) {
    __syncthreads();  // nobody reads the tiles before
    load_tile<kColumns>(queries, head.q + begin * call.qkv_stride, call.qkv_stride, tokens - begin,
                        D, call.heads.scale, call.vectors);
    load_tile<kColumns>(douts, head.dout + begin * call.dout_stride, call.dout_stride,
                        tokens - begin, D, 1.0f, call.vectors);
    __syncthreads();  // all of these are there
    const std::int64_t query = begin + lane;
    const float lse = query < tokens ? head.lse[query] : 0.0f;
    const float delta = query < tokens ? head.delta[query] : 0.0f;
    float scores[kWarpRows], dweights[kWarpRows];
    multiply_rows<kColumns>(keys + warp * kWarpRows * kStride, queries, scores);
    multiply_rows<kColumns>(values + warp * kWarpRows * kStride, douts, dweights);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const Differential d =
          differentiate(call, query, key + r, scores[r], dweights[r], lse, delta);
      weights[r * kTile + lane] = d.weight;
      dscores[r * kTile + lane] = d.score;
    }
    __syncwarp();  // weights of the whole warp are there
    const Visible visible = {static_cast<int>(std::max(std::int64_t{-kTile}, key - begin)), kTile};
    add_weighted<kColumns>(weights, douts, visible, dv);
    add_weighted<kColumns>(dscores, queries, visible, dk);
  }
  store_rows<kColumns>(dk, 1.0f, head.dk, call.dqkv_stride, key, tokens, D);
  store_rows<kColumns>(dv, 1.0f, head.dv, call.dqkv_stride, key, tokens, D);
}

/// One block: dq of kTile queries (the last of block 0) of head blockIdx.y of sample blockIdx.z.
template <int kColumns, typename T>
__global__ void query_gradient_kernel(BackwardCall<T> call) {
  constexpr int kStride = kTileStride<kColumns>, kElems = kTileElems<kColumns>;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  float* queries = device::dynamic_shared<float>();
  float *douts = queries + kElems, *keys = douts + kElems, *values = keys + kElems;
  float* dscores = values + kElems + warp * kWarpRows * kTile;
  const BlockHead<T> head(call);
  const int D = static_cast<int>(call.heads.D);
  const std::int64_t tokens = call.heads.T;
  const std::int64_t first = std::int64_t{gridDim.x - 1 - blockIdx.x} * kTile;
  const std::int64_t query = first + warp * kWarpRows;       // the warp's first
  const std::int64_t end = std::min(first + kTile, tokens);  // of the keys that count
  load_tile<kColumns>(queries, head.q + first * call.qkv_stride, call.qkv_stride, end - first, D,
                      call.heads.scale, call.vectors);
  load_tile<kColumns>(douts, head.dout + first * call.dout_stride, call.dout_stride, end - first, D,
                      1.0f, call.vectors);
  float lse[kWarpRows] = {}, delta[kWarpRows] = {}, dq[kWarpRows][kColumns] = {};
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r)
    if (query + r < tokens) lse[r] = head.lse[query + r], delta[r] = head.delta[query + r];
  for (std::int64_t begin = 0; begin < end; begin += kTile) {
    __syncthreads();  // nobody reads the tiles before
    load_tile<kColumns>(keys, head.k + begin * call.qkv_stride, call.qkv_stride, end - begin, D,
                        1.0f, call.vectors);
    load_tile<kColumns>(values, head.v + begin * call.qkv_stride, call.qkv_stride, end - begin, D,
                        1.0f, call.vectors);
    __syncthreads();  // all of these are there
    float scores[kWarpRows], dweights[kWarpRows];
    multiply_rows<kColumns>(queries + warp * kWarpRows * kStride, keys, scores);
    multiply_rows<kColumns>(douts + warp * kWarpRows * kStride, values, dweights);
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r)
      dscores[r * kTile + lane] =
          differentiate(call, query + r, begin + lane, scores[r], dweights[r], lse[r], delta[r])
              .score;
    __syncwarp();  // those of the whole warp are there
    const int visible = static_cast<int>(std::min(std::int64_t{kTile}, query - begin + 1));
    add_weighted<kColumns>(dscores, keys, {-kTile, visible}, dq);
  }
  store_rows<kColumns>(dq, call.heads.scale, head.dq, call.dqkv_stride, query, tokens, D);
}

template <int kColumns, typename T>
void launch_backward(const CudaContext& context, const BackwardCall<T>& call) {
  const Heads& heads = call.heads;
  device::LaunchShape shape = {.blocks_x = tiles_of(heads.T),
                               .blocks_y = static_cast<unsigned>(heads.H),
                               .blocks_z = static_cast<unsigned>(heads.B),
                               .threads = kTileThreads};
  constexpr std::size_t kTiles = 4 * kTileElems<kColumns>, kWeights = kTile * kTile;
  shape.shared_bytes = (kTiles + 2 * kWeights) * sizeof(float);
  device::launch(context.stream, shape, key_gradient_kernel<kColumns, T>, call);
  shape.shared_bytes = (kTiles + kWeights) * sizeof(float);
  device::launch(context.stream, shape, query_gradient_kernel<kColumns, T>, call);
}

}  // namespace

void attention_backward(const CudaContext& context, const AttentionBackward& args) {
  const Heads heads = heads_of(args);
  const ConstMat &qkv = args.qkv_N3C, &out = args.out_NC, &dout = args.dout_NC;
  const Mat& dqkv = args.dqkv_N3C;
  EW_CHECK(dout.rows == out.rows && dout.cols == out.cols && dqkv.rows == qkv.rows &&
               dqkv.cols == qkv.cols && dout.dtype == qkv.dtype && dqkv.dtype == qkv.dtype,
           "gradients of {} x {} and {} x {} for {} x {} and {} x {}", dout.rows, dout.cols,
           dqkv.rows, dqkv.cols, out.rows, out.cols, qkv.rows, qkv.cols);
  const std::int64_t rows = heads.B * heads.T * heads.H;
  with_type(qkv.dtype, [&](auto type) {
    using T = decltype(type);
    const BackwardCall<T> call = {
        .qkv = typed<T>(qkv),
        .out = typed<T>(out),
        .dout = typed<T>(dout),
        .dqkv = typed<T>(dqkv),
        .qkv_stride = qkv.stride,
        .out_stride = out.stride,
        .dout_stride = dout.stride,
        .dqkv_stride = dqkv.stride,
        .lse = args.lse_NH.data(),
        .delta = context.scratch.device<float>(ScratchUse::attention, rows),
        .heads = heads,
        .vectors = vectors_fit(heads.D, {qkv, dout}),
        .mask = head_mask(context, args.dropout, heads)};
    device::launch(
        context.stream,
        {.blocks_x = static_cast<unsigned>(ceil_div(rows, kTileWarps)), .threads = kTileThreads},
        delta_kernel<T>, call);
    with_columns(heads.D,
                 [&](auto columns) { launch_backward<decltype(columns)::value>(context, call); });
  });
}

}  // namespace elaswave::kernels::cuda
