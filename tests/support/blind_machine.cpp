#include "tests/support/blind_machine.h"

#include "tests/support/blind_ops.h"

namespace elaswave::testing {
namespace {

using device::ConstMat;
using device::Mat;

class BlindArithmetic final : public device::Arithmetic {
 public:
  explicit BlindArithmetic(BlindDevice& device) : device_(device) {}
  device::Device& device() override { return device_; }

  void zero(std::span<std::byte> bytes) override {
    const BlindDevice::Opened opened(device_);
    host_.zero(bytes);
  }
  void copy(std::span<const std::byte> from, std::span<std::byte> to) override {
    const BlindDevice::Opened opened(device_);
    host_.copy(from, to);
  }
  void add(std::span<std::int64_t> into, std::span<const std::int64_t> from) override {
    const BlindDevice::Opened opened(device_);
    host_.add(into, from);
  }
  void add(std::span<float> into, std::span<const float> from) override {
    const BlindDevice::Opened opened(device_);
    host_.add(into, from);
  }
  void copy_rows(const ConstMat& from, const Mat& to) override {
    const BlindDevice::Opened opened(device_);
    host_.copy_rows(from, to);
  }
  void sum_rows(std::span<const ConstMat> addends, const Mat& out) override {
    const BlindDevice::Opened opened(device_);
    host_.sum_rows(addends, out);
  }

 private:
  BlindDevice& device_;
  device::Arithmetic& host_ = device::host_arithmetic();
};

}  // namespace

Result<std::unique_ptr<BlindMachine>> BlindMachine::make(kernels::Isa isa, int threads) {
  std::unique_ptr<BlindMachine> made(new BlindMachine(threads));
  EW_ASSIGN(std::unique_ptr<kernels::Ops> behind, kernels::make_cpu_ops(isa));
  EW_ASSIGN(made->host_ops_, kernels::make_cpu_ops(isa));
  made->ops_ = make_blind_ops(std::move(behind));
  made->arithmetic_ = std::make_unique<BlindArithmetic>(made->device_);
  return made;
}

}  // namespace elaswave::testing
