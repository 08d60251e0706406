// The glass itself: what a body does wrong ends its process.
#include <cstdio>

#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

class BlindDeathTest : public KernelTest {};

TEST_F(BlindDeathTest, the_host_reads_no_device_memory) {
  const DeviceVector<float> there(stream(), {1, 2, 3});
  EXPECT_EQ(there.get()[2], 3);
  EXPECT_DEATH(std::printf("%f", static_cast<double>(there.span()[0])), "");
}

TEST_F(BlindDeathTest, kernels_take_no_host_memory) {
  std::vector<float> host(8);
  Padded there({stream()}, 1, 8, 0);
  const Mat here = device::mat(std::span<float>(host), 1, 8);
  EXPECT_DEATH(ops().gelu_forward(stream(), {here, there.mat()}), "not in device memory");
  EXPECT_DEATH(ops().gelu_forward(stream(), {there.view(), here}), "not in device memory");
  RangeFlag flag;
  Sums sums(stream(), 8);
  GradSink sink = sums.sink(true);
  sink.flag = &flag;
  EXPECT_DEATH(ops().linear_backward_weight(stream(), {there.view(), there.view(), {}, sink}),
               "not in Space::host");
}

TEST_F(BlindDeathTest, kernels_that_run_over_the_end) {
  Padded there({stream()}, 1, 16, 0);
  Mat longer = there.mat();
  longer.cols = longer.stride = 17;
  EXPECT_DEATH(ops().gelu_forward(stream(), {longer, longer}), "not in device memory");
  std::byte* end = there.mat().data + 64;
  std::byte here{};
  EXPECT_DEATH(stream().copy(&here, end, 1), "");
}

TEST_F(BlindDeathTest, sums_of_squares_arrive_with_the_stream) {
  const DeviceVector<float> there(stream(), {3, 4});
  const std::span<const float> range = there;
  double sum = 0;
  ops().sum_squares(stream(), {&range, 1}, {&sum, 1});
  EXPECT_EQ(sum, -1);
  stream().synchronize();
  EXPECT_EQ(sum, 25);
}

}  // namespace
}  // namespace elaswave::kernels
