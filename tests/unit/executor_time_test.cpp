// When actions are done on a device that gets to them later than they are issued.
#include <gtest/gtest.h>

#include <functional>

#include "parallel/comm/simulation.h"
#include "parallel/device/buffer.h"
#include "parallel/device/cuda_device.h"
#include "parallel/pipeline/executor.h"
#include "tests/support/cuda/emulator.h"
#include "tests/support/cuda/samples.h"
#include "tests/support/schedule_plans.h"

namespace elaswave::pipeline {
namespace {

constexpr Nanoseconds kKernel = 3 * kMillisecond;

/// A forward is two kernels, a backward four.
class Kernels final : public StageOps {
 public:
  explicit Kernels(device::CudaStream& stream) : stream_(stream), memory_(stream.device(), 400) {}
  static int count(const layout::Action& action) {
    return action.op == layout::Op::forward ? 2 : 4;
  }
  Result<void> run(const Task& task) override {
    for (int i = 0; i < count(task.action); ++i)
      samples::fill(stream_, memory_.as<float>().data(), 100, 1.0f);
    if (then) then();
    return {};
  }
  std::function<void()> then;

 private:
  device::CudaStream& stream_;
  device::Buffer memory_;
};

class ExecutorTimeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    emulator::reset();
    emulator::kernels_take(kKernel);
    device_ = device::make_cuda_device(0).value();
    stream_ = std::make_unique<device::CudaStream>(*device_);
    ops_ = std::make_unique<Kernels>(*stream_);
    executor_ = std::make_unique<Executor>(ExecutorParts{.world = *world_,
                                                         .plan = plan_,
                                                         .ops = *ops_,
                                                         .shape = {4, 4, DType::f32},
                                                         .timeout = kSecond,
                                                         .stream = *stream_,
                                                         .between = {}},
                                           program_.boundaries);
  }
  void TearDown() override {
    executor_.reset();
    ops_.reset();
    stream_.reset();
    device_.reset();
    emulator::reset();
  }
  void run(std::int64_t step) {
    ASSERT_TRUE(executor_->run(program_, Step{step}, false));
    stream_->synchronize();
    executor_->read_times();
  }
  std::vector<FlightEvent> actions(std::int64_t step) {
    std::vector<FlightEvent> events = world_->recorder().compute.snapshot();
    std::erase_if(events, [&](const FlightEvent& event) {
      return event.kind != FlightKind::action || event.step != Step{step};
    });
    return events;
  }

  static constexpr std::int64_t kMicroBatches = 3;
  layout::Plan plan_ = test::with_gpipe(test::make_plan({.micro_batches = kMicroBatches}));
  Program program_ = lower(plan_, 0, 0);
  std::unique_ptr<comm::World> world_ = comm::make_solo_world({});
  std::unique_ptr<device::CudaDevice> device_;
  std::unique_ptr<device::CudaStream> stream_;
  std::unique_ptr<Kernels> ops_;
  std::unique_ptr<Executor> executor_;
};

TEST_F(ExecutorTimeTest, TimesAreTheDevices) {
  for (std::int64_t step = 1; step <= 2; ++step) {
    ASSERT_TRUE(executor_->run(program_, Step{step}, false));
    EXPECT_GT(emulator::pending_work(), 0u) << "nothing waits for the device before its end";
    const Nanoseconds issued = world_->clock().now();
    stream_->synchronize();
    executor_->read_times();
    EXPECT_EQ(executor_->time().actions, kMicroBatches * 6 * kKernel);
    EXPECT_EQ(executor_->time().span, kMicroBatches * 6 * kKernel);

    const std::vector<FlightEvent> events = actions(step);
    ASSERT_EQ(std::ssize(events), 2 * kMicroBatches);
    Nanoseconds end = 0;
    for (const FlightEvent& event : events) {
      EXPECT_EQ(event.end - event.begin,
                (static_cast<layout::Op>(event.detail) == layout::Op::forward ? 2 : 4) * kKernel);
      EXPECT_TRUE(end == 0 || event.begin == end) << "the device goes on without a break";
      end = event.end;
    }
    EXPECT_LE(events.front().begin, issued) << "none begins later than it might have";
  }
}

// What the host waits for between actions is not theirs, what it waits for inside is.
TEST_F(ExecutorTimeTest, WaitsInsideCountWaitsBetweenDoNot) {
  Nanoseconds host = 0;
  ops_->then = [&] {
    stream_->synchronize();  // as what makes actions slow on purpose
    emulator::set_host_time(host += 100 * kMillisecond);
  };
  run(1);
  EXPECT_EQ(executor_->time().actions, 2 * kMicroBatches * 100 * kMillisecond);
  EXPECT_EQ(executor_->time().span, executor_->time().actions);
  const Nanoseconds slow = executor_->time().actions;

  executor_ = std::make_unique<Executor>(
      ExecutorParts{.world = *world_,
                    .plan = plan_,
                    .ops = *ops_,
                    .shape = {4, 4, DType::f32},
                    .timeout = kSecond,
                    .stream = *stream_,
                    .between = [&]() -> Result<void> {
                      stream_->synchronize();
                      emulator::set_host_time(host += 100 * kMillisecond);
                      return {};
                    }},
      program_.boundaries);
  ops_->then = {};
  run(2);
  EXPECT_EQ(executor_->time().actions, kMicroBatches * 6 * kKernel);
  EXPECT_LT(executor_->time().span, slow);
  EXPECT_GE(executor_->time().span, (2 * kMicroBatches - 1) * 100 * kMillisecond);
}

}  // namespace
}  // namespace elaswave::pipeline
