// Device groups that work: values, several groups at once, calls in the right order, the end.
#include "parallel/comm/device_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "io/base/hash.h"
#include "tests/support/device_ranks.h"

namespace elaswave::comm {
namespace {

using test::DeviceRank;
using test::FakeNccl;
using test::run_device_ranks;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Large values of both signs: sums wrap.
std::int64_t number(std::uint64_t seed, int rank, std::size_t i) {
  return static_cast<std::int64_t>(mix64(seed * 1009 + static_cast<std::uint64_t>(rank) * 131 + i));
}
std::vector<std::int64_t> numbers(std::uint64_t seed, int rank, std::size_t count) {
  std::vector<std::int64_t> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = number(seed, rank, i);
  return values;
}
std::vector<std::int64_t> sums(std::uint64_t seed, const Group& group, std::size_t count) {
  std::vector<std::uint64_t> total(count);
  for (const int rank : group.world_ranks)
    for (std::size_t i = 0; i < count; ++i)
      total[i] += static_cast<std::uint64_t>(number(seed, rank, i));
  return {total.begin(), total.end()};
}
std::span<std::byte> bytes_of(std::vector<std::int64_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

void check_sums(DeviceRank& rank, DeviceGroup& group, std::uint64_t seed, std::size_t count) {
  const DeviceQueue queue = rank.stream.queue();
  const auto members = static_cast<std::size_t>(group.size());
  const auto index = static_cast<std::size_t>(group.index());
  auto all = numbers(seed, rank.me(), count);
  ASSERT_TRUE(group.all_reduce_sum(queue, all, "sums", rank.in(kSecond)));
  auto parts = numbers(seed + 1, rank.me(), count * members);
  std::vector<std::int64_t> part(count);
  const bool in_place = seed % 2 == 0;
  const std::span<std::int64_t> out =
      in_place ? std::span(parts).subspan(index * count, count) : std::span(part);
  ASSERT_TRUE(group.reduce_scatter_sum(queue, parts, out, "parts", rank.in(kSecond)));
  const auto drained = rank.drain(group);
  ASSERT_TRUE(drained) << drained.error().text();
  EXPECT_EQ(all, sums(seed, group.group(), count));
  const auto expected = sums(seed + 1, group.group(), count * members);
  for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(out[i], expected[index * count + i]);
}

void check_bytes(DeviceRank& rank, DeviceGroup& group, std::uint64_t seed, std::size_t count) {
  const DeviceQueue queue = rank.stream.queue();
  const auto members = static_cast<std::size_t>(group.size());
  const auto index = static_cast<std::size_t>(group.index());
  auto row = numbers(seed, rank.me(), count);
  std::vector<std::int64_t> rows(count * members);
  ASSERT_TRUE(group.all_gather(queue, bytes_of(row), bytes_of(rows), "rows", rank.in(kSecond)));
  // To the next, from the previous one; a message of bytes that are no whole word.
  const int next = (group.index() + 1) % group.size();
  const auto previous = (index + members - 1) % members;
  std::vector<std::byte> word(count + 3, static_cast<std::byte>(index)), heard(count + 3);
  const Outgoing sent{next, word};
  const Incoming got{static_cast<int>(previous), heard};
  ASSERT_TRUE(group.exchange(queue, {&sent, 1}, {&got, 1}, "ring", rank.in(kSecond)));
  const auto drained = rank.drain(group);
  ASSERT_TRUE(drained) << drained.error().text();
  for (std::size_t member = 0; member < members; ++member) {
    const auto expected = numbers(seed, group.group().world_ranks[member], count);
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(),
                           rows.begin() + static_cast<std::ptrdiff_t>(member * count)));
  }
  EXPECT_EQ(heard, std::vector<std::byte>(count + 3, static_cast<std::byte>(previous)));
}

TEST(DeviceGroup, sums_and_gathers_are_exact) {
  for (int ranks = 1; ranks <= 5; ++ranks)
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      FakeNccl nccl(ranks, seed);
      run_device_ranks(ranks, nccl, [&](DeviceRank& rank) {
        const auto group = rank.make_everyone();
        ASSERT_TRUE(group) << group.error().text();
        EXPECT_EQ((*group)->index(), rank.me());
        for (const std::size_t count : {0U, 1U, 7U, 100U}) {
          check_sums(rank, **group, seed + count, count);
          check_bytes(rank, **group, seed + count, count);
        }
        const auto closed = rank.groups.close_all(rank.in(kSecond));
        EXPECT_TRUE(closed) << closed.error().text();
        EXPECT_EQ(rank.groups.count(), 0);
      });
      for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(nccl.live(rank), 0);
      EXPECT_EQ(nccl.ids_made(), 1);
    }
}

/// Six ranks as two rows of three: each is in a row and in a column.
TEST(DeviceGroup, groups_that_share_ranks_do_not_meet) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    FakeNccl nccl(6, seed);
    run_device_ranks(6, nccl, [&](DeviceRank& rank) {
      const int first = rank.me() / 3 * 3, column = rank.me() % 3;
      // The first member is not the lowest rank.
      const auto row = rank.make({.world_ranks = {first + 2, first, first + 1}});
      ASSERT_TRUE(row) << row.error().text();
      const auto down = rank.make({.world_ranks = {column + 3, column}});
      ASSERT_TRUE(down) << down.error().text();
      const DeviceQueue queue = rank.stream.queue();
      auto across = numbers(seed, rank.me(), 9), along = numbers(seed + 5, rank.me(), 4);
      ASSERT_TRUE((*row)->all_reduce_sum(queue, across, "row", rank.in(kSecond)));
      ASSERT_TRUE((*down)->all_reduce_sum(queue, along, "column", rank.in(kSecond)));
      ASSERT_TRUE(rank.drain(**down));
      EXPECT_EQ(across, sums(seed, (*row)->group(), 9));
      EXPECT_EQ(along, sums(seed + 5, (*down)->group(), 4));
      rank.let_go();
    });
    EXPECT_EQ(nccl.ids_made(), 5);
  }
}

