// What tuning a product finds, with algorithms whose times and faults are planted.
#include "model/kernels/gemm_tune_cuda.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/reference/gemm_cuda_testing.h"
#include "tests/support/cuda/emulator.h"

namespace elaswave::kernels::cuda {
namespace {

constexpr std::int64_t kM = 8, kN = 16, kK = 64;
constexpr TuneRules kRules{
    .candidates = 8, .rounds = 3, .repeats = 4, .round_seconds = 1e-6, .rotated_bytes = 1 << 14};

FakeAlgorithm kind(const AlgorithmWords& words) {
  return static_cast<FakeAlgorithm>(words[0] & 0xFF);
}

class GemmTune : public GemmCuda {
 protected:
  ~GemmTune() override {
    for (const FakeAlgorithm one :
         {FakeAlgorithm::plain, FakeAlgorithm::split, FakeAlgorithm::scattered})
      takes(one, 0);
    emulator::kernels_take(0);
    fake_cublaslt().names_scattered = false;
  }
  static void takes(FakeAlgorithm algorithm, std::int64_t microseconds) {
    emulator::kernels_take(1000);  // the product itself is one more
    fake_cublaslt().idle_kernels[static_cast<std::size_t>(algorithm)] = microseconds;
  }
  /// Multiplies once, as a run would.
  void multiply(ProductForm form, const Layout& layout, bool with_bias = false) {
    const bool a_transposed = form == ProductForm::tn, b_transposed = form == ProductForm::nt;
    const Shifted a = mat(a_transposed ? kK : kM, a_transposed ? kM : kK, layout);
    const Shifted b = mat(b_transposed ? kN : kK, b_transposed ? kK : kN, layout);
    Shifted c = mat(kM, kN, layout);
    const DeviceVector<float> bias(stream_, kN, 1.0f);
    gemm_->multiply(context_, factors(form, a.view(), b.view()), c.mat(),
                    with_bias ? bias.span() : std::span<const float>());
  }
  TunedProduct tune(const TuneRules& rules = kRules) {
    return tune_product(context_, *gemm_, gemm_->choices(), rules);
  }
};

TEST_F(GemmTune, AFasterAlgorithmGetsARow) {
  takes(FakeAlgorithm::split, 100);
  takes(FakeAlgorithm::plain, 50);
  for (const ProductForm form : {ProductForm::nn, ProductForm::nt, ProductForm::tn})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      gemm_ = make();
      multiply(form, {dtype}, form == ProductForm::nn);
      EXPECT_EQ(kind(gemm_->choices().at(0).algorithm), FakeAlgorithm::split);
      const TunedProduct tuned = tune();
      EXPECT_EQ(tuned.shape, gemm_->choices()[0].shape);
      EXPECT_EQ(tuned.tried, 4) << "two ways, each for two alignments";
      EXPECT_EQ(kind(tuned.best), FakeAlgorithm::plain);
      // The rounding of a bias is a kernel too.
      const bool rounds = form == ProductForm::nn && dtype == DType::bf16;
      EXPECT_NEAR(tuned.first_seconds, rounds ? 102e-6 : 101e-6, 1e-9);
      EXPECT_NEAR(tuned.best_seconds, rounds ? 52e-6 : 51e-6, 1e-9);
      EXPECT_TRUE(tuned.wants_row(kRules.row_share));
      // The row is one that a run takes.
      const std::string rows = "library " + std::to_string(gemm_->library_version()) + " device " +
                               device_->name() + "\n" + tuned_lines(tuned, kRules.row_share);
      gemm_ = make(rows);
      multiply(form, {dtype}, form == ProductForm::nn);
      EXPECT_TRUE(gemm_->choices().at(0).tuned);
      EXPECT_EQ(gemm_->choices()[0].algorithm, tuned.best);
    }
}

TEST_F(GemmTune, AGainThatIsTooSmallIsNoRow) {
  takes(FakeAlgorithm::split, 1'000);
  takes(FakeAlgorithm::plain, 990);
  multiply(ProductForm::nn, {});
  const TunedProduct tuned = tune();
  EXPECT_EQ(kind(tuned.best), FakeAlgorithm::plain);
  EXPECT_FALSE(tuned.wants_row(kRules.row_share));
  const std::string lines = tuned_lines(tuned, kRules.row_share);
  EXPECT_TRUE(lines.starts_with("# nn 8 x 16 x 64 f32 -> f32 none : ")) << lines;
  EXPECT_TRUE(GemmTable::parse(lines, 1, "any")->empty());
}

TEST_F(GemmTune, AFastAlgorithmWhoseBitsDifferIsLeftOut) {
  takes(FakeAlgorithm::split, 100);
  takes(FakeAlgorithm::plain, 90);
  takes(FakeAlgorithm::scattered, 10);
  multiply(ProductForm::nn, {});
  fake_cublaslt().names_scattered = true;
  const TunedProduct tuned = tune();
  EXPECT_EQ(tuned.tried, 6);
  EXPECT_EQ(tuned.unrepeatable, 2);
  EXPECT_TRUE(tuned.first_repeats);
  EXPECT_EQ(kind(tuned.best), FakeAlgorithm::plain);
  EXPECT_NE(tuned_lines(tuned, kRules.row_share).find("2 left out: bits differ"),
            std::string::npos);
}

TEST_F(GemmTune, AFirstChoiceWhoseBitsDifferIsReplacedAtAnyPrice) {
  takes(FakeAlgorithm::split, 100);
  takes(FakeAlgorithm::plain, 200);
  takes(FakeAlgorithm::scattered, 10);
  fake_cublaslt().names_scattered = true;
  multiply(ProductForm::nn, {});
  EXPECT_EQ(kind(gemm_->choices().at(0).algorithm), FakeAlgorithm::scattered);
  const TunedProduct tuned = tune();
  EXPECT_FALSE(tuned.first_repeats);
  EXPECT_EQ(kind(tuned.best), FakeAlgorithm::split);
  EXPECT_TRUE(tuned.wants_row(kRules.row_share));
}

// A row is found by shape alone: an algorithm must do for every way the rows lie.
TEST_F(GemmTune, AnAlgorithmThatOneStrideRefusesIsLeftOut) {
  takes(FakeAlgorithm::split, 100);
  takes(FakeAlgorithm::plain, 50);
  multiply(ProductForm::nn, {});
  multiply(ProductForm::nn, {.extra = 8});
  ASSERT_EQ(gemm_->choices().size(), 2u);
  EXPECT_EQ(kind(tune().best), FakeAlgorithm::plain);
  gemm_ = make();
  multiply(ProductForm::nn, {});
  multiply(ProductForm::nn, {.extra = 8});
  fake_cublaslt().refuses_stride = kK + 8;
  const TunedProduct tuned = tune();
  fake_cublaslt().refuses_stride = 0;
  EXPECT_EQ(tuned.refused, 3);
  EXPECT_EQ(tuned.tried, 1);
  EXPECT_FALSE(tuned.wants_row(kRules.row_share));
}

TEST_F(GemmTune, AnAlgorithmThatFailsIsLeftOut) {
  takes(FakeAlgorithm::split, 100);
  takes(FakeAlgorithm::plain, 50);
  multiply(ProductForm::nn, {});
  fake_cublaslt().fails = static_cast<std::uint64_t>(FakeAlgorithm::plain);
  const TunedProduct tuned = tune();
  fake_cublaslt().fails = 0;
  EXPECT_EQ(tuned.refused, 2);
  EXPECT_EQ(kind(tuned.best), FakeAlgorithm::split);
  EXPECT_FALSE(tuned.wants_row(kRules.row_share));
}

}  // namespace
}  // namespace elaswave::kernels::cuda
