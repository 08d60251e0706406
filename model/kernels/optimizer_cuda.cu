// Operations on the optimizer's blocks: one launch for a whole list, whose entries travel to the
// device ahead of it.
#include <algorithm>

#include "io/base/hash.h"
#include "model/kernels/cuda_device.h"
#include "model/kernels/cuda_kernels.h"
#include "parallel/device/cuda_device.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::kernels::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kPieceElems = 4096;  // a thread block's share of a list's block
constexpr int kWidth = 4;                   // f32 of 16 bytes

bool aligned(std::initializer_list<const void*> pointers, std::uintptr_t bytes) {
  return std::all_of(pointers.begin(), pointers.end(), [bytes](const void* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
  });
}

/// One thread block for each kPieceElems of each of `count` blocks of at most `largest` elements.
device::LaunchShape pieces_of_blocks(std::int64_t count, std::int64_t largest) {
  EW_CHECK(largest <= std::int64_t{1} << 27, "a block of {} elements", largest);  // 2^15 pieces
  return {.blocks_x = static_cast<unsigned>(count),
          .blocks_y = static_cast<unsigned>(ceil_div(largest, kPieceElems)),
          .threads = kThreads};
}

template <int kElems>
struct Elems {};

/// body(i, Elems<n>) for the elements of this thread block's piece of a block, n at a time.
template <typename Body>
__device__ void sweep_piece(int elems, bool vectors, const Body& body) {
  const int first = static_cast<int>(blockIdx.y) * static_cast<int>(kPieceElems);
  if (first >= elems) return;  // the list has larger blocks
  const int end = first + static_cast<int>(kPieceElems);
  const int last = elems < end ? elems : end;
  const int thread = static_cast<int>(threadIdx.x);
  const int single = vectors ? last - last % kWidth : first;  // pieces begin at multiples of kWidth
  for (int i = first + thread * kWidth; i < single; i += static_cast<int>(kThreads) * kWidth)
    body(i, Elems<kWidth>{});
  for (int i = single + thread; i < last; i += static_cast<int>(kThreads)) body(i, Elems<1>{});
}

// ---- AdamW

struct UpdateBlock {
  float *master, *moment1, *moment2;
  const float* grad;
  float* working_f32;  // at most one of the two
  bf16* working_bf16;
  AdamWScalars scalars;
  std::int32_t elems;
  bool vectors;
};

UpdateBlock update_block(const AdamW& block) {
  const std::size_t size = block.master.size();
  EW_CHECK(
      block.moment1.size() == size && block.moment2.size() == size && block.grad.size() == size,
      "{} weights, {} and {} moments, {} gradients", size, block.moment1.size(),
      block.moment2.size(), block.grad.size());
  const bool wide = block.working_dtype == DType::f32;
  return {
      .master = block.master.data(),
      .moment1 = block.moment1.data(),
      .moment2 = block.moment2.data(),
      .grad = block.grad.data(),
      .working_f32 = wide ? reinterpret_cast<float*>(block.working) : nullptr,
      .working_bf16 = wide ? nullptr : reinterpret_cast<bf16*>(block.working),
      .scalars = block.scalars,
      .elems = static_cast<std::int32_t>(size),
      .vectors = aligned({block.master.data(), block.moment1.data(), block.moment2.data(),
                          block.grad.data()},
                         16) &&
                 aligned({block.working}, wide ? 16 : 8),
  };
}

/// adamw_formula.h, operation by operation.
__device__ void update(const AdamWScalars& s, float& w, float& m, float& v, float grad) {
  const float g = __fmul_rn(grad, s.clip);
  m = __fmaf_rn(s.beta1, m, __fmul_rn(__fsub_rn(1.0f, s.beta1), g));
  v = __fmaf_rn(s.beta2, v, __fmul_rn(__fsub_rn(1.0f, s.beta2), __fmul_rn(g, g)));
  const float d = __fadd_rn(__fsqrt_rn(__fmul_rn(v, s.correction2)), s.epsilon);
  const float u = __fmaf_rn(s.weight_decay, w, __fdiv_rn(__fmul_rn(m, s.correction1), d));
  w = __fmaf_rn(-s.lr, u, w);
}

