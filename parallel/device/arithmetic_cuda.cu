#include <cuda_bf16.h>

#include <algorithm>
#include <array>

#include "parallel/device/cuda_arithmetic.h"
#include "parallel/device/cuda_launch.h"

namespace elaswave::device {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kMostBlocks = 132 * 16;  // several waves of an H100's multiprocessors

__device__ longlong2 plus(longlong2 a, longlong2 b) {
  return make_longlong2(a.x + b.x, a.y + b.y);
}
__device__ float4 plus(float4 a, float4 b) {
  return make_float4(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z),
                     __fadd_rn(a.w, b.w));
}

// Whole vectors of 16 bytes, then single elements.
template <typename T, typename Vector>
__global__ void add_kernel(T* into, const T* from, std::int64_t vectors, std::int64_t count) {
  constexpr std::int64_t kLanes = sizeof(Vector) / sizeof(T);
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t self = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  auto* sums = reinterpret_cast<Vector*>(into);
  const auto* addends = reinterpret_cast<const Vector*>(from);
  for (std::int64_t i = self; i < vectors; i += stride) sums[i] = plus(sums[i], addends[i]);
  for (std::int64_t i = vectors * kLanes + self; i < count; i += stride) into[i] += from[i];
}

template <typename T>
__global__ void copy_kernel(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                            std::int64_t rows, std::int64_t cols) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * cols;
       i += stride)
    to[i / cols * to_stride + i % cols] = from[i / cols * from_stride + i % cols];
}

// As many as the parameters of a kernel hold beside the rest (4 KiB).
constexpr int kMostPieces = 120;
struct Copies {
  const std::byte* from[kMostPieces];
  std::byte* to[kMostPieces];
  std::int64_t bytes[kMostPieces];
};
template <typename T>
struct Sums {
  T* into[kMostPieces];
  const T* from[kMostPieces];
  std::int64_t elems[kMostPieces];
};

// A piece for each blockIdx.y. Whole vectors of 16 bytes, then single bytes.
__global__ void copy_pieces_kernel(Copies copies) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t self = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::byte* from = copies.from[blockIdx.y];
  std::byte* to = copies.to[blockIdx.y];
  const std::int64_t bytes = copies.bytes[blockIdx.y], vectors = bytes / 16;
  for (std::int64_t i = self; i < vectors; i += stride)
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  for (std::int64_t i = vectors * 16 + self; i < bytes; i += stride) to[i] = from[i];
}

__device__ std::int64_t plus(std::int64_t a, std::int64_t b) {
  return a + b;
}
__device__ float plus(float a, float b) {
  return __fadd_rn(a, b);
}

template <typename Number>
__device__ void add_addends(Number* into, const Number* from, std::int64_t stride,
                            std::int64_t addends) {
  Number sum = *into;
  for (std::int64_t addend = 0; addend < addends; ++addend) sum = plus(sum, from[addend * stride]);
  *into = sum;
}

// Likewise; each sum is read and written once, however many addends it has.
template <typename T, typename Vector>
__global__ void add_pieces_kernel(Sums<T> sums, std::int64_t addend_stride, std::int64_t addends) {
  constexpr std::int64_t kLanes = sizeof(Vector) / sizeof(T);
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t self = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  T* into = sums.into[blockIdx.y];
  const T* from = sums.from[blockIdx.y];
  const std::int64_t elems = sums.elems[blockIdx.y], vectors = elems / kLanes;
  for (std::int64_t i = self; i < vectors; i += stride)
    add_addends(reinterpret_cast<Vector*>(into) + i, reinterpret_cast<const Vector*>(from) + i,
                addend_stride / kLanes, addends);
  for (std::int64_t i = vectors * kLanes + self; i < elems; i += stride)
    add_addends(into + i, from + i, addend_stride, addends);
}

struct Addend {
  const float* data;
  std::int64_t stride;
};
struct Addends {
  Addend list[kMostAddends];
  int count;
};

