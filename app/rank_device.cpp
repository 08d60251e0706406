#include "app/rank_device.h"

namespace elaswave::app {
namespace {

class CpuRank final : public RankDevice {
 public:
  CpuRank(std::unique_ptr<kernels::Ops> ops, int threads)
      : stream_(threads), ops_(std::move(ops)) {}
  kernels::Machine machine() override { return kernels::host_machine(*ops_, stream_); }

 private:
  device::CpuStream stream_;
  std::unique_ptr<kernels::Ops> ops_;
};

}  // namespace

Error device_lost(const device::DeviceLost& lost) {
  return {.code = Code::device_lost,
          .what = "the device failed",
          .why = lost.what(),
          .fix = "see the system's log; the other ranks go on without this one"};
}

Result<std::unique_ptr<RankDevice>> make_cpu_rank(const HostPart& host) {
  EW_ASSIGN(std::unique_ptr<kernels::Ops> ops, kernels::make_cpu_ops(host.isa));
  return std::make_unique<CpuRank>(std::move(ops), host.threads);
}

}  // namespace elaswave::app
