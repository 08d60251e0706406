// Owners of device memory for tests: values go in and come out through a stream, so that bodies
// written with them run where the host cannot read device memory. Each belongs to the stream it was
// made on, which must outlive it: kernels that touch it are issued there. Copies in and out wait
// for all that was issued before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "io/base/types.h"
#include "model/kernels/ops.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"

namespace elaswave::testing {

/// Bytes of Space::device; waits for the stream before it gives them back.
class DeviceMemory {
 public:
  DeviceMemory(device::Stream& stream, std::int64_t bytes)
      : stream_(&stream), buffer_(stream.device(), bytes) {}
  DeviceMemory(DeviceMemory&&) = default;
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  ~DeviceMemory() {
    if (buffer_.data() != nullptr) stream_->synchronize();
  }

  /// Not to be read by the host.
  std::byte* data() const { return const_cast<std::byte*>(buffer_.data()); }
  void upload(const void* from, std::int64_t bytes, std::int64_t offset_bytes = 0);
  void download(void* to, std::int64_t bytes) const;

 private:
  device::Stream* stream_;
  device::Buffer buffer_;
};

/// Elements in device memory. Converts to the spans that operations take.
template <typename T>
class DeviceVector {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceVector(device::Stream& stream, const std::vector<T>& values)
      : size_(values.size()), memory_(stream, bytes()) {
    set(values);
  }
  DeviceVector(device::Stream& stream, std::int64_t elems, T value)
      : DeviceVector(stream, std::vector<T>(static_cast<std::size_t>(elems), value)) {}

  /// REQUIRES: as many values as there are.
  void set(const std::vector<T>& values) {
    EW_CHECK(values.size() == size_, "{} values for {}", values.size(), size_);
    memory_.upload(values.data(), bytes());
  }
  std::vector<T> get() const {
    std::vector<T> values(size_);
    memory_.download(values.data(), bytes());
    return values;
  }
  std::span<T> span() { return {reinterpret_cast<T*>(memory_.data()), size_}; }
  std::span<const T> span() const { return {reinterpret_cast<const T*>(memory_.data()), size_}; }
  operator std::span<T>() { return span(); }  // NOLINT(google-explicit-constructor): as a vector's
  operator std::span<const T>() const {       // NOLINT(google-explicit-constructor)
    return span();
  }
  std::byte* data() const { return memory_.data(); }

 private:
  std::int64_t bytes() const { return static_cast<std::int64_t>(size_ * sizeof(T)); }

  std::size_t size_;
  DeviceMemory memory_;
};

/// Where matrices of a test lie and how their elements are stored.
struct Place {
  device::Stream& stream;
  DType dtype = DType::f32;
};

/// A matrix in device memory whose rows have `extra` unused elements between them, holding a number
/// no kernel may read or change. Values are f32 for the test whatever the storage type: bf16 rounds
/// them on their way in.
class Padded {
 public:
  static constexpr float kGuard = 1.2345e30f;
  Padded(const Place& place, const std::vector<float>& values, std::int64_t rows, std::int64_t cols,
         std::int64_t extra = 3);
  /// All elements are guards.
  Padded(const Place& place, std::int64_t rows, std::int64_t cols, std::int64_t extra = 3);

  device::Mat mat() { return {memory_.data(), dtype_, rows_, cols_, stride_}; }
  device::ConstMat view() const { return {memory_.data(), dtype_, rows_, cols_, stride_}; }
  std::vector<float> values() const;
  bool guards_intact() const;
  void set(std::int64_t row, std::int64_t col, float value);

 private:
  std::vector<float> whole() const;  // with the guards
  void upload(const std::vector<float>& values, std::int64_t first);

  DType dtype_;
  std::int64_t rows_, cols_, stride_;
  DeviceMemory memory_;
};

/// Gradient sums of a tensor, exact and fast, with the flag that both raise. 32768 is the range of
/// the product's own sinks at 64 addends.
class Sums {
 public:
  Sums(device::Stream& stream, std::int64_t elems, std::int64_t start = 0);
  kernels::GradSink sink(bool overwrite) { return part(0, elems_, overwrite); }
  kernels::GradSink fast_sink(bool overwrite);
  /// The exact sums of `elems` elements from `first` on.
  kernels::GradSink part(std::int64_t first, std::int64_t elems, bool overwrite);

  std::vector<std::int64_t> exact() const { return exact_.get(); }
  std::vector<float> fast() const { return fast_.get(); }
  /// What the exact sums stand for.
  std::vector<double> values() const;
  bool raised() const;

 private:
  device::Stream* stream_;
  std::int64_t elems_;
  DeviceVector<std::int64_t> exact_;
  DeviceVector<float> fast_;
  device::Buffer flag_;
};

}  // namespace elaswave::testing
