// Causal attention of our own, forward: online softmax over tiles of keys (Milakov and Gimelshein,
// arXiv 1805.02867; Dao et al., arXiv 2205.14135). It takes every head dimension up to 256, every
// stride, dropout and a cache of keys; the library's attention is faster where it applies.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "model/kernels/attention_tiles_cuda.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {
namespace {

/// Where a head's rows lie: that of sample b and head h begins at row b * rows_per_sample, column
/// h * D.
template <typename T>
struct HeadRows {
  T* data;
  std::int64_t stride, rows_per_sample;

  __device__ T* at(std::int64_t sample, std::int64_t column) const {
    return data + sample * rows_per_sample * stride + column;
  }
};

template <typename T>
struct ForwardCall {
  HeadRows<const T> q, k, v;
  HeadRows<T> out;
  float* lse = nullptr;  // may be null
  std::int64_t queries = 0;
  std::int64_t past = 0;  // keys before that of the first query
  std::int64_t H = 0;
  int D = 0;
  float scale = 0;
  bool vectors = false;
  HeadMask mask;
};

/// Online softmax of a warp's rows: largest score and sum of exponentials so far. Starts at the
/// lowest number rather than -infinity, whose distance to itself is not a number.
struct Softmax {
  float largest[kWarpRows], sum[kWarpRows];
};

/// Takes in the scores of this lane's key for the warp's rows; leaves their masked exponentials in
/// `weights` and scales what `out` has so far.
template <int kColumns, typename T>
__device__ void absorb(const ForwardCall<T>& call, const float (&scores)[kWarpRows],
                       std::int64_t query, std::int64_t key, Softmax& state, float* weights,
                       float (&out)[kWarpRows][kColumns]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const float score = key <= query + r ? scores[r] : -INFINITY;
    const float top = fmaxf(state.largest[r], warp_reduce(score, Larger{}));
    const float shrink = expf(state.largest[r] - top);
    const float weight = expf(score - top);
    state.sum[r] = state.sum[r] * shrink + warp_reduce(weight, Add{});
    state.largest[r] = top;
    weights[r * kTile + lane] = weight * call.mask.factor(query + r, key);
#pragma unroll
    for (int k = 0; k < kColumns; ++k) out[r][k] *= shrink;
  }
}

/// One block: kTile queries (the latest of block 0: they take longest) of head blockIdx.y of sample
/// blockIdx.z.
template <int kColumns, typename T>
__global__ void forward_kernel(ForwardCall<T> call) {
  constexpr int kStride = kTileStride<kColumns>;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  float* queries = device::dynamic_shared<float>();
  float* keys = queries + kTileElems<kColumns>;
  float* values = keys + kTileElems<kColumns>;
  float* weights = values + kTileElems<kColumns> + warp * kWarpRows * kTile;
  const std::int64_t sample = blockIdx.z, column = std::int64_t{blockIdx.y} * call.D;
  const std::int64_t first = std::int64_t{gridDim.x - 1 - blockIdx.x} * kTile;
  const std::int64_t rows = std::min(std::int64_t{kTile}, call.queries - first);
  const std::int64_t query = call.past + first + warp * kWarpRows;  // the warp's first
  const std::int64_t end = call.past + first + rows;                // of the keys that count
  load_tile<kColumns>(queries, call.q.at(sample, column) + first * call.q.stride, call.q.stride,
                      rows, call.D, call.scale, call.vectors);
  Softmax state;
  float out[kWarpRows][kColumns] = {};
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) state.largest[r] = -FLT_MAX, state.sum[r] = 0;
  for (std::int64_t key = 0; key < end; key += kTile) {
    __syncthreads();  // nobody reads the tiles before
    load_tile<kColumns>(keys, call.k.at(sample, column) + key * call.k.stride, call.k.stride,
                        end - key, call.D, 1.0f, call.vectors);
    load_tile<kColumns>(values, call.v.at(sample, column) + key * call.v.stride, call.v.stride,
                        end - key, call.D, 1.0f, call.vectors);
    __syncthreads();  // all of these are there
    float scores[kWarpRows];
    multiply_rows<kColumns>(queries + warp * kWarpRows * kStride, keys, scores);
    absorb<kColumns>(call, scores, query, key + lane, state, weights, out);
    __syncwarp();  // weights of the whole warp are there
    const int visible = static_cast<int>(std::min(std::int64_t{kTile}, query - key + 1));
    add_weighted<kColumns>(weights, values, {-kTile, visible}, out);
  }
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
    const std::int64_t row = first + warp * kWarpRows + r;
    if (call.lse != nullptr && lane == 0 && row < call.queries)
      call.lse[(sample * call.H + blockIdx.y) * call.queries + row] =
          state.largest[r] + logf(state.sum[r]);
    const float inverse = 1.0f / state.sum[r];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) out[r][k] *= inverse;
  }
  store_rows<kColumns>(out, 1.0f, call.out.at(sample, column), call.out.stride,
                       first + warp * kWarpRows, call.queries, call.D);
}

