// Memory of a device: the owner (Buffer) and the views kernels take (Mat, Vec). Views carry shape,
// stride and element type and own nothing. Shapes are in elements, row-major.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "io/base/error.h"
#include "io/base/types.h"
#include "parallel/device/device.h"

namespace elaswave::device {

/// Zero-initialised memory aligned to 64 bytes; on the host to 2 MiB and marked for huge pages when
/// it is at least 4 MiB large. The device must outlive it.
class Buffer {
 public:
  Buffer() = default;
  /// Host memory.
  explicit Buffer(std::int64_t bytes) : Buffer(host_device(), bytes) {}
  Buffer(Device& device, std::int64_t bytes, Space space = Space::device)
      : device_(&device), space_(space), memory_(device.allocate(space, bytes)), bytes_(bytes) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (memory_ != nullptr) device_->free(space_, memory_);
  }

  std::byte* data() { return memory_; }
  const std::byte* data() const { return memory_; }
  std::int64_t size_bytes() const { return bytes_; }

  template <typename T>
  std::span<T> as() {
    return {reinterpret_cast<T*>(memory_), static_cast<std::size_t>(bytes_) / sizeof(T)};
  }
  template <typename T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(memory_), static_cast<std::size_t>(bytes_) / sizeof(T)};
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(space_, other.space_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
  }

  Device* device_ = nullptr;
  Space space_ = Space::device;
  std::byte* memory_ = nullptr;
  std::int64_t bytes_ = 0;
};

/// A buffer as elements of one type.
template <typename T>
class Array {
 public:
  Array() = default;
  Array(Device& device, std::int64_t count, Space space = Space::device)
      : buffer_(device, count * static_cast<std::int64_t>(sizeof(T)), space) {}

  std::span<T> span() { return buffer_.as<T>(); }
  std::span<const T> span() const { return buffer_.as<T>(); }
  operator std::span<T>() { return span(); }  // NOLINT(google-explicit-constructor): as std::vector
  operator std::span<const T>() const {       // NOLINT(google-explicit-constructor)
    return span();
  }
  std::int64_t size() const { return std::ssize(span()); }
  std::int64_t size_bytes() const { return buffer_.size_bytes(); }

 private:
  Buffer buffer_;
};

/// rows x cols elements of `dtype`, rows `stride` elements apart.
template <typename Byte>
struct MatView {
  Byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  std::int64_t elems() const { return rows * cols; }
  bool contiguous() const { return stride == cols || rows <= 1; }
  Byte* row(std::int64_t r) const { return data + r * stride * elaswave::size_bytes(dtype); }
  /// REQUIRES: dtype is f32.
  auto* f32() const {
    EW_DCHECK(dtype == DType::f32, "view of {} read as f32", name(dtype));
    if constexpr (std::is_const_v<Byte>)
      return reinterpret_cast<const float*>(data);
    else
      return reinterpret_cast<float*>(data);
  }
  /// Rows [first, first + count).
  MatView rows_from(std::int64_t first, std::int64_t count) const {
    EW_DCHECK(first >= 0 && first + count <= rows, "rows {}+{} of {}", first, count, rows);
    return {row(first), dtype, count, cols, stride};
  }
  /// Columns [first, first + count).
  MatView cols_from(std::int64_t first, std::int64_t count) const {
    EW_DCHECK(first >= 0 && first + count <= cols, "columns {}+{} of {}", first, count, cols);
    return {data + first * elaswave::size_bytes(dtype), dtype, rows, count, stride};
  }
  // A template, because nvcc warns of a conversion from a type to itself that no caller could use.
  template <typename Other>
  requires(std::is_same_v<Other, const std::byte> && !std::is_const_v<Byte>) operator MatView<
      Other>() const {  // NOLINT(google-explicit-constructor): a view may lose write access
    return {data, dtype, rows, cols, stride};
  }
};

using Mat = MatView<std::byte>;
using ConstMat = MatView<const std::byte>;

inline Mat mat(std::span<float> data, std::int64_t rows, std::int64_t cols) {
  EW_DCHECK(static_cast<std::int64_t>(data.size()) >= rows * cols, "{} elements viewed as {} x {}",
            data.size(), rows, cols);
  return {reinterpret_cast<std::byte*>(data.data()), DType::f32, rows, cols, cols};
}
inline ConstMat mat(std::span<const float> data, std::int64_t rows, std::int64_t cols) {
  EW_DCHECK(static_cast<std::int64_t>(data.size()) >= rows * cols, "{} elements viewed as {} x {}",
            data.size(), rows, cols);
  return {reinterpret_cast<const std::byte*>(data.data()), DType::f32, rows, cols, cols};
}

}  // namespace elaswave::device
