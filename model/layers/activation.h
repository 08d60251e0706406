// An activation matrix that owns its memory.
#pragma once

#include "parallel/device/buffer.h"

namespace elaswave::layers {

class Activation {
 public:
  Activation() = default;
  Activation(std::int64_t rows, std::int64_t cols, DType dtype)
      : memory_(rows * cols * size_bytes(dtype)), rows_(rows), cols_(cols), dtype_(dtype) {}

  device::Mat view() { return {memory_.data(), dtype_, rows_, cols_, cols_}; }
  /// All elements of an f32 activation.
  std::span<float> f32() { return memory_.as<float>(); }
  std::int64_t memory_bytes() const { return memory_.size_bytes(); }

 private:
  device::Buffer memory_;
  std::int64_t rows_ = 0, cols_ = 0;
  DType dtype_ = DType::f32;
};

}  // namespace elaswave::layers