template <typename T>
void launch_forward(const CudaContext& context, const ForwardCall<T>& call, std::int64_t samples) {
  with_columns(call.D, [&](auto columns) {
    constexpr int kColumns = decltype(columns)::value;
    device::launch(context.stream,
                   {.blocks_x = tiles_of(call.queries),
                    .blocks_y = static_cast<unsigned>(call.H),
                    .blocks_z = static_cast<unsigned>(samples),
                    .threads = kTileThreads,
                    .shared_bytes = (3 * kTileElems<kColumns> + kTile * kTile) * sizeof(float)},
                   forward_kernel<kColumns, T>, call);
  });
}

/// Copies k and v of new positions behind those of the cache. One block a position.
template <typename T>
__global__ void append_kernel(const T* qkv, std::int64_t qkv_stride, T* keys,
                              std::int64_t keys_stride, T* values, std::int64_t values_stride,
                              std::int64_t past, std::int64_t C) {
  const std::int64_t row = blockIdx.x;
  const T* from = qkv + row * qkv_stride + C;
  for (std::int64_t c = threadIdx.x; c < C; c += blockDim.x) {
    keys[(past + row) * keys_stride + c] = from[c];
    values[(past + row) * values_stride + c] = from[C + c];
  }
}

void check_cache(const AttentionCached& args) {
  const ConstMat& qkv = args.qkv_N3C;
  EW_CHECK(args.H > 0 && qkv.rows > 0 && qkv.cols % (3 * args.H) == 0 &&
               qkv.cols / (3 * args.H) <= kLargestHead,
           "{} x {} is not q, k and v of {} heads of at most {}", qkv.rows, qkv.cols, args.H,
           kLargestHead);
  const std::int64_t C = qkv.cols / 3;
  for (const Mat* cache : {&args.keys_TC, &args.values_TC})
    EW_CHECK(args.past >= 0 && args.past + qkv.rows <= cache->rows && cache->cols == C,
             "{} positions after {} in a cache of {} x {} (hidden {})", qkv.rows, args.past,
             cache->rows, cache->cols, C);
  EW_CHECK(args.out_NC.rows == qkv.rows && args.out_NC.cols == C,
           "attention of {} x {} stored as {} x {}", qkv.rows, C, args.out_NC.rows,
           args.out_NC.cols);
}

}  // namespace

void attention_forward(const CudaContext& context, const AttentionForward& args) {
  const Heads heads = heads_of(args);
  with_type(args.qkv_N3C.dtype, [&](auto type) {
    using T = decltype(type);
    const T* q = typed<T>(args.qkv_N3C);
    const std::int64_t stride = args.qkv_N3C.stride;
    const ForwardCall<T> call = {.q = {q, stride, heads.T},
                                 .k = {q + heads.C(), stride, heads.T},
                                 .v = {q + 2 * heads.C(), stride, heads.T},
                                 .out = {typed<T>(args.out_NC), args.out_NC.stride, heads.T},
                                 .lse = args.lse_NH.data(),
                                 .queries = heads.T,
                                 .past = 0,
                                 .H = heads.H,
                                 .D = static_cast<int>(heads.D),
                                 .scale = heads.scale,
                                 .vectors = vectors_fit(heads.D, {args.qkv_N3C}),
                                 .mask = head_mask(context, args.dropout, heads)};
    launch_forward(context, call, heads.B);
  });
}

void attention_cached(const CudaContext& context, const AttentionCached& args) {
  check_cache(args);
  const ConstMat& qkv = args.qkv_N3C;
  const std::int64_t C = qkv.cols / 3, D = C / args.H;
  with_type(qkv.dtype, [&](auto type) {
    using T = decltype(type);
    const Mat &keys = args.keys_TC, &values = args.values_TC;
    device::launch(context.stream, {.blocks_x = static_cast<unsigned>(qkv.rows)}, append_kernel<T>,
                   typed<T>(qkv), qkv.stride, typed<T>(keys), keys.stride, typed<T>(values),
                   values.stride, args.past, C);
    const ForwardCall<T> call = {
        .q = {typed<T>(qkv), qkv.stride, 0},
        .k = {typed<T>(keys), keys.stride, 0},
        .v = {typed<T>(values), values.stride, 0},
        .out = {typed<T>(args.out_NC), args.out_NC.stride, 0},
        .lse = nullptr,
        .queries = qkv.rows,
        .past = args.past,
        .H = args.H,
        .D = static_cast<int>(D),
        .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(D))),
        .vectors = vectors_fit(D, {qkv, keys, values}),
        .mask = {}};
    launch_forward(context, call, 1);
  });
}

}  // namespace elaswave::kernels::cuda
