// Training runs on emulated GPUs: every kernel, the device layer, staging and recovery together.
// However the work is dealt, and whoever dies, the bits are those of one undisturbed rank.
#include <cmath>

#include "app/rank_device_cuda.h"
#include "tests/property/device_training.h"
#include "tests/support/cuda/emulator.h"

namespace elaswave::test {
namespace {

Result<std::unique_ptr<app::RankDevice>> make_gpu_rank(const app::HostPart& host) {
  return app::make_cuda_rank(host, 0, 0, nullptr);
}

class TrainCudaTest : public DeviceTraining {
 private:
  // That host code keeps away from device memory is glass_test's to show: opening and closing it
  // around each of a million kernels would take minutes.
  emulator::OpenDeviceMemory open_;
};

TEST_F(TrainCudaTest, ranks_and_stages_train_the_same_weights) {
  const SimulatedRun one = train(config(), 1, &make_gpu_rank);
  ASSERT_EQ(one.steps.size(), 6u);
  EXPECT_LT(one.steps.back().record.loss, one.steps.front().record.loss);
  expect_equal(train(config(), 3, &make_gpu_rank).steps, one.steps);
  app::Config stages = config();
  stages.parallel.pp = 2;
  expect_equal(train(stages, 4, &make_gpu_rank).steps, one.steps);
}

// Another backend rounds in other places; the first losses differ by roundings alone.
TEST_F(TrainCudaTest, trains_as_the_cpu_does) {
  const SimulatedRun gpu = train(config(), 1, &make_gpu_rank);
  const SimulatedRun cpu = train(config(), 1, &app::make_cpu_rank);
  for (std::size_t i = 0; i < cpu.steps.size(); ++i) {
    EXPECT_NEAR(gpu.steps[i].record.loss, cpu.steps[i].record.loss, 1e-5) << "step " << i + 1;
    EXPECT_NEAR(gpu.steps[i].record.grad_norm, cpu.steps[i].record.grad_norm, 1e-4)
        << "step " << i + 1;
  }
}

TEST_F(TrainCudaTest, a_checkpoint_goes_from_one_number_of_ranks_to_another) {
  ::elaswave::testing::FakeFileSystem files;
  app::Config saving = config();
  saving.checkpoint.every = 2;
  const SimulatedRun straight = train(config(), 1, &make_gpu_rank);
  app::Config shorter = saving;
  shorter.train.stop_at = 4;
  (void)train(shorter, 2, &make_gpu_rank, &files);
  const SimulatedRun resumed = train(saving, 3, &make_gpu_rank, &files);
  EXPECT_EQ(resumed.resumed, Step{4});
  EXPECT_EQ(resumed.summary.digest, straight.summary.digest);
}

TEST_F(TrainCudaTest, a_rank_dies) {
  app::Config recipe = config();
  recipe.parallel.pp = 2;
  expect_survival(&make_gpu_rank, train(recipe, 8, &make_gpu_rank).steps);
}

TEST_F(TrainCudaTest, bf16) {
  precision_ = "bf16";
  app::Config one = config();
  one.train.steps = 3;
  app::Config stages = one, slices = one;
  stages.parallel.pp = 2;
  slices.parallel.tp = 2;
  const SimulatedRun gpu = train(one, 1, &make_gpu_rank);
  expect_equal(train(stages, 3, &make_gpu_rank).steps, gpu.steps);
  const SimulatedRun sliced = train(slices, 2, &make_gpu_rank);
  expect_equal(train(slices, 4, &make_gpu_rank).steps, sliced.steps);
  // Roundings to bf16 at other places than the CPU's, of the same size: the rule of kernel tests
  // (kernel_numbers.h) with the CPU in f32 as the reference, in bf16 as the plain version. Of the
  // first step: updates by AdamW are as large where gradients are nothing but roundings.
  const SimulatedRun plain = train(one, 1, &app::make_cpu_rank);
  precision_ = "f32";
  app::Config exact = config();
  exact.train.steps = 1;
  const optim::CommitRecord reference = train(exact, 1, &app::make_cpu_rank).steps.front().record;
  const optim::CommitRecord& rounded = plain.steps.front().record;
  EXPECT_NE(rounded.loss, reference.loss);
  for (const SimulatedRun* run : {&gpu, &sliced}) {
    const optim::CommitRecord& first = run->steps.front().record;
    EXPECT_LE(std::abs(first.loss - reference.loss), 2 * std::abs(rounded.loss - reference.loss));
    EXPECT_LE(std::abs(first.grad_norm - reference.grad_norm),
              2 * std::abs(rounded.grad_norm - reference.grad_norm));
    EXPECT_LT(run->steps.back().record.loss, first.loss);
  }
}

}  // namespace
}  // namespace elaswave::test
