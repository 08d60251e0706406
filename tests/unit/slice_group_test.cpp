// Tensor groups on the simulated world: rows that do not divide, strides, the two storage types,
// and the order of sums.
#include "parallel/comm/slice_group.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "io/base/bf16.h"
#include "io/base/hash.h"
#include "parallel/comm/simulation.h"

namespace elaswave::comm {
namespace {

using device::ConstMat;
using device::Mat;

constexpr Nanoseconds kPatience = 10 * kSecond;

/// A matrix with a gap after each row; the gaps hold a mark.
struct Strided {
  std::vector<std::byte> bytes;
  Mat view;
  Strided(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap)
      : bytes(static_cast<std::size_t>(rows * (cols + gap) * size_bytes(dtype)), std::byte{0xA5}),
        view{bytes.data(), dtype, rows, cols, cols + gap} {}
  bool gaps_untouched() const {
    for (std::int64_t r = 0; r < view.rows; ++r) {
      const auto width = static_cast<std::size_t>(view.stride * size_bytes(view.dtype));
      const auto used = static_cast<std::size_t>(view.cols * size_bytes(view.dtype));
      const auto begin = static_cast<std::size_t>(r) * width;
      for (std::size_t i = begin + used; i < begin + width; ++i)
        if (bytes[i] != std::byte{0xA5}) return false;
    }
    return true;
  }
};

/// Values of many magnitudes and both signs: no order of adding them gives the bits of another.
float value(std::uint64_t seed, int slice, std::int64_t row, std::int64_t col) {
  const std::uint64_t bits = mix64(mix64(seed * 131 + static_cast<std::uint64_t>(slice)) +
                                   static_cast<std::uint64_t>(row * 1'000'003 + col));
  const float fraction = static_cast<float>(bits >> 40) / static_cast<float>(1 << 24) - 0.5F;
  return std::ldexp(fraction, static_cast<int>(bits % 24) - 12);
}

void simulate_slices(int slices, std::uint64_t seed, const std::function<void(World&)>& body) {
  const auto report = simulate(
      {.ranks = slices, .seed = seed, .chunk_bytes = seed % 2 == 0 ? 64 : 4096, .probe = {}}, body);
  ASSERT_TRUE(report) << "seed " << seed << ": " << report.error().text();
}

/// World ranks in another order than the slices'.
std::vector<int> ranks_reversed(int slices) {
  std::vector<int> ranks;
  for (int slice = 0; slice < slices; ++slice) ranks.push_back(slices - 1 - slice);
  return ranks;
}

struct Shape {
  std::int64_t rows, cols, gap;
};
// Fewer rows than slices, rows that do not divide, rows wider than one block of sums, none at all.
constexpr Shape kShapes[] = {{2, 3, 0}, {3, 5, 2}, {7, 4, 0}, {16, 9, 3}, {5, 1100, 1}, {0, 4, 0}};

TEST(SliceGroup, rows_are_dealt_without_gaps_and_evenly) {
  for (int slices = 1; slices <= 9; ++slices)
    for (std::int64_t rows = 0; rows < 40; ++rows) {
      std::int64_t next = 0;
      for (int slice = 0; slice < slices; ++slice) {
        const RowRange range = rows_of_slice(rows, slice, slices);
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.count(), rows / slices);
        EXPECT_LE(range.count(), ceil_div(rows, slices));
        next = range.end;
      }
      EXPECT_EQ(next, rows);
    }
}

TEST(SliceGroup, gathered_rows_are_everywhere_in_their_places) {
  int cases = 0;
  for (int slices = 1; slices <= 5; ++slices)
    for (const Shape& shape : kShapes)
      for (const DType dtype : {DType::f32, DType::bf16})
        for (const bool in_place : {false, true}) {
          simulate_slices(slices, static_cast<std::uint64_t>(++cases), [&](World& world) {
            SliceGroup group(world, ranks_reversed(slices), kPatience);
            EXPECT_EQ(group.slice(), slices - 1 - world.world_rank());
            const RowRange own = group.rows(shape.rows);
            Strided all(dtype, shape.rows, shape.cols, shape.gap);
            Strided apart(dtype, own.count(), shape.cols, shape.gap + 1);
            const Mat mine = in_place ? all.view.rows_from(own.begin, own.count()) : apart.view;
            // Bytes that tell (row, column, byte) apart.
            auto byte_at = [](std::int64_t row, std::size_t i) {
              return static_cast<std::byte>(row * 37 + static_cast<std::int64_t>(i));
            };
            const auto width = static_cast<std::size_t>(shape.cols * size_bytes(dtype));
            for (std::int64_t r = 0; r < mine.rows; ++r)
              for (std::size_t i = 0; i < width; ++i) mine.row(r)[i] = byte_at(own.begin + r, i);
            const auto gathered = group.gather_rows(mine, all.view, "rows");
            ASSERT_TRUE(gathered) << gathered.error().text();
            for (std::int64_t r = 0; r < shape.rows; ++r)
              for (std::size_t i = 0; i < width; ++i)
                ASSERT_EQ(all.view.row(r)[i], byte_at(r, i)) << "row " << r;
            EXPECT_TRUE(all.gaps_untouched());
          });
        }
  std::printf("%d cases\n", cases);
}

/// The sum a group must give, by the formula.
float sum_in_order(const std::vector<int>& order, std::uint64_t seed, std::int64_t row,
                   std::int64_t col) {
  float sum = value(seed, order[0], row, col);
  for (std::size_t i = 1; i < order.size(); ++i) sum += value(seed, order[i], row, col);
  return sum;
}

std::vector<int> slice_order(int slices, int first) {
  std::vector<int> order;
  for (int i = 0; i < slices; ++i) order.push_back((first + i) % slices);
  return order;
}

TEST(SliceGroup, sums_are_taken_in_slice_order_and_rounded_once) {
  int cases = 0;
  std::int64_t order_matters = 0, rounded = 0;
  for (int slices = 1; slices <= 5; ++slices)
    for (const Shape& shape : kShapes)
      for (const DType dtype : {DType::f32, DType::bf16})
        for (const bool in_place : {false, true}) {
          if (in_place && dtype != DType::f32) continue;
          const auto seed = static_cast<std::uint64_t>(++cases);
          simulate_slices(slices, seed, [&](World& world) {
            SliceGroup group(world, ranks_reversed(slices), kPatience);
            const RowRange own = group.rows(shape.rows);
            Strided partial(DType::f32, shape.rows, shape.cols, shape.gap);
            for (std::int64_t r = 0; r < shape.rows; ++r)
              for (std::int64_t c = 0; c < shape.cols; ++c) {
                const float v = value(seed, group.slice(), r, c);
                std::memcpy(partial.view.row(r) + c * 4, &v, 4);
              }
            Strided apart(dtype, own.count(), shape.cols, 2);
            const Mat mine = in_place ? partial.view.rows_from(own.begin, own.count()) : apart.view;
            const auto summed = group.scatter_sum(partial.view, mine, "sums");
            ASSERT_TRUE(summed) << summed.error().text();
            for (std::int64_t r = 0; r < mine.rows; ++r)
              for (std::int64_t c = 0; c < shape.cols; ++c) {
                const float want = sum_in_order(slice_order(slices, 0), seed, own.begin + r, c);
                // Another order, starting at this slice as a ring would.
                const float ring =
                    sum_in_order(slice_order(slices, group.slice()), seed, own.begin + r, c);
                order_matters += want != ring;
                if (dtype == DType::f32) {
                  float got = 0;
                  std::memcpy(&got, mine.row(r) + c * 4, 4);
                  ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(want));
                } else {
                  bf16 got;
                  std::memcpy(&got, mine.row(r) + c * 2, 2);
                  ASSERT_EQ(got.bits, to_bf16(want).bits);
                  rounded += to_float(got) != want;
                }
              }
            EXPECT_TRUE(partial.gaps_untouched());
            EXPECT_TRUE(apart.gaps_untouched());
          });
        }
  EXPECT_GT(order_matters, 1000);  // else the test could not see a wrong order
  EXPECT_GT(rounded, 1000);
  std::printf("%d cases; another order changes %lld elements\n", cases,
              static_cast<long long>(order_matters));
}

