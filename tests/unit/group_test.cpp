// Collectives over groups in any order and over owners of any kind, on the simulated world. The
// same functions run over MPI in world_mpi_test.
#include "parallel/comm/group.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "parallel/comm/simulation.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

void run(int ranks, std::uint64_t seed, const std::function<void(World&)>& body) {
  const auto report = simulate({.ranks = ranks,
                                .seed = seed,
                                .eager_bytes = seed % 3 == 0 ? 0 : 4096,
                                .chunk_bytes = seed % 2 == 0 ? 40 : 4096,
                                .probe = {}},
                               body);
  ASSERT_TRUE(report) << "seed " << seed << ": " << report.error().text();
}

TEST(Group, index_of_finds_members_in_any_order) {
  const Group group{{7, 0, 3}, {}};
  EXPECT_EQ(group.index_of(7), 0);
  EXPECT_EQ(group.index_of(0), 1);
  EXPECT_EQ(group.index_of(3), 2);
  EXPECT_EQ(group.index_of(1), -1);
}

/// Owners by name, for 1 to 8 members.
OwnedRanges owners(const std::string& kind, int members, std::int64_t elems) {
  OwnedRanges owned(static_cast<std::size_t>(members));
  if (kind == "last has all") owned.back() = {{0, elems}};
  if (kind == "even cuts")
    for (std::int64_t m = 0; m < members; ++m)
      owned[static_cast<std::size_t>(m)] = {{elems * m / members, elems * (m + 1) / members}};
  if (kind == "blocks in turn")  // of 3 elements: the last block is shorter
    for (std::int64_t begin = 0, block = 0; begin < elems; begin += 3, ++block)
      owned[static_cast<std::size_t>(block % members)].push_back(
          {begin, std::min(begin + 3, elems)});
  if (kind == "backwards")
    for (std::int64_t end = elems, block = 0; end > 0; end -= 2, ++block)
      owned[static_cast<std::size_t>(block % members)].push_back(
          {std::max<std::int64_t>(end - 2, 0), end});
  return owned;
}

TEST(Group, sums_to_owners_and_back_are_exact) {
  std::uint64_t cases = 0;
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (const char* kind :
         {"nobody owns any", "last has all", "even cuts", "blocks in turn", "backwards"})
      for (const std::int64_t elems : {0, 1, 7, 100, 700}) {
        const std::uint64_t seed = ++cases;
        run(ranks, seed, [&](World& world) {
          Group group = everyone(world);
          std::rotate(group.world_ranks.begin(), group.world_ranks.begin() + ranks / 3,
                      group.world_ranks.end());
          const auto done = test::check_owned(world, group, owners(kind, ranks, elems),
                                              static_cast<std::size_t>(elems), seed,
                                              Deadline::after(world.clock(), 10 * kSecond));
          EXPECT_TRUE(done) << kind << ", " << ranks << " ranks: " << done.error().text();
        });
      }
  std::printf("%llu cases\n", static_cast<unsigned long long>(cases));
}

TEST(Group, random_groups_and_owners) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed)
    run(1 + static_cast<int>(seed % 8), seed, [&](World& world) {
      const auto done = test::random_collectives(world, seed, 5, 300);
      EXPECT_TRUE(done) << "seed " << seed << ": " << done.error().text();
    });
  std::printf("40 seeds of 5 groups\n");
}

}  // namespace
}  // namespace elaswave::comm