__device__ void store(float* at, float value) {
  *at = value;
}
__device__ void store(__nv_bfloat16* at, float value) {
  *at = __float2bfloat16_rn(value);
}

template <typename Out>
__global__ void sum_rows_kernel(Addends addends, Out* out, std::int64_t out_stride,
                                std::int64_t rows, std::int64_t cols) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * cols;
       i += stride) {
    const std::int64_t row = i / cols, col = i % cols;
    float sum = addends.list[0].data[row * addends.list[0].stride + col];
    for (int k = 1; k < addends.count; ++k)
      sum = __fadd_rn(sum, addends.list[k].data[row * addends.list[k].stride + col]);
    store(&out[row * out_stride + col], sum);
  }
}

LaunchShape shape_of(std::int64_t threads_wanted) {
  const std::int64_t blocks = (threads_wanted + kThreads - 1) / kThreads;
  return {.blocks_x = static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, kMostBlocks)),
          .threads = kThreads};
}

template <typename T, typename Vector>
void add_in(CudaStream& stream, std::span<T> into, std::span<const T> from) {
  EW_CHECK(into.size() == from.size(), "{} numbers added to {}", from.size(), into.size());
  if (into.empty()) return;
  const auto address =
      reinterpret_cast<std::uintptr_t>(into.data()) | reinterpret_cast<std::uintptr_t>(from.data());
  const std::int64_t lanes = sizeof(Vector) / sizeof(T), count = std::ssize(into);
  const std::int64_t vectors = address % sizeof(Vector) == 0 ? count / lanes : 0;
  launch(stream, shape_of(std::max(vectors, count - vectors * lanes)), &add_kernel<T, Vector>,
         into.data(), from.data(), vectors, count);
}

bool aligned(const void* one, const void* other) {
  return (reinterpret_cast<std::uintptr_t>(one) | reinterpret_cast<std::uintptr_t>(other)) % 16 ==
         0;
}

// A row of blocks for each piece: four vectors a thread in the longest.
LaunchShape shape_of_pieces(std::size_t pieces, std::int64_t longest_vectors) {
  constexpr std::int64_t kVectorsOfBlock = std::int64_t{kThreads} * 4, kMostOfPiece = 256;
  const std::int64_t blocks = (longest_vectors + kVectorsOfBlock - 1) / kVectorsOfBlock;
  return {.blocks_x = static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, kMostOfPiece)),
          .blocks_y = static_cast<unsigned>(pieces),
          .threads = kThreads};
}

// False, and nothing done, when a vector would not lie as it must.
template <typename T, typename Vector>
bool add_by_vectors(CudaStream& stream, std::span<const PieceSum<T>> pieces, std::int64_t stride,
                    std::int64_t addends) {
  constexpr std::int64_t kLanes = sizeof(Vector) / sizeof(T);
  if (stride % kLanes != 0 || !std::ranges::all_of(pieces, [](const PieceSum<T>& piece) {
        return aligned(piece.into, piece.from);
      }))
    return false;
  while (!pieces.empty()) {
    const auto some = pieces.first(std::min<std::size_t>(pieces.size(), kMostPieces));
    pieces = pieces.subspan(some.size());
    Sums<T> sums{};
    std::int64_t longest = 0;
    for (std::size_t i = 0; i < some.size(); ++i) {
      sums.into[i] = some[i].into;
      sums.from[i] = some[i].from;
      sums.elems[i] = some[i].elems;
      longest = std::max(longest, some[i].elems / kLanes);
    }
    launch(stream, shape_of_pieces(some.size(), longest), &add_pieces_kernel<T, Vector>, sums,
           stride, addends);
  }
  return true;
}

class CudaArithmetic final : public Arithmetic {
 public:
  explicit CudaArithmetic(CudaStream& stream) : stream_(stream) {}
  Device& device() override { return stream_.device(); }

