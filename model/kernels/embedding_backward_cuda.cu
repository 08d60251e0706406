// The gradients of the embedding's tables: sums over rows in ascending order. Rows are first
// grouped by token id, each group then summed by threads of their own.
#include <algorithm>
#include <bit>

#include "model/kernels/cuda_device.h"
#include "model/kernels/cuda_kernels.h"
#include "model/kernels/cuda_rows.h"
#include "parallel/device/cuda_device.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {

namespace {

/// Rows of the token table: those of the ids [begin, begin + V).
struct TableSlice {
  std::int64_t begin = 0, V = 0;
  __device__ bool has(std::int32_t id) const { return id >= begin && id < begin + V; }
};

// ---- Rows grouped by token id. Places within `found` are handed out by atomics, so in any order;
// `sorted` has the rows of a group ascending, and what comes of it does not depend on that order.
// Where a group lies does, but nothing is computed from that.

struct Group {
  std::int32_t row_of_table, first, count;
};
struct Grouping {
  unsigned long long* totals;  // groups << 32 | rows
  int* counts_V;               // rows of an id
  int* next_V;                 // the next of them goes before it: places are taken from the end
  Group* groups;               // min(N, V)
  std::int32_t *found_N, *sorted_N;
  std::int32_t N, most_groups;
};

constexpr unsigned kGroupThreads = 128;
constexpr int kGroupWarps = static_cast<int>(kGroupThreads) / kWarp;
constexpr int kWindowWords = 2048;  // of 32 rows: 8 KiB of shared memory

__global__ void count_ids(const std::int32_t* ids, TableSlice slice, Grouping out) {
  const auto row = static_cast<std::int32_t>(blockIdx.x * kGroupThreads + threadIdx.x);
  if (row < out.N && slice.has(ids[row])) atomicAdd(&out.counts_V[ids[row] - slice.begin], 1);
}

__global__ void place_groups(std::int32_t V, Grouping out) {
  const auto id = static_cast<std::int32_t>(blockIdx.x * kGroupThreads + threadIdx.x);
  if (id >= V || out.counts_V[id] == 0) return;
  const int count = out.counts_V[id];
  const unsigned long long before =
      atomicAdd(out.totals, 1ull << 32 | static_cast<unsigned>(count));
  const auto first = static_cast<std::int32_t>(before & 0xFFFFFFFFu);
  out.groups[before >> 32] = {id, first, count};
  out.next_V[id] = first + count;
}

__global__ void find_rows(const std::int32_t* ids, TableSlice slice, Grouping out) {
  const auto row = static_cast<std::int32_t>(blockIdx.x * kGroupThreads + threadIdx.x);
  if (row >= out.N || !slice.has(ids[row])) return;
  out.found_N[atomicAdd(&out.next_V[ids[row] - slice.begin], -1) - 1] = row;
}

/// Sum of the values of the threads before this one; `total` receives that of all. `shared` holds
/// a value for each warp.
__device__ int sum_before(int value, int* shared, int& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  int through = value;  // the lanes up to this one
#pragma unroll
  for (unsigned reach = 1; reach < kWarp; reach *= 2) {
    const int left = __shfl_up_sync(kFullWarp, through, reach);
    if (lane >= static_cast<int>(reach)) through += left;
  }
  if (lane == kWarp - 1) shared[warp] = through;
  __syncthreads();  // every warp's sum is there
  int before = through - value;
  total = 0;
  for (int w = 0; w < kGroupWarps; ++w) {
    if (w < warp) before += shared[w];
    total += shared[w];
  }
  return before;
}

/// One group a block. Its rows become bits of a window of rows, and bits are read in order. Thread
/// t owns `own` consecutive words, so that its rows come after those of the threads before it.
__global__ void sort_groups(Grouping out) {
  __shared__ unsigned window[kWindowWords];
  __shared__ int sums[kGroupWarps];
  if (blockIdx.x >= (*out.totals >> 32)) return;
  const Group group = out.groups[blockIdx.x];
  const auto thread = static_cast<int>(threadIdx.x);
  constexpr int kThreads = static_cast<int>(kGroupThreads), kMostOwn = kWindowWords / kThreads;
  if (group.count == 1) {
    if (thread == 0) out.sorted_N[group.first] = out.found_N[group.first];
    return;
  }
  const int needed = (out.N + 32 * kThreads - 1) / (32 * kThreads);
  const int own = needed < kMostOwn ? needed : kMostOwn;
  const std::int64_t window_rows = std::int64_t{own} * kThreads * 32;
  int done = group.first;
  for (std::int64_t base = 0; base < out.N; base += window_rows) {
    for (int w = thread; w < own * kThreads; w += kThreads) window[w] = 0;
    __syncthreads();  // the window is empty
    for (int i = thread; i < group.count; i += kThreads) {
      const std::int64_t bit = out.found_N[group.first + i] - base;
      if (bit >= 0 && bit < window_rows) atomicOr(&window[bit / 32], 1u << (bit % 32));
    }
    __syncthreads();  // the window is full
    int bits = 0, total = 0;
    for (int w = 0; w < own; ++w) bits += std::popcount(window[thread * own + w]);
    int to = done + sum_before(bits, sums, total);
    for (int w = 0; w < own; ++w)
      for (unsigned word = window[thread * own + w]; word != 0; word &= word - 1)
        out.sorted_N[to++] =
            static_cast<std::int32_t>(base + (thread * own + w) * 32 + std::countr_zero(word));
    done += total;
    __syncthreads();  // read before the next window is emptied
  }
}

Grouping group_by_id(const CudaContext& context, std::span<const std::int32_t> ids_N,
                     const TableSlice& slice) {
  const std::int64_t N = std::ssize(ids_N), V = slice.V, most_groups = std::min(N, V);
  EW_CHECK(N < std::int64_t{1} << 30 && V < std::int64_t{1} << 30, "{} tokens, {} ids", N, V);
  const std::int64_t ints = 2 + 2 * V + 3 * most_groups + 2 * N;
  auto* memory = context.scratch.device<std::int32_t>(ScratchUse::tokens, ints);
  std::int32_t* counts = memory + 2;
  auto* groups = reinterpret_cast<Group*>(counts + 2 * V);
  auto* found = reinterpret_cast<std::int32_t*>(groups + most_groups);
  const Grouping out = {reinterpret_cast<unsigned long long*>(memory),
                        counts,
                        counts + V,
                        groups,
                        found,
                        found + N,
                        static_cast<std::int32_t>(N),
                        static_cast<std::int32_t>(most_groups)};
  context.stream.zero(memory, (2 + V) * 4);  // totals and counts
  const auto launch = [&](std::int64_t threads, auto kernel, auto... args) {
    if (threads == 0) return;
    device::launch(context.stream,
                   {.blocks_x = static_cast<unsigned>(ceil_div(threads, kGroupThreads)),
                    .threads = kGroupThreads},
                   kernel, args...);
  };
  launch(N, count_ids, ids_N.data(), slice, out);
  launch(V, place_groups, static_cast<std::int32_t>(V), out);
  launch(N, find_rows, ids_N.data(), slice, out);
  launch(most_groups * kGroupThreads, sort_groups, out);
  return out;
}

// ---- Backward

constexpr unsigned kSumThreads = 128;  // one column each

/// Of a group of rows, one thread a column: the sum in ascending order, rounded once.
template <typename T>
__global__ void sum_groups(Rows<const T> grad, std::int32_t C, Grouping grouping, DeviceSink sink) {
  if (blockIdx.x >= (*grouping.totals >> 32)) return;
  const auto col = static_cast<std::int32_t>(blockIdx.y * kSumThreads + threadIdx.x);
  if (col >= C) return;
  const Group group = grouping.groups[blockIdx.x];
  const std::int32_t* rows = grouping.sorted_N + group.first;
  float sum[1];
  load(grad.at(rows[0], static_cast<std::uint32_t>(col)), sum);
#pragma unroll 16
  for (std::int32_t i = 1; i < group.count; ++i) {  // frequent ids: many loads under way
    float x[1];
    load(grad.at(rows[i], static_cast<std::uint32_t>(col)), x);
    sum[0] = __fadd_rn(sum[0], x[0]);
  }
  sink_add(sink, std::int64_t{group.row_of_table} * C + col, sum);
}

/// Rows of the table whose id does not occur get zeros when the sums start here.
template <int kWidth>
struct SkipAbsent {
  static constexpr int kElems = kWidth;
  const int* counts_V;
  std::int64_t C;
  DeviceSink sink;

