// An activation matrix that owns its memory.
#pragma once

#include "parallel/device/buffer.h"

namespace elaswave::layers {

class Activation {
 public:
  Activation() = default;
  Activation(device::Device& device, std::int64_t rows, std::int64_t cols, DType dtype)
      : Activation(device, rows, cols, cols, dtype) {}

  /// For wide matrices that never leave the rank: rows a multiple of the page size long are kept
  /// apart by one cache line more, or they meet in the same few cache sets (products 7 % slower).
  static Activation padded(device::Device& device, std::int64_t rows, std::int64_t cols,
                           DType dtype) {
    return {device, rows, cols, cols * size_bytes(dtype) % 4096 == 0 ? cols + 16 : cols, dtype};
  }

  device::Mat view() { return {memory_.data(), dtype_, rows_, cols_, stride_}; }
  std::int64_t memory_bytes() const { return memory_.size_bytes(); }

 private:
  Activation(device::Device& device, std::int64_t rows, std::int64_t cols, std::int64_t stride,
             DType dtype)
      : memory_(device, rows * stride * size_bytes(dtype)),
        rows_(rows),
        cols_(cols),
        stride_(stride),
        dtype_(dtype) {}

  device::Buffer memory_;
  std::int64_t rows_ = 0, cols_ = 0, stride_ = 0;
  DType dtype_ = DType::f32;
};

}  // namespace elaswave::layers