__global__ void update_blocks(const UpdateBlock* blocks) {
  const UpdateBlock block = blocks[blockIdx.x];
  sweep_piece(block.elems, block.vectors, [&]<int kElems>(int i, Elems<kElems>) {
    float w[kElems], m[kElems], v[kElems], g[kElems];
    load(block.master + i, w);
    load(block.moment1 + i, m);
    load(block.moment2 + i, v);
    load(block.grad + i, g);
#pragma unroll
    for (int k = 0; k < kElems; ++k) update(block.scalars, w[k], m[k], v[k], g[k]);
    store(block.moment1 + i, m);
    store(block.moment2 + i, v);
    store(block.master + i, w);
    if (block.working_f32 != nullptr) store(block.working_f32 + i, w);
    if (block.working_bf16 != nullptr) store(block.working_bf16 + i, w);
  });
}

// ---- Mean gradients

struct MeanBlock {
  const std::int64_t* exact;  // or
  const float* fast;
  float* mean;
  double scale;
  std::int32_t elems;
  bool vectors;
};

MeanBlock mean_block(const MeanGradient& block) {
  const bool exact = block.fast_sums.empty();
  EW_CHECK((exact ? block.exact_sums.size() : block.fast_sums.size()) == block.mean.size(),
           "{} exact and {} fast sums for {} means", block.exact_sums.size(),
           block.fast_sums.size(), block.mean.size());
  return {
      .exact = exact ? block.exact_sums.data() : nullptr,
      .fast = exact ? nullptr : block.fast_sums.data(),
      .mean = block.mean.data(),
      .scale = block.scale,
      .elems = static_cast<std::int32_t>(block.mean.size()),
      .vectors = aligned({block.exact_sums.data(), block.fast_sums.data(), block.mean.data()}, 16)};
}

template <int kElems>
__device__ void load_sums(const std::int64_t* p, double (&x)[kElems]) {
  if constexpr (kElems == 1) {
    x[0] = static_cast<double>(*p);
  } else {
#pragma unroll
    for (int k = 0; k < kElems; k += 2) {
      const longlong2 pair = *reinterpret_cast<const longlong2*>(p + k);
      x[k] = static_cast<double>(pair.x), x[k + 1] = static_cast<double>(pair.y);
    }
  }
}

__global__ void mean_blocks(const MeanBlock* blocks) {
  const MeanBlock block = blocks[blockIdx.x];
  sweep_piece(block.elems, block.vectors, [&]<int kElems>(int i, Elems<kElems>) {
    double sums[kElems];
    if (block.exact != nullptr) {
      load_sums(block.exact + i, sums);
    } else {
      float narrow[kElems];
      load(block.fast + i, narrow);
#pragma unroll
      for (int k = 0; k < kElems; ++k) sums[k] = narrow[k];
    }
    float mean[kElems];
#pragma unroll
    for (int k = 0; k < kElems; ++k) mean[k] = __double2float_rn(__dmul_rn(sums[k], block.scale));
    store(block.mean + i, mean);
  });
}

// ---- Working weights

struct StoreBlock {
  const float* master;
  float* f32;  // one of the two
  bf16* narrow;
  std::int32_t elems;
  bool vectors;
};

StoreBlock store_block(const StoreWeights& block) {
  const bool wide = block.dtype == DType::f32;
  return {.master = block.master.data(),
          .f32 = wide ? reinterpret_cast<float*>(block.stored) : nullptr,
          .narrow = wide ? nullptr : reinterpret_cast<bf16*>(block.stored),
          .elems = static_cast<std::int32_t>(block.master.size()),
          .vectors = aligned({block.master.data()}, 16) && aligned({block.stored}, wide ? 16 : 8)};
}

__global__ void store_blocks(const StoreBlock* blocks) {
  const StoreBlock block = blocks[blockIdx.x];
  sweep_piece(block.elems, block.vectors, [&]<int kElems>(int i, Elems<kElems>) {
    float w[kElems];
    load(block.master + i, w);
    if (block.f32 != nullptr)
      store(block.f32 + i, w);
    else
      store(block.narrow + i, w);
  });
}

// ---- Sums over ranges. A warp sums a piece of a range, then a thread a range's pieces, in order.

constexpr std::int64_t kReductionPiece = 65536;  // elements; part of the order of sum_squares
constexpr unsigned kReductionThreads = 128;

