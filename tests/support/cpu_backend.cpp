#include "tests/support/cpu_backend.h"

#include <iterator>

#include "tests/support/blind_device.h"
#include "tests/support/blind_ops.h"

namespace elaswave::testing {
namespace {

constexpr int kThreads[] = {2, 1, 3, 4, 8};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(std::unique_ptr<kernels::Ops> ops) : ops_(std::move(ops)) {}
  std::string name() const override { return ops_->numeric_class(); }
  kernels::Ops& ops() override { return *ops_; }
  device::Device& device() override { return device::host_device(); }
  std::shared_ptr<device::Stream> make_stream(int kind) override {
    return std::make_shared<device::CpuStream>(kThreads[kind]);
  }
  int stream_kinds() const override { return std::ssize(kThreads); }
  bool strides_keep_bits() const override { return true; }

 private:
  std::unique_ptr<kernels::Ops> ops_;
};

class BlindBackend final : public Backend {
 public:
  explicit BlindBackend(std::unique_ptr<kernels::Ops> ops) : ops_(make_blind_ops(std::move(ops))) {}
  std::string name() const override { return ops_->numeric_class(); }
  kernels::Ops& ops() override { return *ops_; }
  device::Device& device() override { return device_; }
  std::shared_ptr<device::Stream> make_stream(int kind) override {
    return std::make_shared<BlindStream>(device_, kThreads[kind]);
  }
  int stream_kinds() const override { return std::ssize(kThreads); }
  bool strides_keep_bits() const override { return true; }

 private:
  BlindDevice device_;
  std::unique_ptr<kernels::Ops> ops_;
};

template <typename Made>
Result<std::unique_ptr<Backend>> make(kernels::Isa isa) {
  EW_ASSIGN(auto ops, kernels::make_cpu_ops(isa));
  return std::make_unique<Made>(std::move(ops));
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cpu_backend(kernels::Isa isa) {
  return make<CpuBackend>(isa);
}

Result<std::unique_ptr<Backend>> make_blind_backend(kernels::Isa isa) {
  return make<BlindBackend>(isa);
}

}  // namespace elaswave::testing