  struct Loaded {
    bool absent;
  };
  __device__ Loaded load(const Place& place) const { return {counts_V[place.row] == 0}; }
  __device__ void store(const Place& place, const Loaded& loaded) const {
    if (loaded.absent) sink_skip<kWidth>(sink, place.row * C + place.col);
  }
};

template <typename Body>
void with_storage(DType dtype, const Body& body) {
  dtype == DType::f32 ? body.template operator()<float>() : body.template operator()<bf16>();
}

void sum_by_token(const CudaContext& context, std::span<const std::int32_t> ids_N,
                  const ConstMat& dx_NC, const TableSlice& slice, const GradSink& sums) {
  const std::int64_t C = dx_NC.cols;
  const DeviceSink sink = device_sink(sums);
  const Grouping grouping = group_by_id(context, ids_N, slice);
  if (sink.overwrite) {
    if (vectors_fit(sink, C))
      launch_all_rows(context, slice.V, C, SkipAbsent<4>{grouping.counts_V, C, sink});
    else
      launch_all_rows(context, slice.V, C, SkipAbsent<1>{grouping.counts_V, C, sink});
  }
  if (grouping.most_groups == 0) return;
  const device::LaunchShape shape = {.blocks_x = static_cast<unsigned>(grouping.most_groups),
                                     .blocks_y = static_cast<unsigned>(ceil_div(C, kSumThreads)),
                                     .threads = kSumThreads};
  with_storage(dx_NC.dtype, [&]<typename T>() {
    device::launch(context.stream, shape, sum_groups<T>, rows_of<T>(dx_NC),
                   static_cast<std::int32_t>(C), grouping, sink);
  });
}

/// Of one position of the table a block, one thread a column; the first of its rows is `first`
/// positions on from the row 0 of dx.
template <typename T>
__global__ void sum_positions(Rows<const T> grad, std::int64_t N, std::int64_t C,
                              std::int64_t T_rows, std::int64_t phase, DeviceSink sink) {
  const std::int64_t col = std::int64_t{blockIdx.y} * kSumThreads + threadIdx.x;
  if (col >= C) return;
  const std::int64_t t = blockIdx.x;
  std::int64_t row = t >= phase ? t - phase : t + T_rows - phase;  // the first of t here
  if (t >= T_rows || row >= N) {
    sink_skip<1>(sink, t * C + col);
    return;
  }
  float sum[1];
  load(grad.at(row, static_cast<std::uint32_t>(col)), sum);
#pragma unroll 8
  for (row += T_rows; row < N; row += T_rows) {
    float x[1];
    load(grad.at(row, static_cast<std::uint32_t>(col)), x);
    sum[0] = __fadd_rn(sum[0], x[0]);
  }
  sink_add(sink, t * C + col, sum);
}

void sum_by_position(const CudaContext& context, const ConstMat& dx_NC, std::int64_t T,
                     std::int64_t row_begin, const GradSink& sums) {
  const std::int64_t C = dx_NC.cols;
  if (sums.elems == 0) return;
  const device::LaunchShape shape = {.blocks_x = static_cast<unsigned>(sums.elems / C),
                                     .blocks_y = static_cast<unsigned>(ceil_div(C, kSumThreads)),
                                     .threads = kSumThreads};
  with_storage(dx_NC.dtype, [&]<typename Storage>() {
    device::launch(context.stream, shape, sum_positions<Storage>, rows_of<Storage>(dx_NC),
                   dx_NC.rows, C, T, row_begin % T, device_sink(sums));
  });
}

}  // namespace

