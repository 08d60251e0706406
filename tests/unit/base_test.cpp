// io/base: random numbers, hashing, the exact accumulator, bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "io/base/bf16.h"
#include "io/base/error.h"
#include "io/base/exact_sum.h"
#include "io/base/hash.h"
#include "io/base/philox.h"

namespace elaswave {
namespace {

TEST(Philox, KnownAnswersOfItsAuthors) {
  // Random123's kat_vectors for philox4x32-10: counter words 0..3, key words 0..1.
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox({{0, 0}, {0, 0}}, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({{~0u, ~0u}, {~0u, ~0u}}, ~std::uint64_t{0}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({{0xa4093822, 0x299f31d0}, {0x13198a2e, 0x03707344}}, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, StreamsOfDifferentNamesDiffer) {
  const auto first = random_stream(1, RandomUse::init, 2, 3, 4);
  for (const auto& other :
       {random_stream(2, RandomUse::init, 2, 3, 4), random_stream(1, RandomUse::test, 2, 3, 4),
        random_stream(1, RandomUse::init, 3, 2, 4), random_stream(1, RandomUse::init, 2, 3, 5)})
    EXPECT_NE(philox(first, 0), philox(other, 0));
}

TEST(Philox, UniformStaysInsideTheOpenInterval) {
  EXPECT_GT(uniform01(0), 0.0f);
  EXPECT_LT(uniform01(~0u), 1.0f);
}

TEST(Hash, Mix64IsABijectionOnSamples) {
  // Injective by construction; here every one-bit difference of some values must show.
  for (std::uint64_t value : {0ull, 1ull, 0x0123456789abcdefull, ~0ull})
    for (int bit = 0; bit < 64; ++bit)
      EXPECT_NE(mix64(value), mix64(value ^ (std::uint64_t{1} << bit)));
}

TEST(Hash, BytesSeeLengthAndTail) {
  EXPECT_NE(hash_text("a"), hash_text(std::string_view("a\0", 2)));
  EXPECT_NE(hash_text("12345678"), hash_text("123456780"));
  EXPECT_NE(hash_text(""), hash_text(std::string_view("\0", 1)));
}

TEST(ExactSum, OneValueComesBack) {
  const double values[] = {0.0,
                           1.0,
                           -1.0,
                           0.1,
                           -1e300,
                           1e-300,
                           5e-324,
                           -5e-324,
                           2.2250738585072014e-308,
                           std::numeric_limits<double>::max(),
                           std::numeric_limits<double>::lowest()};
  for (const double value : values) {
    ExactSum sum;
    sum.add(value);
    EXPECT_EQ(sum.value(), value) << value;
  }
}

TEST(ExactSum, CancellationIsExact) {
  ExactSum sum;
  for (const double value : {1e308, 1.0, 1e308, -1e308, 1e-300, -1e308, -1.0}) sum.add(value);
  EXPECT_EQ(sum.value(), 1e-300);
}

TEST(ExactSum, RoundsToNearestEvenOnce) {
  const double ulp = std::numeric_limits<double>::epsilon();
  ExactSum tie;
  tie.add(1.0);
  tie.add(ulp / 2);
  EXPECT_EQ(tie.value(), 1.0);
  tie.add(5e-324);  // a hair above the tie
  EXPECT_EQ(tie.value(), 1.0 + ulp);
  ExactSum odd;
  odd.add(1.0 + ulp);
  odd.add(ulp / 2);
  EXPECT_EQ(odd.value(), 1.0 + 2 * ulp);
}

TEST(ExactSum, MatchesWideIntegersOnRandomValues) {
  // Values that are multiples of 2^-60 below 2^20 in magnitude: their sum is exact in a 128-bit
  // integer.
  __extension__ using Wide = __int128;
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    ExactSum sum;
    Wide expected = 0;
    for (int i = 0; i < 100; ++i) {
      const auto mantissa = static_cast<std::int64_t>(random() >> 11) * ((random() & 1) ? 1 : -1);
      const int shift = static_cast<int>(random() % 20);
      sum.add(std::ldexp(static_cast<double>(mantissa), shift - 60));
      expected += static_cast<Wide>(mantissa) * (Wide{1} << shift);
    }
    // The conversion of a 128-bit integer to double rounds to nearest even.
    EXPECT_EQ(sum.value(), std::ldexp(static_cast<double>(expected), -60));
  }
}

TEST(ExactSum, AnyOrderAndGroupingHasTheSameBits) {
  std::mt19937_64 random(11);
  std::vector<double> values(1000);
  for (double& value : values)
    value = std::ldexp(static_cast<double>(static_cast<std::int64_t>(random())),
                       static_cast<int>(random() % 400) - 200);
  ExactSum straight;
  for (const double value : values) straight.add(value);
  for (int round = 0; round < 20; ++round) {
    std::shuffle(values.begin(), values.end(), random);
    std::array<ExactSum, 7> parts;
    for (const double value : values) parts[random() % parts.size()].add(value);
    ExactSum total;
    for (const ExactSum& part : parts) total.add(part);
    EXPECT_EQ(total.value(), straight.value());
  }
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(to_float(to_bf16(1.0f)), 1.0f);
  EXPECT_EQ(to_float(to_bf16(std::bit_cast<float>(0x3F808000u))), 1.0f);  // tie to even
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3F818000u)).bits, 0x3F82);     // tie to even
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3F808001u)).bits, 0x3F81);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7F800001u)))));
  EXPECT_TRUE(std::isinf(to_float(to_bf16(std::numeric_limits<float>::max()))));
}

TEST(Error, TextHasFourLines) {
  const Error error{.code = Code::data, .what = "a", .where = "b", .why = "c", .fix = "d"};
  EXPECT_EQ(error.text(), "error: a\n  where: b\n  why:   c\n  fix:   d");
  EXPECT_EQ(exit_code(Code::data), 3);
  EXPECT_EQ(exit_code(Code::stopped), 75);
}

TEST(ErrorDeathTest, CheckEndsTheProcessWith70) {
  EXPECT_EXIT(EW_CHECK(1 == 2, "value {}", 42), testing::ExitedWithCode(70), "value 42");
}

}  // namespace
}  // namespace elaswave