TEST(DeviceGroup, messages_pass_from_stage_to_stage) {
  FakeNccl nccl(3, 1);
  run_device_ranks(3, nccl, [&](DeviceRank& rank) {
    const auto group = rank.make_everyone();
    ASSERT_TRUE(group);
    const DeviceQueue queue = rank.stream.queue();
    std::vector<std::byte> baton(5, std::byte{42});
    if (rank.me() > 0) baton.assign(5, std::byte{0});
    const Deadline deadline = rank.in(kSecond);
    if (rank.me() > 0) {
      ASSERT_TRUE((*group)->receive(queue, rank.me() - 1, baton, "receive", deadline));
    }
    if (rank.me() < 2) {
      ASSERT_TRUE((*group)->send(queue, rank.me() + 1, baton, "send", deadline));
    }
    ASSERT_TRUE(rank.drain(**group));
    EXPECT_EQ(baton, std::vector<std::byte>(5, std::byte{42}));
    rank.let_go();
  });
}

TEST(DeviceGroup, all_groups_are_stopped_before_one_is_released) {
  FakeNccl nccl(2, 1);
  run_device_ranks(2, nccl, [&](DeviceRank& rank) {
    ASSERT_TRUE(rank.make_everyone());
    ASSERT_TRUE(rank.make_everyone());
    rank.let_go();
    rank.let_go();  // again: nothing more happens
  });
  EXPECT_THAT(nccl.calls(0),
              ElementsAre("init 1", "init 2", "revoke 1", "revoke 2", "abort 1", "abort 2"));
}

TEST(DeviceGroup, generations_have_ids_of_their_own) {
  FakeNccl nccl(3, 1);
  run_device_ranks(3, nccl, [&](DeviceRank& rank) {
    for (std::uint32_t generation = 0; generation < 5; ++generation) {
      if (generation > 0) {
        rank.world.publish_view(Generation{generation});
        rank.world.adopt_view(Generation{generation}, std::vector{0, 1, 2});
      }
      const auto group = rank.make_everyone();
      ASSERT_TRUE(group) << group.error().text();
      check_sums(rank, **group, generation, 10);
      rank.let_go();
    }
  });
  EXPECT_EQ(nccl.ids_made(), 5);
}

// The fake is what the tests of the failures stand on: it must see what is wrong.
TEST(FakeNccl, calls_out_of_order_are_noticed) {
  FakeNccl nccl(1, 1);
  RealClock clock;
  const NcclTable table = nccl.table(0, clock);
  test::FakeStream stream(nccl, 0, clock);
  auto last_misuse = [&] { return nccl.misuse().empty() ? std::string() : nccl.misuse().back(); };
  auto settle = [&](ncclComm_t comm) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) (void)table.comm_get_async_error(comm, &state);
  };
  auto make = [&](int blocking) {
    ncclUniqueId id;
    (void)table.get_unique_id(&id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    ncclComm_t comm = nullptr;
    (void)table.comm_init_rank_config(&comm, 1, id, 0, &config);
    return comm;
  };
  EXPECT_EQ(make(1), nullptr);
  EXPECT_THAT(last_misuse(), HasSubstr("wrong arguments"));
  ncclComm_t comm = make(0);
  std::vector<std::int64_t> values(3, 7);
  auto sum = [&] {
    return table.all_reduce(values.data(), values.data(), 3, ncclInt64, ncclSum, comm,
                            stream.queue().handle);
  };
  EXPECT_EQ(sum(), ncclInvalidArgument);
  EXPECT_THAT(last_misuse(), HasSubstr("in progress"));
  settle(comm);
  EXPECT_EQ(table.comm_revoke(comm, 0), ncclInProgress);
  EXPECT_EQ(table.comm_finalize(comm), ncclInvalidArgument);
  EXPECT_THAT(last_misuse(), HasSubstr("finalize of a communicator in progress"));
  settle(comm);
  EXPECT_EQ(table.comm_revoke(comm, 0), ncclInvalidArgument);
  EXPECT_THAT(last_misuse(), HasSubstr("revoked that was ended"));
  EXPECT_EQ(table.comm_finalize(comm), ncclInvalidUsage);
  EXPECT_THAT(last_misuse(), HasSubstr("finalized after revoke"));
  EXPECT_EQ(sum(), ncclInvalidUsage);
  EXPECT_THAT(last_misuse(), HasSubstr("has ended"));
  ncclComm_t other = make(0);
  settle(other);
  const std::size_t before = nccl.misuse().size();
  (void)table.comm_abort(comm);
  EXPECT_EQ(nccl.misuse().size(), before + 1);
  EXPECT_THAT(last_misuse(), HasSubstr("not even revoked"));
  (void)table.comm_abort(comm);
  EXPECT_THAT(last_misuse(), HasSubstr("abort of a communicator that is not there"));
  (void)table.comm_destroy(other);
  EXPECT_THAT(last_misuse(), HasSubstr("not finalized"));
}

}  // namespace
}  // namespace elaswave::comm
