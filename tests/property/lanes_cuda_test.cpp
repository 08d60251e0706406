// Lanes between emulated GPUs: messages begin when the kernels before them have ended, kernels
// behind them find what arrived, and memory is let go of when nothing reaches into it any more.
#include <memory>

#include "app/rank_device_cuda.h"
#include "tests/property/device_training.h"
#include "tests/support/cuda/emulator.h"
#include "tests/support/fake_lanes.h"

namespace elaswave::test {
namespace {

Result<std::unique_ptr<app::RankDevice>> make_gpu_rank(const app::HostPart& host) {
  return app::make_cuda_rank(host, 0, 0, nullptr);
}

MakeLanes lanes_over(FakeNccl& nccl) {
  return [&nccl](comm::World& world, comm::World& front, const kernels::Machine& machine) {
    return fake_lanes(nccl, world, front, machine.stream);
  };
}

class LanesCudaTest : public DeviceTraining {
 protected:
  static SimulatedRun by_lanes(const app::Config& config, int ranks) {
    FakeNccl nccl(ranks, 7);
    SimulatedRun run = train_simulated(
        config, {.ranks = ranks, .make_device = &make_gpu_rank, .make_lanes = lanes_over(nccl)});
    for (const auto& error : run.errors) EXPECT_FALSE(error) << error->text();
    for (const std::string& misuse : nccl.misuse()) ADD_FAILURE() << misuse;
    EXPECT_GT(nccl.ids_made(), 0);
    return run;
  }

 private:
  // The fake copies on the host.
  emulator::OpenDeviceMemory open_;
};

TEST_F(LanesCudaTest, ranks_and_stages_train_the_same_weights) {
  const SimulatedRun one = train(config(), 1, &make_gpu_rank);
  expect_equal(by_lanes(config(), 3).steps, one.steps);
  app::Config stages = config();
  stages.parallel.pp = 2;
  expect_equal(by_lanes(stages, 4).steps, one.steps);
}

TEST_F(LanesCudaTest, slices_train_as_through_the_host) {
  app::Config slices = config();
  slices.parallel.tp = 2;
  expect_equal(by_lanes(slices, 4).steps, train(slices, 4, &make_gpu_rank).steps);
}

// At any other point: lanes_test, where a run takes no time.
TEST_F(LanesCudaTest, a_rank_dies) {
  app::Config recipe = config();
  recipe.parallel.pp = 2;
  const std::vector<app::StepReport> undisturbed = by_lanes(recipe, 4).steps;
  for (const Point point : {Point::after_forward, Point::before_reduce}) {
    SCOPED_TRACE(name(point));
    FakeNccl nccl(4, 3);
    ElasticOptions options{.ranks = 4,
                           .faults = {{.rank = 3, .point = point, .hit = 2}},
                           .make_device = &make_gpu_rank};
    options.make_lanes = lanes_over(nccl);
    options.control = [&nccl](comm::SimulationControl& control) {
      nccl.ask_alive([&control](int rank) { return control.alive(rank); });
    };
    const ElasticRun run = train_elastic(recipe, options);
    EXPECT_EQ(run.failure + run.wrong, "");
    EXPECT_EQ(run.fired, 1);
    for (const std::string& misuse : nccl.misuse()) ADD_FAILURE() << misuse;
    expect_equal(run.steps, undisturbed);
  }
}

}  // namespace
}  // namespace elaswave::test