  void zero(std::span<std::byte> bytes) override { stream_.zero(bytes.data(), std::ssize(bytes)); }
  void copy(std::span<const std::byte> from, std::span<std::byte> to) override {
    EW_CHECK(from.size() == to.size(), "{} bytes into {}", from.size(), to.size());
    stream_.copy(to.data(), from.data(), std::ssize(from));
  }
  void add(std::span<std::int64_t> into, std::span<const std::int64_t> from) override {
    add_in<std::int64_t, longlong2>(stream_, into, from);
  }
  void add(std::span<float> into, std::span<const float> from) override {
    add_in<float, float4>(stream_, into, from);
  }

  void copy_rows(const ConstMat& from, const Mat& to) override {
    if (from.data == to.data && (from.stride == to.stride || from.rows <= 1)) return;
    if (from.elems() == 0) return;
    if (from.contiguous() && to.contiguous()) {
      stream_.copy(to.data, from.data, from.elems() * size_bytes(from.dtype));
    } else if (from.dtype == DType::f32) {
      copy_strided<std::uint32_t>(from, to);
    } else {
      copy_strided<std::uint16_t>(from, to);
    }
  }

  void sum_rows(std::span<const ConstMat> addends, const Mat& out) override {
    EW_CHECK(!addends.empty() && addends.size() <= kMostAddends, "{} addends, {} have a kernel",
             addends.size(), kMostAddends);
    if (out.elems() == 0) return;
    Addends list{.list = {}, .count = static_cast<int>(addends.size())};
    for (std::size_t i = 0; i < addends.size(); ++i)
      list.list[i] = {reinterpret_cast<const float*>(addends[i].data), addends[i].stride};
    if (out.dtype == DType::f32)
      launch(stream_, shape_of(out.elems()), &sum_rows_kernel<float>, list,
             reinterpret_cast<float*>(out.data), out.stride, out.rows, out.cols);
    else
      launch(stream_, shape_of(out.elems()), &sum_rows_kernel<__nv_bfloat16>, list,
             reinterpret_cast<__nv_bfloat16*>(out.data), out.stride, out.rows, out.cols);
  }

  void copy_pieces(std::span<const PieceCopy> pieces) override {
    if (!std::ranges::all_of(pieces,
                             [](const PieceCopy& piece) { return aligned(piece.from, piece.to); }))
      return Arithmetic::copy_pieces(pieces);
    while (!pieces.empty()) {
      const auto some = pieces.first(std::min<std::size_t>(pieces.size(), kMostPieces));
      pieces = pieces.subspan(some.size());
      Copies copies{};
      std::int64_t longest = 0;
      for (std::size_t i = 0; i < some.size(); ++i) {
        copies.from[i] = some[i].from;
        copies.to[i] = some[i].to;
        copies.bytes[i] = some[i].bytes;
        longest = std::max(longest, some[i].bytes / 16);
      }
      launch(stream_, shape_of_pieces(some.size(), longest), &copy_pieces_kernel, copies);
    }
  }
  void add_pieces(std::span<const PieceSum<std::int64_t>> pieces, std::int64_t stride,
                  std::int64_t addends) override {
    if (!add_by_vectors<std::int64_t, longlong2>(stream_, pieces, stride, addends))
      Arithmetic::add_pieces(pieces, stride, addends);
  }
  void add_pieces(std::span<const PieceSum<float>> pieces, std::int64_t stride,
                  std::int64_t addends) override {
    if (!add_by_vectors<float, float4>(stream_, pieces, stride, addends))
      Arithmetic::add_pieces(pieces, stride, addends);
  }

 private:
  template <typename T>
  void copy_strided(const ConstMat& from, const Mat& to) {
    launch(stream_, shape_of(from.elems()), &copy_kernel<T>, reinterpret_cast<const T*>(from.data),
           from.stride, reinterpret_cast<T*>(to.data), to.stride, from.rows, from.cols);
  }

  CudaStream& stream_;
};

}  // namespace

std::unique_ptr<Arithmetic> make_cuda_arithmetic(CudaStream& stream) {
  return std::make_unique<CudaArithmetic>(stream);
}

}  // namespace elaswave::device
