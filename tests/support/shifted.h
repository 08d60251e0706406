// Matrices of kernel tests in every layout that takes a path of its own: rows and beginnings that
// whole vectors can be loaded from, and those that they cannot.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/base/types.h"
#include "tests/support/device_memory.h"
#include "tests/support/kernel_numbers.h"

namespace elaswave::testing {

/// In elements: between rows, and before the first.
struct Layout {
  DType dtype = DType::f32;
  std::int64_t extra = 0, shift = 0;
};
inline constexpr Layout kLayouts[] = {
    {DType::f32, 0, 0},  {DType::f32, 3, 0},  {DType::f32, 8, 0},  {DType::f32, 0, 1},
    {DType::bf16, 0, 0}, {DType::bf16, 3, 0}, {DType::bf16, 8, 0}, {DType::bf16, 0, 1},
};
inline std::string text(const Layout& layout) {
  return std::string(name(layout.dtype)) + " extra " + std::to_string(layout.extra) + " shift " +
         std::to_string(layout.shift);
}

/// A matrix in device memory. All that lies around its elements is guarded.
class Shifted {
 public:
  Shifted(device::Stream& stream, const Layout& layout, const std::vector<float>& values,
          std::int64_t rows, std::int64_t cols)
      : layout_(layout),
        rows_(rows),
        cols_(cols),
        all_({stream, layout.dtype}, with_guards(values), 1, elems(), 0) {}
  /// All elements are guards.
  Shifted(device::Stream& stream, const Layout& layout, std::int64_t rows, std::int64_t cols)
      : Shifted(stream, layout,
                std::vector<float>(static_cast<std::size_t>(rows * cols), Padded::kGuard), rows,
                cols) {}

  device::Mat mat() {
    return {all_.mat().cols_from(layout_.shift, 0).data, layout_.dtype, rows_, cols_, stride()};
  }
  device::ConstMat view() const {
    return {all_.view().cols_from(layout_.shift, 0).data, layout_.dtype, rows_, cols_, stride()};
  }
  /// Expects the guards as they were.
  std::vector<float> values() const {
    std::vector<float> all = all_.values(), values;
    const float guard = stored(Padded::kGuard, layout_.dtype);
    for (std::int64_t i = 0; i < rows_ * cols_; ++i) {
      values.push_back(all[at(i)]);
      all[at(i)] = guard;
    }
    EXPECT_EQ(all, std::vector<float>(all.size(), guard)) << "written outside of the matrix";
    return values;
  }

 private:
  static constexpr std::int64_t kBehind = 5;

  std::int64_t stride() const { return cols_ + layout_.extra; }
  std::int64_t elems() const { return layout_.shift + rows_ * stride() + kBehind; }
  std::size_t at(std::int64_t i) const {
    return static_cast<std::size_t>(layout_.shift + i / cols_ * stride() + i % cols_);
  }
  std::vector<float> with_guards(const std::vector<float>& values) const {
    EW_CHECK(std::ssize(values) == rows_ * cols_, "{} values for {} x {}", values.size(), rows_,
             cols_);
    std::vector<float> all(static_cast<std::size_t>(elems()), Padded::kGuard);
    for (std::int64_t i = 0; i < rows_ * cols_; ++i)
      all[at(i)] = values[static_cast<std::size_t>(i)];
    return all;
  }

  Layout layout_;
  std::int64_t rows_, cols_;
  Padded all_;  // one row
};

}  // namespace elaswave::testing
