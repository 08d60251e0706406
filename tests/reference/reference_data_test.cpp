// The reader of the PyTorch reference values: C++ and Python agree on the formulas bit for bit, and
// damage is noticed.
#include "tests/reference/pytorch/reference_data.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <iterator>
#include <string_view>

namespace elaswave::reference {
namespace {

ReferenceData committed() {
  Result<ReferenceData> data = read_reference(ELASWAVE_REFERENCE_FILE);
  EXPECT_TRUE(data.has_value()) << (data ? "" : data.error().text());
  return data.value_or(ReferenceData{});
}

/// A file with the given content, removed at the end of the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content)
      : path_(std::filesystem::temp_directory_path() /
              fmt::format("elaswave_reference_{}.ref", getpid())) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  TemporaryFile(TemporaryFile&&) = delete;
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string committed_bytes() {
  std::ifstream stream(ELASWAVE_REFERENCE_FILE, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string overwritten(std::string text, std::size_t at, std::string_view with) {
  std::ranges::copy(with, text.begin() + static_cast<std::ptrdiff_t>(at));
  return text;
}

TEST(ReferenceData, WeightFormulaRepeatsTheStoredWeightsBitForBit) {
  const ReferenceData data = committed();
  ASSERT_EQ(data.weights.size(), static_cast<std::size_t>(12 * data.recipe.layers + 4));
  for (std::size_t t = 0; t < data.weights.size(); ++t) {
    const Weight& weight = data.weights[t];
    const WeightKind kind =
        weight_kind(weight.name, static_cast<std::int64_t>(weight.shape.size()));
    for (std::size_t i = 0; i < weight.values.size(); ++i) {
      const float value =
          initial_weight(static_cast<std::int64_t>(t), kind, static_cast<std::int64_t>(i));
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(weight.values[i]))
          << weight.name << "[" << i << "]";
    }
  }
}

// Printed once by make_reference.py's tokens_of_step; a change of either side shows here.
TEST(ReferenceData, TokenFormulaRepeatsPython) {
  const ReferenceData data = committed();
  const std::vector<std::int32_t> first = {4, 23, 1, 0, 4, 83, 57, 95};
  const std::vector<std::int32_t> last = {39, 18, 19, 41, 8, 4, 6, 35};
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(token(data.recipe, 1, 0, static_cast<std::int64_t>(i)), first[i]) << i;
    EXPECT_EQ(token(data.recipe, 20, 5, static_cast<std::int64_t>(22 + i)), last[i]) << i;
  }
}

TEST(ReferenceData, HoldsEveryQuantity) {
  const ReferenceData data = committed();
  const Recipe& recipe = data.recipe;
  EXPECT_EQ(data.quantities.at("logits").shape,
            (std::vector<std::int64_t>{recipe.samples, recipe.context, recipe.vocab}));
  EXPECT_EQ(data.quantities.at("token_loss").shape,
            (std::vector<std::int64_t>{recipe.samples, recipe.context}));
  EXPECT_EQ(data.quantities.at("curve/loss").elems(), recipe.steps);
  for (const Weight& weight : data.weights) {
    EXPECT_EQ(data.quantities.at("grad/" + weight.name).shape, weight.shape);
    EXPECT_EQ(data.quantities.at("curve/grad_norm/" + weight.name).elems(), recipe.steps);
  }
  EXPECT_EQ(recipe.lr, 1e-3);
  EXPECT_EQ(recipe.clip, 1.0);
}

// PyTorch's float32 passes its own test, and one part in 10^4 in the gradient does not: the
// yardstick has teeth.
TEST(ReferenceData, ToleranceAcceptsTorchAndRefusesASmallMistake) {
  const ReferenceData data = committed();
  for (const auto& [name, quantity] : data.quantities) {
    if (name.starts_with("curve/")) continue;
    std::vector<double> value(quantity.f32.begin(), quantity.f32.end());
    EXPECT_LE(relative_error(quantity, value), tolerance(quantity)) << name;
    for (double& element : value) element *= 1.0001;
    EXPECT_GT(relative_error(quantity, value), tolerance(quantity)) << name;
  }
}

TEST(ReferenceData, DamageIsAnErrorWithAReason) {
  const std::string good = committed_bytes();
  ASSERT_GT(good.size(), 1000u);
  const std::string cases[] = {
      "",
      good.substr(0, 10),
      good.substr(0, 500),
      good.substr(0, good.size() - 8),
      overwritten(good, 0, "x"),
      overwritten(good, good.find("\nf64 logits"), "\nf65"),
      overwritten(good, good.find("6x29x131"), "6x29xabc"),
  };
  for (const std::string& bytes : cases) {
    const TemporaryFile file(bytes);
    const Result<ReferenceData> data = read_reference(file.path());
    ASSERT_FALSE(data.has_value()) << bytes.size();
    EXPECT_EQ(data.error().code, Code::data);
    EXPECT_FALSE(data.error().why.empty());
  }
  EXPECT_FALSE(read_reference("/nonexistent").has_value());
}

}  // namespace
}  // namespace elaswave::reference