struct Piece {
  const float* at;
  std::uint64_t key;  // of the first word: the range's key and the word's place
  std::int64_t elems;
};

struct SumSquares {
  using Value = double;
  /// Chain l sums the squares of elements l, l + 32, ... (a square is exact in double); then chains
  /// are halved: l += l + 16, l += l + 8, ... The CPU's order.
  static __device__ double of(const Piece& piece, int lane) {
    double chain = 0;
#pragma unroll 16
    for (std::int64_t i = lane; i < piece.elems; i += kWarp) {
      const auto x = static_cast<double>(piece.at[i]);
      chain = __dadd_rn(chain, __dmul_rn(x, x));
    }
    return chain;
  }
};

struct Digest {
  using Value = unsigned long long;
  static __device__ unsigned long long of(const Piece& piece, int lane) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(piece.at);
    unsigned long long sum = 0;
    std::uint64_t key = piece.key + static_cast<std::uint64_t>(lane) * kGolden64;
#pragma unroll 8
    for (std::int64_t i = lane; i < piece.elems; i += kWarp) {
      sum += mix64(mix64(key) ^ words[i]);
      key += kWarp * kGolden64;
    }
    return sum;
  }
};

template <typename Reduction>
__global__ void reduce_pieces(const Piece* pieces, std::int64_t count,
                              typename Reduction::Value* partial) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t index = (std::int64_t{blockIdx.x} * kReductionThreads + threadIdx.x) / kWarp;
  if (index >= count) return;  // whole warps
  typename Reduction::Value sum = Reduction::of(pieces[index], lane);
#pragma unroll
  for (int half = kWarp / 2; half > 0; half /= 2)
    sum += __shfl_down_sync(kFullWarp, sum, static_cast<unsigned>(half));
  if (lane == 0) partial[index] = sum;
}

/// The pieces of range i are ends[i - 1] .. ends[i] - 1.
template <typename Value>
__global__ void add_pieces(const Value* partial, const std::int64_t* ends, std::int64_t count,
                           Value* out) {
  const std::int64_t range = std::int64_t{blockIdx.x} * kReductionThreads + threadIdx.x;
  if (range >= count) return;
  Value total = 0;
  for (std::int64_t p = range == 0 ? 0 : ends[range - 1]; p < ends[range]; ++p) total += partial[p];
  out[range] = total;
}

/// Pieces one after another, as an upload asks for them.
class Pieces {
 public:
  Pieces(std::span<const std::span<const float>> ranges, std::span<const std::uint64_t> keys)
      : ranges_(ranges), keys_(keys) {}
  Piece next() {
    while (first_ >= std::ssize(ranges_[range_])) ++range_, first_ = 0;
    const std::span<const float> range = ranges_[range_];
    const std::uint64_t key = keys_.empty() ? 0 : keys_[range_];
    const Piece piece = {range.data() + first_,
                         key + static_cast<std::uint64_t>(first_) * kGolden64,
                         std::min(kReductionPiece, std::ssize(range) - first_)};
    first_ += kReductionPiece;
    return piece;
  }

 private:
  std::span<const std::span<const float>> ranges_;
  std::span<const std::uint64_t> keys_;
  std::size_t range_ = 0;
  std::int64_t first_ = 0;
};

template <typename Reduction>
void reduce_ranges(const CudaContext& context, std::span<const std::span<const float>> ranges,
                   std::span<const std::uint64_t> keys, std::span<typename Reduction::Value> out) {
  using Value = typename Reduction::Value;
  const std::int64_t count = std::ssize(ranges);
  if (count == 0) return;
  std::int64_t total = 0;
  const auto* ends =
      context.scratch.upload<std::int64_t>(ScratchUse::list_ends, count, [&](std::int64_t i) {
        return total += ceil_div(std::ssize(ranges[static_cast<std::size_t>(i)]), kReductionPiece);
      });
  Pieces source(ranges, keys);
  const auto* pieces = context.scratch.upload<Piece>(ScratchUse::list, total,
                                                     [&](std::int64_t) { return source.next(); });
  auto* partial =
      context.scratch.device<Value>(ScratchUse::partial, std::max<std::int64_t>(1, total));
  auto* results = context.scratch.device<Value>(ScratchUse::results, count);
  if (total > 0)
    device::launch(context.stream,
                   {.blocks_x = static_cast<unsigned>(ceil_div(total, kReductionThreads / kWarp)),
                    .threads = kReductionThreads},
                   reduce_pieces<Reduction>, pieces, total, partial);
  device::launch(context.stream,
                 {.blocks_x = static_cast<unsigned>(ceil_div(count, kReductionThreads)),
                  .threads = kReductionThreads},
                 add_pieces<Value>, partial, ends, count, results);
  context.stream.copy(out.data(), results, count * static_cast<std::int64_t>(sizeof(Value)));
}

}  // namespace

