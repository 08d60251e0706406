// io/base/crc32c: published vectors, a bitwise reference, joining, and what a checksum must find.
#include "io/base/crc32c.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

namespace elaswave {
namespace {

std::vector<std::byte> random_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// The definition, bit by bit.
std::uint32_t reference(std::span<const std::byte> bytes) {
  std::uint32_t state = 0xFFFFFFFF;
  for (const std::byte byte : bytes) {
    state ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? 0x82F63B78u : 0);
  }
  return ~state;
}

void expect_crc(const std::vector<std::uint8_t>& bytes, std::uint32_t expected) {
  const auto view = std::as_bytes(std::span(bytes));
  EXPECT_EQ(crc32c(view), expected);
  EXPECT_EQ(crc32c_portable(view), expected);
  EXPECT_EQ(reference(view), expected);
}

TEST(Crc32c, VectorsOfRfc3720) {
  expect_crc({}, 0);
  expect_crc({'1', '2', '3', '4', '5', '6', '7', '8', '9'}, 0xE3069283);
  expect_crc(std::vector<std::uint8_t>(32, 0), 0x8A9136AA);
  expect_crc(std::vector<std::uint8_t>(32, 0xff), 0x62A8AB43);
  std::vector<std::uint8_t> counting(32);
  std::iota(counting.begin(), counting.end(), std::uint8_t{0});
  expect_crc(counting, 0x46DD794E);
  expect_crc({counting.rbegin(), counting.rend()}, 0x113FDB5C);
  expect_crc(
      {0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 4, 0,
       0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0},
      0xD9963A56);
}

TEST(Crc32c, EveryLengthAndAlignmentAgrees) {
  // Beyond 3 x 4096 and with every remainder of 3 x 256 and 8 somewhere.
  const std::vector<std::byte> bytes = random_bytes(40000, 1);
  int cases = 0;
  const auto check = [&](std::size_t begin, std::size_t size) {
    const auto part = std::span(bytes).subspan(begin, size);
    const std::uint32_t expected = reference(part);
    ASSERT_EQ(crc32c(part), expected) << begin << " " << size;
    ASSERT_EQ(crc32c_portable(part), expected) << begin << " " << size;
    ++cases;
  };
  for (std::size_t size = 0; size < 1600; ++size) check(size % 9, size);
  for (std::size_t size = 12288 - 20; size < 12288 + 800; size += 7) check(size % 11, size);
  for (const std::size_t size : {24575u, 24576u, 24577u, 36864u, 39990u}) check(3, size);
  std::printf("campaign: %d lengths\n", cases);
}

TEST(Crc32c, GoesOnWhereItStopped) {
  const std::vector<std::byte> bytes = random_bytes(30000, 2);
  const std::uint32_t whole = crc32c(bytes);
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    const std::size_t cut = random() % (bytes.size() + 1);
    const auto first = std::span(bytes).first(cut);
    const auto second = std::span(bytes).subspan(cut);
    ASSERT_EQ(crc32c(second, crc32c(first)), whole) << cut;
    ASSERT_EQ(crc32c_portable(second, crc32c_portable(first)), whole) << cut;
  }
}

TEST(Crc32c, CombineEqualsTheWhole) {
  std::mt19937_64 random(4);
  int cases = 0;
  for (int i = 0; i < 500; ++i) {
    const std::vector<std::byte> bytes = random_bytes(random() % 5000, random());
    for (const std::size_t cut :
         {std::size_t{0}, bytes.size(), std::size_t(random() % (bytes.size() + 1))}) {
      const auto first = std::span(bytes).first(cut);
      const auto second = std::span(bytes).subspan(cut);
      ASSERT_EQ(crc32c_combine(crc32c(first), crc32c(second), std::ssize(second)), crc32c(bytes))
          << bytes.size() << " cut at " << cut;
      ++cases;
    }
  }
  std::printf("campaign: %d splits\n", cases);
}

TEST(Crc32c, CombineOfSizesBeyondMemory) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 500; ++i) {
    const auto a = static_cast<std::uint32_t>(random());
    const auto b = static_cast<std::uint32_t>(random());
    const auto c = static_cast<std::uint32_t>(random());
    const auto b_bytes = static_cast<std::int64_t>(random() >> (2 + random() % 60));
    const auto c_bytes = static_cast<std::int64_t>(random() >> (2 + random() % 60));
    ASSERT_EQ(crc32c_combine(crc32c_combine(a, b, b_bytes), c, c_bytes),
              crc32c_combine(a, crc32c_combine(b, c, c_bytes), b_bytes + c_bytes));
  }
  // 2^32 zeros after "x", joined of halves, against 65536 blocks of 65536 taken one by one.
  const std::vector<std::byte> zeros(65536);
  std::uint32_t block = crc32c(zeros);
  std::int64_t block_bytes = 65536;
  std::uint32_t stepwise = crc32c(zeros);
  for (int i = 1; i < 65536; ++i) stepwise = crc32c_combine(stepwise, crc32c(zeros), 65536);
  for (; block_bytes < (std::int64_t{1} << 32); block_bytes *= 2)
    block = crc32c_combine(block, block, block_bytes);
  EXPECT_EQ(block, stepwise);
}

TEST(Crc32c, FindsEverySingleBit) {
  std::vector<std::byte> bytes = random_bytes(4096, 6);
  const std::uint32_t whole = crc32c(bytes);
  int found = 0;
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1u << (bit % 8));
    bytes[bit / 8] ^= mask;
    found += crc32c(bytes) != whole ? 1 : 0;
    bytes[bit / 8] ^= mask;
  }
  EXPECT_EQ(found, 32768);
  EXPECT_EQ(crc32c(bytes), whole);
  std::printf("campaign: %d of 32768 flips found\n", found);
}

TEST(Crc32c, FindsWhatFletcherDoesNot) {
  std::vector<std::byte> bytes(4096);
  const std::uint32_t zeros = crc32c(bytes);
  bytes[100] = bytes[101] = std::byte{0xff};
  EXPECT_NE(crc32c(bytes), zeros);
  // Exchanged blocks and cut-off zeros.
  std::vector<std::byte> blocks = random_bytes(8192, 7);
  const std::uint32_t before = crc32c(blocks);
  std::swap_ranges(blocks.begin(), blocks.begin() + 4096, blocks.begin() + 4096);
  EXPECT_NE(crc32c(blocks), before);
  EXPECT_NE(crc32c(std::vector<std::byte>(4095)), zeros);
}

}  // namespace
}  // namespace elaswave
