// Planned memory is what is allocated: of every rank, for every legal combination of slices,
// stages, chunks, schedule and recompute, ranks without a micro-batch among them.
#include <cstdio>

#include "tests/property/memory_testing.h"

namespace elaswave::test {
namespace {

class MemoryTest : public MemoryTesting {
 protected:
  int asked_ = 0;
};

TEST_F(MemoryTest, PlannedIsAllocatedOnEveryRank) {
  for (const std::int64_t tensor : {1, 2, 4})
    for (const std::int64_t stages : {1, 2, 3, 4})
      for (const std::int64_t chunks : {1, 2})
        for (const char* schedule : {"auto", "gpipe", "1f1b", "interleaved", "zb-h1", "zbv"})
          for (const char* recompute : {"none", "selective", "full"})
            // One pipeline, unequal stages, and more replicas than micro-batches.
            for (const std::int64_t extra : {std::int64_t{0}, std::int64_t{1}, 3 * stages}) {
              config_.parallel.tp = tensor;
              config_.parallel.pp = stages;
              config_.parallel.chunks = chunks;
              config_.parallel.schedule = schedule;
              config_.train.recompute = recompute;
              config_.numerics.mode = stages == 3 ? "fast" : "exact";
              // Both meet every value of the others.
              const bool bf16 = ++asked_ % 2 == 0;
              config_.train.precision = bf16 ? "bf16" : "f32";
              SCOPED_TRACE(testing::Message()
                           << "tp " << tensor << ", pp " << stages << ", chunks " << chunks << ", "
                           << schedule << ", " << recompute << ", replicas " << stages + extra
                           << ", " << config_.train.precision);
              check_layout(static_cast<int>((stages + extra) * tensor));
              if (HasFailure()) return;
            }
  std::printf("campaign: %d layouts, %d ranks (%d with copies), %d terms compared\n", layouts_,
              ranks_, with_copies_, terms_);
  EXPECT_GE(with_copies_, 300);
  EXPECT_GE(layouts_, 300);
}

// In bf16 the CPU's kernels copy the operands of a call to f32; a GPU's take them as they are.
TEST_F(MemoryTest, CopiesOfBf16AreACpus) {
  const auto table_of = [&](const char* precision, const char* kind) {
    config_.train.precision = precision;
    config_.device.kind = kind;
    const app::RunSpec spec = app::resolve(config_).value();
    return app::worst_memory(spec, app::healthy_plan(spec, 1, Generation{0})->plan);
  };
  using enum spec::MemoryTerm;
  const spec::MemoryTable f32 = table_of("f32", "cpu"), cpu = table_of("bf16", "cpu"),
                          gpu = table_of("bf16", "cuda");
  // dy, W, dx and what GELU read, of the wide product: more than the head's here.
  constexpr double kN = 14, kC = 64;
  EXPECT_EQ(cpu[widened], 4 * (kN * kC + kC * 4 * kC + 2 * kN * 4 * kC));
  EXPECT_EQ(f32[widened], 0);
  EXPECT_EQ(gpu[widened], 0);
  EXPECT_EQ(gpu[optimizer], f32[optimizer]);
  EXPECT_EQ(gpu[sums], f32[sums]);
  EXPECT_LT(gpu[weights], 0.52 * f32[weights]);  // vectors stay
  // The head's: W, x and dx.
  config_.model.vocab = 2000;
  EXPECT_EQ(table_of("bf16", "cpu")[widened], 4 * (2000 * kC + 2 * kN * kC));
}

}  // namespace
}  // namespace elaswave::test