void adamw(const CudaContext& context, std::span<const AdamW> blocks) {
  std::int64_t largest = 0;
  for (const AdamW& block : blocks) largest = std::max(largest, std::ssize(block.master));
  if (largest == 0) return;
  const device::LaunchShape shape = pieces_of_blocks(std::ssize(blocks), largest);
  const auto* list = context.scratch.upload<UpdateBlock>(
      ScratchUse::list, std::ssize(blocks),
      [&](std::int64_t i) { return update_block(blocks[static_cast<std::size_t>(i)]); });
  device::launch(context.stream, shape, update_blocks, list);
}

void mean_gradient(const CudaContext& context, std::span<const MeanGradient> blocks) {
  std::int64_t largest = 0;
  for (const MeanGradient& block : blocks) largest = std::max(largest, std::ssize(block.mean));
  if (largest == 0) return;
  const device::LaunchShape shape = pieces_of_blocks(std::ssize(blocks), largest);
  const auto* list = context.scratch.upload<MeanBlock>(
      ScratchUse::list, std::ssize(blocks),
      [&](std::int64_t i) { return mean_block(blocks[static_cast<std::size_t>(i)]); });
  device::launch(context.stream, shape, mean_blocks, list);
}

void store_weights(const CudaContext& context, std::span<const StoreWeights> blocks) {
  std::int64_t largest = 0;
  for (const StoreWeights& block : blocks) largest = std::max(largest, std::ssize(block.master));
  if (largest == 0) return;
  const device::LaunchShape shape = pieces_of_blocks(std::ssize(blocks), largest);
  const auto* list = context.scratch.upload<StoreBlock>(
      ScratchUse::list, std::ssize(blocks),
      [&](std::int64_t i) { return store_block(blocks[static_cast<std::size_t>(i)]); });
  device::launch(context.stream, shape, store_blocks, list);
}

void reserve_lists(const CudaContext& context, std::span<const std::int64_t> block_elems) {
  constexpr std::int64_t kKinds = 3;  // ranges of a block that are digested
  const std::int64_t blocks = std::ssize(block_elems), ranges = kKinds * blocks;
  std::int64_t pieces = 0;
  for (const std::int64_t elems : block_elems) pieces += kKinds * ceil_div(elems, kReductionPiece);
  const auto bytes = [](std::int64_t count, std::size_t size) {
    return count * static_cast<std::int64_t>(size);
  };
  context.scratch.reserve_list(
      ScratchUse::list,
      std::max({bytes(blocks, sizeof(UpdateBlock)), bytes(blocks, sizeof(MeanBlock)),
                bytes(blocks, sizeof(StoreBlock)), bytes(pieces, sizeof(Piece))}));
  context.scratch.reserve_list(ScratchUse::list_ends, bytes(ranges, sizeof(std::int64_t)));
  context.scratch.device<double>(ScratchUse::partial, pieces);
  context.scratch.device<double>(ScratchUse::results, ranges);
}

void sum_squares(const CudaContext& context, std::span<const std::span<const float>> ranges,
                 std::span<double> out) {
  EW_CHECK(out.size() == ranges.size(), "{} results for {} ranges", out.size(), ranges.size());
  reduce_ranges<SumSquares>(context, ranges, {}, out);
}

void digest(const CudaContext& context, std::span<const std::span<const float>> ranges,
            std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  EW_CHECK(out.size() == ranges.size() && keys.size() == ranges.size(),
           "{} keys and {} results for {} ranges", keys.size(), out.size(), ranges.size());
  reduce_ranges<Digest>(context, ranges, keys,
                        {reinterpret_cast<unsigned long long*>(out.data()), out.size()});
}

}  // namespace elaswave::kernels::cuda
