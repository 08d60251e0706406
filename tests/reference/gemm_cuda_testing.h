// What tests of the CUDA backend's matrix products share: the emulated device with a library.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "model/kernels/gemm_cuda.h"
#include "parallel/device/cuda_device.h"
#include "tests/support/cuda/fake_cublaslt.h"
#include "tests/support/device_memory.h"
#include "tests/support/kernel_numbers.h"
#include "tests/support/shifted.h"

namespace elaswave::kernels::cuda {

using namespace elaswave::testing;  // NOLINT(google-build-using-namespace): helpers of tests

class GemmCuda : public ::testing::Test {
 protected:
  ~GemmCuda() override {
    gemm_.reset();
    EXPECT_EQ(fake_cublaslt().alive, 0) << "handles left behind";
  }

  Shifted mat(const std::vector<float>& values, std::int64_t rows, std::int64_t cols,
              const Layout& layout = {}) {
    return {stream_, layout, values, rows, cols};
  }
  Shifted mat(std::int64_t rows, std::int64_t cols, const Layout& layout = {}) {
    return {stream_, layout, rows, cols};
  }
  std::unique_ptr<Gemm> make(std::string_view rows = {}, std::int64_t sink_bytes = 1 << 20) {
    Result<std::unique_ptr<Gemm>> made = Gemm::create(*device_, rows, sink_bytes);
    EXPECT_TRUE(made) << made.error().text();
    return *std::move(made);
  }

  std::unique_ptr<device::CudaDevice> device_ = device::make_cuda_device(0).value();
  device::CudaStream stream_{*device_};
  Scratch scratch_{stream_};
  CudaContext context_{stream_, scratch_};
  std::unique_ptr<Gemm> gemm_ = make();
};

}  // namespace elaswave::kernels::cuda
