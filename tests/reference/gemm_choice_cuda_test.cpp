// Which algorithm a product of the CUDA backend gets, that its bits depend on nothing else, and
// what happens when the library refuses.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/reference/gemm_cuda_testing.h"
#include "tests/support/cuda/emulator.h"

namespace elaswave::kernels::cuda {
namespace {

constexpr std::int64_t kM = 16, kN = 24, kK = 64;
const ProductShape kShape{ProductForm::nn, kM, kN, kK, DType::f32, DType::f32};

// The parts of the fake's algorithms that tests look at.
FakeAlgorithm kind(const GemmChoice& choice) {
  return static_cast<FakeAlgorithm>(choice.algorithm[0] & 0xFF);
}

class GemmChoices : public GemmCuda {
 protected:
  std::vector<float> multiply(Gemm& gemm, const Layout& layout = {}) {
    const Shifted a = mat(random_values(kM * kK, "a"), kM, kK, layout);
    const Shifted b = mat(random_values(kK * kN, "b"), kK, kN, layout);
    Shifted c = mat(kM, kN, layout);
    gemm.multiply(context_, factors(ProductForm::nn, a.view(), b.view()), c.mat());
    return c.values();
  }
  std::string section() const {
    return fmt::format("library {} device {}\n", gemm_->library_version(), device_->name());
  }
  // A row with another algorithm for the product than the library's first.
  std::string tuned_row() {
    const std::unique_ptr<Gemm> gemm = make();
    multiply(*gemm);
    AlgorithmWords words = gemm->choices().at(0).algorithm;
    words[0] = static_cast<std::uint64_t>(FakeAlgorithm::plain);
    return fmt::format("{} : {}\n", describe(kShape), describe(words));
  }
};

TEST_F(GemmChoices, TheFirstThatIsDeterministicIsTaken) {
  const std::vector<float> once = multiply(*gemm_);
  ASSERT_EQ(gemm_->choices().size(), 1u);
  const GemmChoice choice = gemm_->choices()[0];
  EXPECT_EQ(choice.shape, kShape);
  EXPECT_FALSE(choice.tuned);
  EXPECT_EQ(kind(choice), FakeAlgorithm::split) << "the fake offers a faster one that is not";
  EXPECT_EQ(multiply(*gemm_), once);
  EXPECT_EQ(multiply(*make()), once) << "a new process, as it were";
}

TEST_F(GemmChoices, AShapeIsAskedForOnce) {
  multiply(*gemm_);
  const std::int64_t asked = fake_cublaslt().heuristics;
  multiply(*gemm_);
  EXPECT_EQ(fake_cublaslt().heuristics, asked);
  multiply(*gemm_, {.extra = 8});
  EXPECT_EQ(fake_cublaslt().heuristics, asked + 1);
}

TEST_F(GemmChoices, AddressesBeyondTheirClassChangeNothing) {
  const std::vector<float> once = multiply(*gemm_);
  EXPECT_EQ(multiply(*gemm_, {.shift = 4}), once);
  EXPECT_EQ(gemm_->choices().size(), 1u);
  multiply(*gemm_, {.shift = 1});  // works, by another algorithm
  EXPECT_EQ(gemm_->choices().size(), 2u);
}

TEST_F(GemmChoices, ATunedRowComesFirst) {
  const std::string rows = section() + tuned_row();
  const std::unique_ptr<Gemm> gemm = make(rows);
  const std::vector<float> tuned = multiply(*gemm);
  ASSERT_EQ(gemm->choices().size(), 1u);
  EXPECT_TRUE(gemm->choices()[0].tuned);
  EXPECT_EQ(kind(gemm->choices()[0]), FakeAlgorithm::plain);
  EXPECT_NE(tuned, multiply(*gemm_)) << "sums in another order";
  EXPECT_EQ(gemm_->hash(), make()->hash());
  EXPECT_NE(gemm_->hash(), gemm->hash());
  // Rows of another device are not ours.
  EXPECT_EQ(make("library 1 device other\n" + tuned_row())->hash(), gemm_->hash());
  // Rows count on alignment: without it the library is asked.
  multiply(*gemm, {.shift = 1});
  EXPECT_FALSE(gemm->choices().at(0).tuned && gemm->choices().at(1).tuned);
}

TEST_F(GemmChoices, ATunedRowThatDoesNotRunEndsTheProgram) {
  AlgorithmWords words{};
  const std::unique_ptr<Gemm> gemm =
      make(section() + fmt::format("{} : {}\n", describe(kShape), describe(words)));
  EXPECT_EXIT(multiply(*gemm), ::testing::ExitedWithCode(70), "tuned algorithm of nn 16 x 24 x 64");
}

std::string message_of(const auto& action) {
  try {
    action();
  } catch (const device::DeviceLost& lost) {
    return lost.what();
  }
  return "nothing was thrown";
}

class GeluGradients : public GemmChoices {
 protected:
  /// Whether the library was asked for the slopes, and what came of it; of bf16 where no layout
  /// says otherwise.
  bool multiply(Gemm& gemm, std::vector<float>& result, const Layout& slopes = {DType::bf16},
                const Layout& rest = {DType::bf16}) {
    const Shifted a = mat(stored(random_values(kM * kK, "a"), rest.dtype), kM, kK, rest);
    const Shifted b = mat(stored(random_values(kK * kN, "b"), rest.dtype), kN, kK, rest);
    const Shifted x = mat(stored(random_values(kM * kN, "x", 2), slopes.dtype), kM, kN, slopes);
    Shifted c = mat(kM, kN, rest);
    const bool done = gemm.multiply_gelu_gradient(
        context_, factors(ProductForm::nt, a.view(), b.view()), c.mat(), x.view());
    result = c.values();
    return done;
  }
  const ProductShape slopes_{ProductForm::nt, kM, kN, kK, DType::bf16, DType::bf16,
                             Epilogue::dgelu};
};

TEST_F(GeluGradients, AreTheLibrarysWhereItHasThem) {
  std::vector<float> once, again;
  const std::int64_t before = fake_cublaslt().matmuls;
  EXPECT_TRUE(multiply(*gemm_, once));
  EXPECT_EQ(fake_cublaslt().matmuls, before + 1);
  ASSERT_EQ(gemm_->choices().size(), 1u);
  EXPECT_EQ(gemm_->choices()[0].shape, slopes_);
  EXPECT_EQ(describe(slopes_), "nt 16 x 24 x 64 bf16 -> bf16 dgelu");
  // Wider rows, other addresses: the same bits.
  EXPECT_TRUE(multiply(*gemm_, again, {DType::bf16, 16, 8}));
  EXPECT_EQ(again, once);
}

TEST_F(GeluGradients, AreLeftToTheCallerWhereItHasNone) {
  std::vector<float> untouched;
  const std::int64_t before = fake_cublaslt().matmuls;
  EXPECT_FALSE(multiply(*gemm_, untouched, {DType::f32}, {DType::f32}));
  EXPECT_FALSE(multiply(*gemm_, untouched, {DType::bf16, 4})) << "rows 8 bytes out of step";
  EXPECT_FALSE(multiply(*gemm_, untouched, {DType::bf16, 0, 1}));
  EXPECT_FALSE(multiply(*gemm_, untouched, {DType::bf16}, {DType::bf16, 3}));
  const std::uint64_t with = gemm_->hash();
  fake_cublaslt().lacks_gelu_gradient = true;
  EXPECT_FALSE(multiply(*gemm_, untouched));
  const std::int64_t asked = fake_cublaslt().heuristics;
  EXPECT_FALSE(multiply(*gemm_, untouched));
  EXPECT_EQ(fake_cublaslt().heuristics, asked) << "asked once";
  EXPECT_NE(make()->hash(), with) << "other bits, another numeric class";
  fake_cublaslt().lacks_gelu_gradient = false;
  EXPECT_EQ(fake_cublaslt().matmuls, before);
  EXPECT_TRUE(gemm_->choices().empty());
}

TEST_F(GeluGradients, ARefusalIsNotALack) {
  std::vector<float> result;
  fake_cublaslt().fail_matmul = true;
  EXPECT_EQ(message_of([&] { multiply(*gemm_, result); }),
            "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED");
}

TEST_F(GemmChoices, AnUnreadableTableIsAnError) {
  const Result<std::unique_ptr<Gemm>> made = Gemm::create(*device_, "nonsense");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, Code::data);
}

TEST_F(GemmChoices, RefusalsLoseTheDeviceByName) {
  fake_cublaslt().fail_heuristic = true;
  EXPECT_EQ(message_of([&] { multiply(*gemm_); }),
            "cublasLtMatmulAlgoGetHeuristic: CUBLAS_STATUS_NOT_SUPPORTED");
  fake_cublaslt().fail_matmul = true;
  EXPECT_EQ(message_of([&] { multiply(*gemm_); }),
            "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED");
  EXPECT_EQ(message_of([&] { multiply(*gemm_); }), "nothing was thrown");
}

TEST_F(GemmChoices, ALibraryThatDoesNotStartIsUnavailable) {
  fake_cublaslt().fail_create = true;
  const Result<std::unique_ptr<Gemm>> made = Gemm::create(*device_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, Code::unavailable);
  EXPECT_NE(made.error().why.find("CUBLAS_STATUS_NOT_INITIALIZED"), std::string::npos);
}

TEST_F(GemmChoices, MismatchedOperandsAreBugs) {
  Shifted a = mat(random_values(6, "a"), 2, 3), c = mat(2, 2);
  const Shifted b = mat(random_values(6, "b"), 2, 3);
  const Shifted narrow = mat(random_values(6, "b"), 3, 2, {DType::bf16});
  const DeviceVector<float> bias(stream_, 1, 0.0f);
  Sums five(stream_, 5);
  EXPECT_EXIT(factors(ProductForm::nn, a.view(), b.view()), ::testing::ExitedWithCode(70), "2 x 3");
  EXPECT_EXIT(factors(ProductForm::nn, a.view(), narrow.view()), ::testing::ExitedWithCode(70),
              "bf16");
  const Factors good = factors(ProductForm::nt, a.view(), b.view());
  EXPECT_EXIT(gemm_->multiply(context_, good, a.mat()), ::testing::ExitedWithCode(70),
              "stored as 2 x 3");
  EXPECT_EXIT(gemm_->multiply(context_, good, c.mat(), bias), ::testing::ExitedWithCode(70),
              "bias of 1 for 2");
  EXPECT_EXIT(gemm_->multiply_into_sink(context_, good, five.sink(true)),
              ::testing::ExitedWithCode(70), "sink of 5 elements for 4");
}

}  // namespace
}  // namespace elaswave::kernels::cuda
