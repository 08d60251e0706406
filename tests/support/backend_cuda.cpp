// The backend under test is CUDA: a GPU, or the emulator, whichever is linked in.
#include <vector>

#include "model/kernels/cuda_ops.h"
#include "parallel/device/cuda_device.h"
#include "tests/support/backend.h"
#include "tests/support/cuda_test_attention.h"

namespace elaswave::testing {
namespace {

class CudaBackend final : public Backend {
 public:
  static Result<std::unique_ptr<Backend>> make() {
    auto made = std::make_unique<CudaBackend>();
    EW_ASSIGN(made->device_, device::make_cuda_device(0));
    kernels::CudaOpsOptions options;
    EW_ASSIGN(options.attention, make_test_attention(*made->device_));
    EW_ASSIGN(made->ops_, kernels::make_cuda_ops(*made->device_, std::move(options)));
    return made;
  }
  std::string name() const override { return device_->name(); }
  kernels::Ops& ops() override { return *ops_; }
  device::Device& device() override { return *device_; }
  std::shared_ptr<device::Stream> make_stream(int) override {
    return streams_.emplace_back(std::make_shared<device::CudaStream>(*device_));
  }
  bool rounds_biases() const override { return true; }  // cuBLASLt's are of the result's type

 private:
  std::unique_ptr<device::CudaDevice> device_;
  std::vector<std::shared_ptr<device::Stream>> streams_;  // the operations' scratch is theirs
  std::unique_ptr<kernels::Ops> ops_;
};

}  // namespace

Result<std::unique_ptr<Backend>> make_backend() {
  return CudaBackend::make();
}

}  // namespace elaswave::testing
