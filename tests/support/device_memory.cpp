#include "tests/support/device_memory.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "io/base/bf16.h"

namespace elaswave::testing {
namespace {

using kernels::GradSink;
using kernels::RangeFlag;

std::vector<bf16> to_storage(const std::vector<float>& values) {
  std::vector<bf16> stored;
  for (const float value : values) stored.push_back(to_bf16(value));
  return stored;
}

}  // namespace

void DeviceMemory::upload(const void* from, std::int64_t bytes, std::int64_t offset_bytes) {
  if (bytes == 0) return;
  stream_->copy(buffer_.data() + offset_bytes, from, bytes);
  stream_->synchronize();
}

void DeviceMemory::download(void* to, std::int64_t bytes) const {
  stream_->copy(to, buffer_.data(), bytes);
  stream_->synchronize();
}

Padded::Padded(const Place& place, const std::vector<float>& values, std::int64_t rows,
               std::int64_t cols, std::int64_t extra)
    : dtype_(place.dtype),
      rows_(rows),
      cols_(cols),
      stride_(cols + extra),
      memory_(place.stream, rows * stride_ * size_bytes(dtype_)) {
  EW_CHECK(std::ssize(values) == rows * cols, "{} values for {} x {}", values.size(), rows, cols);
  std::vector<float> all(static_cast<std::size_t>(rows * stride_), kGuard);
  for (std::int64_t r = 0; r < rows; ++r)
    std::copy_n(values.begin() + r * cols, cols, all.begin() + r * stride_);
  upload(all, 0);
}

Padded::Padded(const Place& place, std::int64_t rows, std::int64_t cols, std::int64_t extra)
    : Padded(place, std::vector<float>(static_cast<std::size_t>(rows * cols), kGuard), rows, cols,
             extra) {}

void Padded::upload(const std::vector<float>& values, std::int64_t first) {
  const std::int64_t elem_bytes = size_bytes(dtype_), bytes = std::ssize(values) * elem_bytes;
  if (dtype_ == DType::f32)
    memory_.upload(values.data(), bytes, first * elem_bytes);
  else
    memory_.upload(to_storage(values).data(), bytes, first * elem_bytes);
}

std::vector<float> Padded::whole() const {
  std::vector<float> all(static_cast<std::size_t>(rows_ * stride_));
  if (dtype_ == DType::f32) {
    memory_.download(all.data(), std::ssize(all) * 4);
    return all;
  }
  std::vector<bf16> stored(all.size());
  memory_.download(stored.data(), std::ssize(stored) * 2);
  std::transform(stored.begin(), stored.end(), all.begin(), to_float);
  return all;
}

std::vector<float> Padded::values() const {
  const std::vector<float> all = whole();
  std::vector<float> values;
  for (std::int64_t r = 0; r < rows_; ++r)
    values.insert(values.end(), all.begin() + r * stride_, all.begin() + r * stride_ + cols_);
  return values;
}

bool Padded::guards_intact() const {
  const std::vector<float> all = whole();
  const float guard = dtype_ == DType::f32 ? kGuard : to_float(to_bf16(kGuard));
  for (std::int64_t r = 0; r < rows_; ++r)
    for (std::int64_t c = cols_; c < stride_; ++c)
      if (all[static_cast<std::size_t>(r * stride_ + c)] != guard) return false;
  return true;
}

void Padded::set(std::int64_t row, std::int64_t col, float value) {
  upload({value}, row * stride_ + col);
}

Sums::Sums(device::Stream& stream, std::int64_t elems, std::int64_t start)
    : stream_(&stream),
      elems_(elems),
      exact_(stream, elems, start),
      fast_(stream, elems, static_cast<float>(start)),
      flag_(stream.device(), sizeof(RangeFlag), device::Space::host) {
  new (flag_.data()) RangeFlag;
}

GradSink Sums::part(std::int64_t first, std::int64_t elems, bool overwrite) {
  return {.exact = exact_.span().data() + first,
          .elems = elems,
          .overwrite = overwrite,
          .limit = 32768,
          .flag = reinterpret_cast<RangeFlag*>(flag_.data())};
}

GradSink Sums::fast_sink(bool overwrite) {
  return {.fast = fast_.span().data(),
          .elems = elems_,
          .overwrite = overwrite,
          .flag = reinterpret_cast<RangeFlag*>(flag_.data())};
}

std::vector<double> Sums::values() const {
  std::vector<double> values;
  for (const std::int64_t sum : exact())
    values.push_back(std::ldexp(static_cast<double>(sum), -kernels::kFractionBits));
  return values;
}

bool Sums::raised() const {
  stream_->synchronize();
  return reinterpret_cast<const RangeFlag*>(flag_.data())->bad.load() != 0;
}

}  // namespace elaswave::testing
