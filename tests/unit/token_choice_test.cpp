#include "model/gpt/token_choice.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace elaswave::gpt {
namespace {

// Masses 1/2, 1/4, 1/8, 1/8 in an order that is not the rank's; powers of two make every boundary
// exact up to the rounding of exp and log.
const float kLn2 = std::log(2.0f);
const std::vector<float> kLogits = {1 - 3 * kLn2, 1 - kLn2, 1 - 3 * kLn2, 1 - 2 * kLn2};

std::int32_t at(const ChoiceRules& rules, double u, const std::vector<float>& logits = kLogits) {
  const auto id = choose_token_at(logits, rules, u);
  EXPECT_TRUE(id.has_value());
  return id.value_or(-1);
}

TEST(TokenChoice, greedy_takes_the_largest_and_the_lowest_id_of_equals) {
  const ChoiceRules greedy = {.temperature = 0};
  EXPECT_EQ(at(greedy, 0.999), 1);
  EXPECT_EQ(at(greedy, 0.5, {2, 3, 1, 3, 3}), 1);
  EXPECT_EQ(at(greedy, 0.5, {-0.0f, 0.0f}), 0);
  EXPECT_EQ(at(greedy, 0.5, {-5}), 0);
}

TEST(TokenChoice, slices_lie_side_by_side_by_id) {
  const ChoiceRules all = {.temperature = 1};
  constexpr double e = 1e-6;  // kLogits are f32: masses are known to about 1e-7
  const double ends[] = {0, 1.0 / 8, 5.0 / 8, 6.0 / 8, 1};
  for (std::int32_t id = 0; id < 4; ++id) {
    EXPECT_EQ(at(all, ends[id] + e), id);
    EXPECT_EQ(at(all, ends[id + 1] - e), id);
  }
  EXPECT_EQ(at(all, 0x1p-53), 0);
  EXPECT_EQ(at(all, 1 - 0x1p-53), 3);
}

TEST(TokenChoice, temperature_scales_logits) {
  // At 1/2 masses are squared: 1/64, 16/64, 1/64, 4/64 of a total of 22/64.
  const ChoiceRules cold = {.temperature = 0.5};
  EXPECT_EQ(at(cold, 1.0 / 22 - 1e-6), 0);
  EXPECT_EQ(at(cold, 1.0 / 22 + 1e-6), 1);
  EXPECT_EQ(at(cold, 17.0 / 22 - 1e-6), 1);
  EXPECT_EQ(at(cold, 17.0 / 22 + 1e-6), 2);
  EXPECT_EQ(at(cold, 18.0 / 22 + 1e-6), 3);
  // Very hot: all alike. So cold that all other masses are 0: the most probable one, ties by id.
  EXPECT_EQ(at({.temperature = 1e30}, 0.74), 2);
  EXPECT_EQ(at({.temperature = 1e-300}, 1e-9), 1);
  EXPECT_EQ(at({.temperature = 1e-300}, 1 - 0x1p-53), 1);
}

TEST(TokenChoice, top_k_keeps_the_most_probable) {
  EXPECT_EQ(at({.temperature = 1, .top_k = 1}, 0.999), 1);
  const ChoiceRules two = {.temperature = 1, .top_k = 2};  // 1/2 and 1/4: 2/3 and 1/3
  EXPECT_EQ(at(two, 2.0 / 3 - 1e-6), 1);
  EXPECT_EQ(at(two, 2.0 / 3 + 1e-6), 3);
  EXPECT_EQ(at(two, 1 - 0x1p-53), 3);
  // Of equals the lowest id stays.
  const ChoiceRules three = {.temperature = 1, .top_k = 3};
  EXPECT_EQ(at(three, 1 - 0x1p-53), 0);
  const ChoiceRules more = {.temperature = 1, .top_k = 100};
  EXPECT_EQ(at(more, 1 - 0x1p-53), 2);
}

TEST(TokenChoice, top_p_keeps_the_smallest_set_that_reaches_the_mass) {
  const auto last = [](double p, std::int64_t k = 0) {
    return at({.temperature = 1, .top_k = k, .top_p = p}, 1 - 0x1p-53);
  };
  EXPECT_EQ(last(1e-300), 1);  // always at least one
  EXPECT_EQ(last(0.5 - 1e-6), 1);
  EXPECT_EQ(last(0.5 + 1e-6), 3);
  EXPECT_EQ(last(0.75 - 1e-6), 3);
  EXPECT_EQ(last(0.75 + 1e-6), 0);
  EXPECT_EQ(last(0.875 + 1e-6), 2);
  EXPECT_EQ(last(1), 3);  // off: by id again
  // After top_k: 2/3 and 1/3 of what is left.
  EXPECT_EQ(last(0.6, 2), 1);
  EXPECT_EQ(last(0.7, 2), 3);
  // The boundary itself: four equal masses are exact.
  const std::vector<float> equal(4, 0.25f);
  EXPECT_EQ(at({.temperature = 1, .top_p = 0.5}, 1 - 0x1p-53, equal), 1);
  EXPECT_EQ(at({.temperature = 1, .top_p = std::nextafter(0.5, 1)}, 1 - 0x1p-53, equal), 2);
  EXPECT_EQ(at({.temperature = 1, .top_k = 4, .top_p = 0.5}, 1 - 0x1p-53, equal), 1);
  EXPECT_EQ(at({.temperature = 1, .top_k = 4, .top_p = std::nextafter(0.5, 1)}, 1 - 0x1p-53, equal),
            2);
}

// Every id comes as often as its mass says, for evenly spaced u: counts are exact up to the two
// ends of each slice.
TEST(TokenChoice, even_numbers_give_even_counts) {
  constexpr int kCount = 8000;
  const ChoiceRules rules[] = {
      {.temperature = 1}, {.temperature = 1, .top_k = 2}, {.temperature = 1, .top_p = 0.8}};
  const double expected[][4] = {
      {1. / 8, 4. / 8, 1. / 8, 2. / 8}, {0, 2. / 3, 0, 1. / 3}, {1. / 7, 4. / 7, 0, 2. / 7}};
  for (int rule = 0; rule < 3; ++rule) {
    int counts[4] = {};
    for (int i = 0; i < kCount; ++i) ++counts[at(rules[rule], (i + 0.5) / kCount)];
    for (int id = 0; id < 4; ++id)
      EXPECT_NEAR(counts[id], expected[rule][id] * kCount, 2) << rule << " " << id;
  }
}

TEST(TokenChoice, a_function_of_seed_and_index) {
  const std::vector<float> even(1000, 0.5f);
  const auto draw = [&](std::uint64_t seed, std::int64_t index) {
    return choose_token(even, {.temperature = 1}, seed, index).value();
  };
  int equal_seeds = 0, equal_indices = 0;
  for (std::int64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(draw(7, i), draw(7, i));
    equal_seeds += draw(7, i) == draw(8, i);
    equal_indices += draw(7, i) == draw(7, i + 1);
  }
  // 200 chances of 1/1000 each: ten hits have probability 1e-14.
  EXPECT_LT(equal_seeds, 10);
  EXPECT_LT(equal_indices, 10);
  // Fixed for ever: a seed names a text.
  EXPECT_EQ(draw(1, 0), 695);
  EXPECT_EQ(draw(1, 1), 45);
  EXPECT_EQ(draw(1, std::int64_t{1} << 40), 478);
}

TEST(TokenChoice, what_is_not_finite_is_an_error) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()})
    for (const double temperature : {0.0, 1.0}) {
      std::vector<float> logits = kLogits;
      logits[2] = bad;
      const auto result = choose_token_at(logits, {.temperature = temperature}, 0.5);
      ASSERT_FALSE(result.has_value());
      EXPECT_EQ(result.error().code, Code::non_finite);
      EXPECT_NE(result.error().where.find("token 2"), std::string::npos);
    }
}

TEST(TokenChoice, rules_out_of_range_are_named) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](const ChoiceRules& rules) -> std::string {
    const auto result = validate(rules);
    return result ? "" : result.error().where;
  };
  EXPECT_EQ(refused({}), "");
  EXPECT_EQ(refused({.temperature = 0, .top_k = 0, .top_p = 1e-9}), "");
  for (const double bad : {-1e-9, kNan, std::numeric_limits<double>::infinity()})
    EXPECT_EQ(refused({.temperature = bad}), "temperature");
  EXPECT_EQ(refused({.top_k = -1}), "top_k");
  for (const double bad : {0.0, -0.5, 1 + 1e-9, kNan}) EXPECT_EQ(refused({.top_p = bad}), "top_p");
}

}  // namespace
}  // namespace elaswave::gpt
