#include "tests/support/blind_machine.h"

#include "tests/support/blind_device.h"
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

class BlindRank final : public app::RankDevice {
 public:
  static Result<std::unique_ptr<app::RankDevice>> make(const app::HostPart& host,
                                                       std::chrono::milliseconds delay) {
    std::unique_ptr<BlindRank> made(new BlindRank(host.threads));
    made->device_.delay_beside(delay);
    EW_ASSIGN(std::unique_ptr<kernels::Ops> behind, kernels::make_cpu_ops(host.isa));
    EW_ASSIGN(made->host_ops_, kernels::make_cpu_ops(host.isa));
    made->ops_ = make_blind_ops(std::move(behind));
    made->arithmetic_ = std::make_unique<BlindArithmetic>(made->device_);
    return made;
  }
  kernels::Machine machine() override {
    return {*ops_, stream_, *arithmetic_, *host_ops_, host_stream_};
  }

 private:
  explicit BlindRank(int threads) : stream_(device_, threads), host_stream_(threads) {}

  BlindDevice device_;
  BlindStream stream_;
  device::CpuStream host_stream_;
  std::unique_ptr<device::Arithmetic> arithmetic_;
  std::unique_ptr<kernels::Ops> ops_, host_ops_;
};

// Longer than a tiny step takes, so that whoever does not wait comes first.
constexpr std::chrono::milliseconds kSlow{3};

}  // namespace

Result<std::unique_ptr<app::RankDevice>> make_blind_rank(const app::HostPart& host) {
  return BlindRank::make(host, std::chrono::milliseconds(0));
}

Result<std::unique_ptr<app::RankDevice>> make_slow_blind_rank(const app::HostPart& host) {
  return BlindRank::make(host, kSlow);
}

}  // namespace elaswave::testing