void embedding_backward(const CudaContext& context, const EmbeddingBackward& args) {
  const ConstMat& dx = args.dx_NC;
  const std::int64_t C = dx.cols;
  EW_CHECK(args.T > 0 && dx.rows % args.T == 0 && std::ssize(args.ids_N) == dx.rows,
           "{} ids and {} rows for samples of {}", args.ids_N.size(), dx.rows, args.T);
  EW_CHECK(args.dwpe_TC.elems / C >= args.T, "sums of {} elements for {} positions of {}",
           args.dwpe_TC.elems, args.T, C);
  ConstMat grad = dx;
  if (args.dropout.rate != 0) {  // in the storage type, as the operations on slices leave it
    auto* memory =
        context.scratch.device<std::byte>(ScratchUse::gradient, dx.elems() * size_bytes(dx.dtype));
    const Mat masked = {memory, dx.dtype, dx.rows, C, C};
    residual_backward(context, {dx, args.T, args.dropout, masked});
    grad = masked;
  }
  sum_by_token(context, args.ids_N, grad, {0, args.dwte_VC.elems / C}, args.dwte_VC);
  sum_by_position(context, grad, args.T, 0, args.dwpe_TC);
}

void embedding_lookup_backward(const CudaContext& context, const EmbeddingLookupBackward& args) {
  const ConstMat& dx = args.dx_NC;
  EW_CHECK(std::ssize(args.ids_N) == dx.rows && args.vocab_begin >= 0,
           "{} ids, from token {} on, for {} rows", args.ids_N.size(), args.vocab_begin, dx.rows);
  sum_by_token(context, args.ids_N, dx, {args.vocab_begin, args.dwte_VC.elems / dx.cols},
               args.dwte_VC);
}

void embedding_positions_backward(const CudaContext& context,
                                  const EmbeddingPositionsBackward& args) {
  const std::int64_t rows = args.dwpe_TC.elems / args.dx_NC.cols;
  EW_CHECK(rows >= args.T, "sums of {} positions for samples of {}", rows, args.T);
  residual_backward(context, {args.dx_NC, args.T, args.dropout, args.masked_NC, args.row_begin});
  sum_by_position(context, args.masked_NC, args.T, args.row_begin, args.dwpe_TC);
}

}  // namespace elaswave::kernels::cuda
