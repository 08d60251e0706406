#include <cmath>

#include "tests/gpu/repeat_device.h"

namespace elaswave::test {
namespace {

// Each call begins at another row: what atomics do by chance, this does every time.
void sum_from(std::int64_t begin, const ColumnSum& args) {
  const std::int64_t rows = args.x_NC.rows;
  for (std::int64_t c = 0; c < args.x_NC.cols; ++c) {
    float sum = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t row = (begin + i) % rows;
      sum += args.x_NC.f32()[row * args.x_NC.stride + c];
    }
    args.sums_C[static_cast<std::size_t>(c)] =
        std::llrint(std::ldexp(static_cast<double>(sum), kernels::kFractionBits));
  }
}

class Cpu final : public RepeatDevice {
 public:
  explicit Cpu(std::unique_ptr<app::RankDevice> rank) : rank_(std::move(rank)) {}
  kernels::Machine machine() override { return rank_->machine(); }
  std::unique_ptr<device::Stream> another_stream() override {
    return std::make_unique<device::CpuStream>(1);
  }
  UnorderedSum unordered_sum() override {
    return [calls = std::int64_t{0}](device::Stream&, const ColumnSum& args) mutable {
      sum_from(calls++, args);
    };
  }

 private:
  std::unique_ptr<app::RankDevice> rank_;
};

}  // namespace

Result<std::unique_ptr<RepeatDevice>> make_repeat_cpu(const app::HostPart& host) {
  EW_ASSIGN(std::unique_ptr<app::RankDevice> rank, app::make_cpu_rank(host));
  return std::make_unique<Cpu>(std::move(rank));
}

}  // namespace elaswave::test
