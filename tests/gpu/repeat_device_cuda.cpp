// A GPU, or the emulator, whichever is linked in. ELASWAVE_TEST_ATTENTION as
// tests/support/cuda_test_attention.h has it.
#include "app/rank_device_cuda.h"
#include "tests/gpu/repeat_device.h"
#include "tests/gpu/unordered_sum.h"

namespace elaswave::test {
namespace {

class Cuda final : public RepeatDevice {
 public:
  explicit Cuda(std::unique_ptr<app::RankDevice> rank) : rank_(std::move(rank)) {}
  kernels::Machine machine() override { return rank_->machine(); }
  std::unique_ptr<device::Stream> another_stream() override {
    return std::make_unique<device::CudaStream>(stream().device());
  }
  UnorderedSum unordered_sum() override {
    return
        [this](device::Stream&, const ColumnSum& args) { sum_columns_by_atomics(stream(), args); };
  }

 private:
  device::CudaStream& stream() { return static_cast<device::CudaStream&>(machine().stream); }

  std::unique_ptr<app::RankDevice> rank_;
};

}  // namespace

Result<std::unique_ptr<RepeatDevice>> make_repeat_cuda(const app::HostPart& host) {
  EW_ASSIGN(std::unique_ptr<app::RankDevice> rank,
            app::make_cuda_rank(host, 0, 0, ELASWAVE_TEST_ATTENTION));
  return std::make_unique<Cuda>(std::move(rank));
}

}  // namespace elaswave::test