TEST(SliceGroup, three_numbers_whose_order_decides) {
  // (1e8 + -1e8) + 1 = 1, while 1e8 + (-1e8 + 1) = 0 in f32.
  const float addends[] = {1e8F, -1e8F, 1.0F};
  for (std::uint64_t seed = 1; seed <= 40; ++seed)
    simulate_slices(3, seed, [&](World& world) {
      SliceGroup group(world, {2, 0, 1}, kPatience);
      std::vector<float> partial(3, addends[group.slice()]), mine(1, -7.0F);
      const auto summed = group.scatter_sum(device::mat(std::span<const float>(partial), 3, 1),
                                            device::mat(std::span(mine), 1, 1), "order");
      ASSERT_TRUE(summed) << summed.error().text();
      EXPECT_EQ(mine[0], 1.0F) << "seed " << seed;
    });
}

TEST(SliceGroup, gather_puts_every_slices_bytes_in_its_row) {
  for (int slices = 1; slices <= 5; ++slices)
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{1000}})
      simulate_slices(slices, bytes + static_cast<std::uint64_t>(slices), [&](World& world) {
        SliceGroup group(world, ranks_reversed(slices), kPatience);
        const std::vector<std::byte> in(bytes, static_cast<std::byte>(group.slice() + 1));
        std::vector<std::byte> out(bytes * static_cast<std::size_t>(slices));
        const auto gathered = group.gather(in, out, "statistics");
        ASSERT_TRUE(gathered) << gathered.error().text();
        for (std::size_t i = 0; i < out.size(); ++i)
          ASSERT_EQ(out[i], static_cast<std::byte>(i / bytes + 1));
      });
}

// Calls follow one another without a pause: what one leaves under way must not meet the next.
TEST(SliceGroup, many_calls_in_a_row_keep_their_messages_apart) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed)
    simulate_slices(4, seed, [&](World& world) {
      SliceGroup group(world, {0, 1, 2, 3}, kPatience);
      std::vector<float> partial(7 * 3), all(7 * 3);
      for (int round = 0; round < 12; ++round) {
        const RowRange own = group.rows(7);
        for (std::size_t i = 0; i < partial.size(); ++i)
          partial[i] = static_cast<float>(round * 100 + group.slice()) + static_cast<float>(i);
        const Mat place = device::mat(std::span(all), 7, 3).rows_from(own.begin, own.count());
        ASSERT_TRUE(
            group.scatter_sum(device::mat(std::span<const float>(partial), 7, 3), place, "sum"));
        ASSERT_TRUE(group.gather_rows(place, device::mat(std::span(all), 7, 3), "rows"));
        for (std::size_t i = 0; i < all.size(); ++i)
          ASSERT_EQ(all[i], static_cast<float>(4 * round * 100 + 6) + 4 * static_cast<float>(i));
      }
    });
}

}  // namespace
}  // namespace elaswave::comm
