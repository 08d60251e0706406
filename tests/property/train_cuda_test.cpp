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
  for (const SimulatedRun* run : {&gpu, &sliced})
    EXPECT_LT(run->steps.back().record.loss, run->steps.front().record.loss);
}

// Roundings to bf16 at other places than the CPU's, of the same size: the rule of kernel tests
// (kernel_numbers.h) with the CPU in f32 as the reference and in bf16 as the plain version. A GPU
// also stores the gradient of logits in bf16; probabilities of an untrained model are all about the
// same number, so this rounding, of 2^-9 at most, has one direction. Of the first step: updates by
// AdamW are as large where gradients are nothing but roundings.
TEST_F(TrainCudaTest, bf16_is_as_near_to_f32_as_on_the_cpu) {
  const auto first = [&](const char* precision, std::int64_t seed, app::MakeRankDevice device,
                         std::int64_t slices) {
    precision_ = precision;
    app::Config recipe = config();
    recipe.train.steps = 1;
    recipe.train.seed = seed;
    recipe.parallel.tp = slices;
    return train(recipe, static_cast<int>(slices), device).steps.front().record;
  };
  // Sums of squares over models.
  struct Off {
    double loss = 0, norm = 0;
    void add(const optim::CommitRecord& of, const optim::CommitRecord& reference) {
      loss += std::pow(of.loss - reference.loss, 2);
      norm += std::pow(of.grad_norm / reference.grad_norm - 1, 2);
    }
  };
  constexpr int kModels = 4;
  Off cpu, gpu, sliced;
  for (std::int64_t seed = 1; seed <= kModels; ++seed) {
    const optim::CommitRecord reference = first("f32", seed, &app::make_cpu_rank, 1);
    cpu.add(first("bf16", seed, &app::make_cpu_rank, 1), reference);
    gpu.add(first("bf16", seed, &make_gpu_rank, 1), reference);
    sliced.add(first("bf16", seed, &make_gpu_rank, 2), reference);
  }
  EXPECT_GT(cpu.loss, 0);
  for (const Off* off : {&gpu, &sliced}) {
    EXPECT_LE(std::sqrt(off->loss), 2 * std::sqrt(cpu.loss));
    EXPECT_LE(std::sqrt(off->norm), 2 * std::sqrt(cpu.norm) + std::sqrt(kModels) * 0x1p-9);
  }
}

}  // namespace
}  // namespace elaswave::test
