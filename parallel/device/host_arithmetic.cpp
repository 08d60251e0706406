#include <algorithm>
#include <cstring>
#include <type_traits>

#include "io/base/bf16.h"
#include "parallel/device/arithmetic.h"

namespace elaswave::device {
namespace {

// Columns summed at a time: the running sums of one block stay in the nearest cache.
constexpr std::int64_t kSumBlock = 512;

template <typename T>
void add_in(std::span<T> into, std::span<const T> from) {
  EW_CHECK(into.size() == from.size(), "{} numbers added to {}", from.size(), into.size());
  for (std::size_t i = 0; i < into.size(); ++i) into[i] += from[i];
}

template <typename T>
void add_one_by_one(Arithmetic& arithmetic, std::span<const PieceSum<T>> pieces,
                    std::int64_t stride, std::int64_t addends) {
  for (const PieceSum<T>& piece : pieces) {
    const auto count = static_cast<std::size_t>(piece.elems);
    for (std::int64_t addend = 0; addend < addends; ++addend)
      arithmetic.add(std::span(piece.into, count), std::span(piece.from + addend * stride, count));
  }
}

template <typename Out>
void store(const float* sums, std::int64_t count, Out* out) {
  for (std::int64_t c = 0; c < count; ++c) {
    if constexpr (std::is_same_v<Out, bf16>)
      out[c] = to_bf16(sums[c]);
    else
      out[c] = sums[c];
  }
}

/// An addend may be `out`: each block is read whole before it is written.
template <typename Out>
void sum_row(std::span<const ConstMat> addends, std::int64_t row, std::int64_t cols, Out* out) {
  float sums[kSumBlock];
  for (std::int64_t begin = 0; begin < cols; begin += kSumBlock) {
    const std::int64_t count = std::min(kSumBlock, cols - begin);
    std::copy_n(reinterpret_cast<const float*>(addends[0].row(row)) + begin, count, sums);
    for (const ConstMat& addend : addends.subspan(1)) {
      const float* from = reinterpret_cast<const float*>(addend.row(row)) + begin;
      for (std::int64_t c = 0; c < count; ++c) sums[c] += from[c];
    }
    store(sums, count, out + begin);
  }
}

class HostArithmetic final : public Arithmetic {
 public:
  Device& device() override { return host_device(); }
  void zero(std::span<std::byte> bytes) override { std::ranges::fill(bytes, std::byte{0}); }
  void copy(std::span<const std::byte> from, std::span<std::byte> to) override {
    EW_CHECK(from.size() == to.size(), "{} bytes into {}", from.size(), to.size());
    if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
  }
  void add(std::span<std::int64_t> into, std::span<const std::int64_t> from) override {
    add_in(into, from);
  }
  void add(std::span<float> into, std::span<const float> from) override { add_in(into, from); }

  void copy_rows(const ConstMat& from, const Mat& to) override {
    if (from.data == to.data && (from.stride == to.stride || from.rows <= 1)) return;
    const auto row_bytes = static_cast<std::size_t>(from.cols * size_bytes(from.dtype));
    for (std::int64_t r = 0; r < from.rows; ++r) std::memcpy(to.row(r), from.row(r), row_bytes);
  }
  void sum_rows(std::span<const ConstMat> addends, const Mat& out) override {
    for (std::int64_t r = 0; r < out.rows; ++r) {
      if (out.dtype == DType::f32)
        sum_row(addends, r, out.cols, reinterpret_cast<float*>(out.row(r)));
      else
        sum_row(addends, r, out.cols, reinterpret_cast<bf16*>(out.row(r)));
    }
  }
};

}  // namespace

void Arithmetic::copy_pieces(std::span<const PieceCopy> pieces) {
  for (const PieceCopy& piece : pieces) {
    const auto bytes = static_cast<std::size_t>(piece.bytes);
    copy({piece.from, bytes}, {piece.to, bytes});
  }
}
void Arithmetic::add_pieces(std::span<const PieceSum<std::int64_t>> pieces, std::int64_t stride,
                            std::int64_t addends) {
  add_one_by_one(*this, pieces, stride, addends);
}
void Arithmetic::add_pieces(std::span<const PieceSum<float>> pieces, std::int64_t stride,
                            std::int64_t addends) {
  add_one_by_one(*this, pieces, stride, addends);
}

Arithmetic& host_arithmetic() {
  static HostArithmetic arithmetic;  // without state
  return arithmetic;
}

}  // namespace elaswave::device
