// What tests of the CUDA backend against the CPU's share. The same bits are wanted wherever the
// order of operations is promised (cuda_kernels.h); in bf16 the CPU computes in f32 from the same
// numbers and its result is rounded once.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/reference/kernel_test.h"
#include "tests/support/cpu_backend.h"
#include "tests/support/shifted.h"

namespace elaswave::kernels {

using testing::kLayouts;
using testing::Layout;
using testing::Shifted;

/// Where a body runs, and how its matrices lie there.
struct Side {
  Ops& ops;
  Stream& stream;
  Layout layout;
  DType results = layout.dtype;  // what they are rounded to before they are compared

  Shifted matrix(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) const {
    return {stream, layout, values, rows, cols};
  }
  Shifted matrix(std::int64_t rows, std::int64_t cols) const {
    return {stream, layout, rows, cols};
  }
  std::vector<float> values(const Shifted& matrix) const {
    return stored(matrix.values(), results);
  }
};

/// body(side) returns bytes, which must be the same on both.
template <typename Body>
void expect_same_bits(const Side& one, const Side& other, const Body& body) {
  const std::vector<std::byte> ours = body(one), theirs = body(other);
  ASSERT_EQ(ours.size(), theirs.size());
  const auto at = std::mismatch(ours.begin(), ours.end(), theirs.begin()).first - ours.begin();
  EXPECT_EQ(at, std::ssize(ours)) << "bytes that agree, " << text(one.layout);
}

/// The backend under test beside the CPU's.
class BitsTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped()) return;
    auto made = testing::make_cpu_backend(Isa::automatic);
    ASSERT_TRUE(made) << made.error().text();
    cpu_ = std::move(*made);
    cpu_stream_ = cpu_->make_stream(0);
  }
  Side here(const Layout& layout) { return {ops(), stream(), layout}; }
  /// With matrices that are dense and f32.
  Side cpu(DType results = DType::f32) { return {cpu_->ops(), *cpu_stream_, {}, results}; }

 private:
  std::unique_ptr<testing::Backend> cpu_;
  std::shared_ptr<Stream> cpu_stream_;
};

struct Shape {
  std::int64_t B, T, C;
  std::int64_t N() const { return B * T; }
};
inline std::string text(const Shape& s) {
  return std::to_string(s.B) + " x " + std::to_string(s.T) + " x " + std::to_string(s.C);
}
// One element; nothing even; vectors of both types; more samples than a launch takes; wide rows.
inline constexpr Shape kShapes[] = {{1, 1, 1}, {3, 13, 37}, {2, 16, 64}, {70, 3, 8}, {1, 5, 2056}};

}  // namespace elaswave::kernels
