// Device groups that fail: every planted fault ends in time, as the right error or as StepAborted,
// and the next generation works. Time is the simulation's, so "in time" is exact.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "io/base/hash.h"
#include "parallel/comm/device_group.h"
#include "tests/support/device_ranks.h"

namespace elaswave::comm {
namespace {

using test::DeviceRank;
using test::FakeNccl;
using test::run_device_ranks;
using ::testing::HasSubstr;

constexpr Nanoseconds kPatience = 200 * kMillisecond;

Code code_of(const Result<void>& result) {
  EXPECT_FALSE(result);
  return result ? Code::bug : result.error().code;
}
Code code_of(const Result<DeviceGroup*>& result) {
  EXPECT_FALSE(result);
  return result ? Code::bug : result.error().code;
}

/// Sums of ones over a group: how many members gave.
Result<std::int64_t> count_members(DeviceRank& rank, DeviceGroup& group, Nanoseconds patience) {
  std::vector<std::int64_t> ones(3, 1);
  Result<void> done = group.all_reduce_sum(rank.stream.queue(), ones, "count", rank.in(patience));
  if (done) done = rank.drain(group, patience);
  if (!done) {
    rank.let_go();  // before the memory goes
    return fail(done.error());
  }
  EXPECT_EQ(ones, std::vector<std::int64_t>(3, ones[0]));
  return ones[0];
}

void enter(World& world, Generation generation, std::vector<int> live) {
  world.publish_view(generation);
  world.adopt_view(generation, live);
}

TEST(DeviceGroupFault, a_communicator_that_is_never_made_ends_at_the_deadline) {
  FakeNccl nccl(3, 1);
  nccl.faults(1).init_hangs = true;
  run_device_ranks(3, nccl, [&](DeviceRank& rank) {
    if (rank.me() != 1) {  // the others have come as far as they can
      EXPECT_TRUE(rank.make_everyone(kPatience));
      rank.let_go();
      return;
    }
    const Nanoseconds begin = rank.now();
    const auto group = rank.make_everyone(kPatience);
    EXPECT_EQ(code_of(group), Code::deadline);
    EXPECT_EQ(rank.now(), begin + kPatience);
    EXPECT_THAT(group.error().where, HasSubstr("rank 1, 'make a group', ranks 0 1 2"));
    // It cannot be stopped, and is aborted all the same.
    EXPECT_EQ(rank.groups.stop_all(rank.in(kSecond)), 1);
    EXPECT_TRUE(rank.groups.release_all(rank.in(kSecond)));
  });
  EXPECT_EQ(nccl.live(1), 0);
}

TEST(DeviceGroupFault, a_peer_that_does_not_join_is_waited_for_until_the_deadline) {
  FakeNccl nccl(3, 1);
  run_device_ranks(3, nccl, [&](DeviceRank& rank) {
    // Rank 2 takes its id and dies.
    if (rank.me() == 2) nccl.faults(2).init_error = ncclSystemError;
    const auto group = rank.make_everyone(kPatience);
    if (rank.me() == 2) {
      EXPECT_EQ(code_of(group), Code::unrecoverable);
      EXPECT_THAT(group.error().why, HasSubstr("planted"));
    }
    rank.let_go();
  });

  FakeNccl waiting(3, 1);
  run_device_ranks(3, waiting, [&](DeviceRank& rank) {
    auto share = [&](std::span<std::byte> bytes, Deadline deadline) {
      return broadcast(rank.world, everyone(rank.world), 0, bytes, "id", deadline);
    };
    if (rank.me() == 2) {
      std::vector<std::byte> id(24 + NCCL_UNIQUE_ID_BYTES);
      ASSERT_TRUE(share(id, rank.in(kSecond)));
      return;
    }
    const Nanoseconds begin = rank.now();
    EXPECT_EQ(code_of(rank.groups.make(everyone(rank.world), share, rank.in(kPatience))),
              Code::deadline);
    EXPECT_EQ(rank.now(), begin + kPatience);
    EXPECT_EQ(rank.groups.stop_all(rank.in(kSecond)), 1);
    EXPECT_TRUE(rank.groups.release_all(rank.in(kSecond)));
  });
}

TEST(DeviceGroupFault, the_agents_word_ends_the_making_of_a_group) {
  FakeNccl nccl(2, 1);
  for (int rank = 0; rank < 2; ++rank) nccl.faults(rank).init_hangs = true;
  SimulationOptions options{.ranks = 2, .probe = {}};
  Nanoseconds told = 0;
  std::vector<World*> worlds(2);
  options.control = [&](SimulationControl& control) {
    control.at(10 * kMillisecond, [&] {
      told = control.now();
      for (World* world : worlds) world->publish_view(Generation{4});
    });
  };
  run_device_ranks(options, nccl, [&](DeviceRank& rank) {
    worlds[static_cast<std::size_t>(rank.me())] = &rank.world;
    EXPECT_THROW((void)rank.make_everyone(kSecond), StepAborted);
    EXPECT_LE(rank.now(), told + 2 * kMillisecond);
    EXPECT_EQ(rank.groups.count(), 1);  // begun, so to be released
    EXPECT_EQ(rank.groups.stop_all(rank.in(kSecond)), 1);
    EXPECT_TRUE(rank.groups.release_all(rank.in(kSecond)));
  });
}

TEST(DeviceGroupFault, no_id_is_told_to_all_members) {
  FakeNccl nccl(3, 1);
  nccl.faults(0).id_error = ncclSystemError;
  run_device_ranks(3, nccl, [&](DeviceRank& rank) {
    EXPECT_EQ(code_of(rank.make_everyone(kPatience)), Code::unrecoverable);
    EXPECT_LT(rank.now(), kPatience);
    EXPECT_EQ(rank.groups.count(), 0);
  });
}

TEST(DeviceGroupFault, an_id_of_another_generation_is_refused) {
  FakeNccl nccl(1, 1);
  run_device_ranks(1, nccl, [&](DeviceRank& rank) {
    std::vector<std::byte> first;
    auto keep = [&](std::span<std::byte> bytes, Deadline) -> Result<void> {
      if (first.empty()) first.assign(bytes.begin(), bytes.end());
      std::copy(first.begin(), first.end(), bytes.begin());
      return {};
    };
    EXPECT_TRUE(rank.groups.make(everyone(rank.world), keep, rank.in(kSecond)));
    rank.let_go();
    enter(rank.world, Generation{1}, {0});
    EXPECT_EQ(code_of(rank.groups.make(everyone(rank.world), keep, rank.in(kSecond))),
              Code::unrecoverable);
    EXPECT_EQ(rank.groups.count(), 0);
  });
}

TEST(DeviceGroupFault, an_error_found_later_ends_the_wait_and_every_call_after_it) {
  for (std::int64_t op = 0; op < 3; ++op) {
    FakeNccl nccl(2, static_cast<std::uint64_t>(op) + 1);
    nccl.faults(1).error_at_op = op;
    run_device_ranks(2, nccl, [&](DeviceRank& rank) {
      const auto group = rank.make_everyone();
      ASSERT_TRUE(group);
      for (std::int64_t i = 0; i < op; ++i)
        EXPECT_EQ(count_members(rank, **group, kPatience).value_or(0), 2);
      std::vector<std::int64_t> ones(3, 1);
      ASSERT_TRUE((*group)->all_reduce_sum(rank.stream.queue(), ones, "count", rank.in(kPatience)));
      const Nanoseconds begin = rank.now();
      const auto drained = rank.drain(**group, kPatience);
      // The other end hears nothing, as over NVLink.
      EXPECT_EQ(code_of(drained), rank.me() == 1 ? Code::unrecoverable : Code::deadline);
      EXPECT_EQ(rank.now() == begin + kPatience, rank.me() == 0);
      const auto again =
          (*group)->all_reduce_sum(rank.stream.queue(), ones, "again", rank.in(kPatience));
      EXPECT_EQ(code_of(again), drained.error().code);
      EXPECT_EQ(again.error().text(), drained.error().text());
      // What reported an error cannot be revoked.
      EXPECT_EQ(rank.groups.stop_all(rank.in(kSecond)), rank.me() == 1 ? 1 : 0);
      EXPECT_TRUE(rank.groups.release_all(rank.in(kSecond)));
      // Nobody may believe what a stopped operation leaves.
      EXPECT_EQ(std::as_bytes(std::span(ones))[0], test::kGarbage);
    });
  }
}

TEST(DeviceGroupFault, errors_have_the_code_that_callers_act_on) {
  const std::pair<ncclResult_t, Code> codes[] = {{ncclUnhandledCudaError, Code::device_lost},
                                                 {ncclInvalidUsage, Code::bug},
                                                 {ncclInternalError, Code::unrecoverable},
                                                 {ncclSystemError, Code::unrecoverable}};
  for (const auto& [result, code] : codes) {
    FakeNccl nccl(1, 1);
    nccl.faults(0).error_at_op = 0;
    nccl.faults(0).async_error = result;
    run_device_ranks(1, nccl, [&, code = code](DeviceRank& rank) {
      const auto group = rank.make_everyone();
      ASSERT_TRUE(group);
      const auto counted = count_members(rank, **group, kPatience);
      ASSERT_FALSE(counted);
      EXPECT_EQ(counted.error().code, code);
    });
  }
}

TEST(DeviceGroupFault, an_operation_that_stays_in_progress_is_given_up_and_only_aborted) {
  FakeNccl nccl(2, 1);
  run_device_ranks(2, nccl, [&](DeviceRank& rank) {
    const auto group = rank.make_everyone();
    ASSERT_TRUE(group);
    for (int i = 0; i < 2; ++i) nccl.faults(i).op_stays_in_progress = true;
    const Nanoseconds begin = rank.now();
    std::vector<std::byte> byte(1), other(1);
    const Outgoing sent{1 - rank.me(), byte};
    const Incoming got{1 - rank.me(), other};
    const auto enqueued =
        (*group)->exchange(rank.stream.queue(), {&sent, 1}, {&got, 1}, "swap", rank.in(kPatience));
    EXPECT_EQ(code_of(enqueued), Code::deadline);
    EXPECT_EQ(rank.now(), begin + kPatience);
    EXPECT_EQ(rank.groups.stop_all(rank.in(kSecond)), 1);
    EXPECT_TRUE(rank.groups.release_all(rank.in(kSecond)));
    EXPECT_EQ(nccl.calls(rank.me()).back(), "abort 1");
  });
}

TEST(DeviceGroupFault, a_group_that_does_not_stop_is_told_and_released) {
  for (const bool refuses : {false, true}) {
    FakeNccl nccl(2, 3);
    nccl.faults(1).revoke_hangs = !refuses;
    nccl.faults(1).revoke_error = refuses ? ncclInternalError : ncclSuccess;
    run_device_ranks(2, nccl, [&](DeviceRank& rank) {
      ASSERT_TRUE(rank.make_everyone());
      ASSERT_TRUE(rank.make_everyone());
      const Nanoseconds begin = rank.now();
      EXPECT_EQ(rank.groups.stop_all(rank.in(kPatience)), rank.me() == 1 ? 2 : 0);
      EXPECT_LE(rank.now(), begin + kPatience);
      EXPECT_EQ(rank.groups.stop_all(rank.in(kPatience)), 0);  // nobody is told twice
      EXPECT_TRUE(rank.groups.release_all(rank.in(kSecond)));
      EXPECT_EQ(nccl.live(rank.me()), 0);
    });
  }
}

TEST(DeviceGroupFault, an_abort_that_hangs_is_left_behind_and_keeps_nobody_else) {
  FakeNccl nccl(1, 1);
  nccl.faults(0).aborts_to_hang = 1;
  run_device_ranks(1, nccl, [&](DeviceRank& rank) {
    ASSERT_TRUE(rank.make_everyone());
    ASSERT_TRUE(rank.make_everyone());
    EXPECT_EQ(rank.groups.stop_all(rank.in(kSecond)), 0);
    for (int i = 0; i < 2; ++i) {  // the second time nothing is called again
      const Nanoseconds begin = rank.now();
      const auto released = rank.groups.release_all(rank.in(kPatience));
      EXPECT_EQ(code_of(released), Code::device_lost);
      EXPECT_THAT(released.error().what, HasSubstr("let go of 1 of"));
      EXPECT_EQ(rank.now(), begin + kPatience);
      EXPECT_EQ(rank.groups.count(), 1);
      EXPECT_EQ(nccl.live(0), 1);
    }
  });
}

TEST(DeviceGroupFault, an_end_in_good_order_that_hangs_turns_into_an_abort) {
  FakeNccl nccl(2, 1);
  nccl.faults(1).finalize_hangs = true;
  run_device_ranks(2, nccl, [&](DeviceRank& rank) {
    ASSERT_TRUE(rank.make_everyone());
    ASSERT_TRUE(rank.make_everyone());
    const auto closed = rank.groups.close_all(rank.in(kPatience));
    EXPECT_EQ(closed.has_value(), rank.me() == 0);
    if (!closed) {
      EXPECT_EQ(closed.error().code, Code::deadline);
    }
    rank.let_go();
    EXPECT_EQ(nccl.live(rank.me()), 0);
  });
}

TEST(DeviceGroupFault, a_lost_device_is_no_error_of_the_group) {
  FakeNccl nccl(1, 1);
  run_device_ranks(1, nccl, [&](DeviceRank& rank) {
    const auto group = rank.make_everyone();
    ASSERT_TRUE(group);
    rank.faults().device_lost = true;
    EXPECT_THROW((void)rank.drain(**group), device::DeviceLost);
    rank.let_go();
  });
}

/// The whole course of recovery, as the header gives it: ranks die one after another, at any time.
struct Course {
  FakeNccl nccl;
  std::vector<World*> worlds;
  std::vector<int> live;
  std::uint32_t generation = 0;
  int recovered = 0;

  explicit Course(int ranks, std::uint64_t seed)
      : nccl(ranks, seed), worlds(static_cast<std::size_t>(ranks)) {
    for (int rank = 0; rank < ranks; ++rank) live.push_back(rank);
  }
  void lose(SimulationControl& control, int world_rank) {
    control.kill(world_rank);
    nccl.died(world_rank);
    std::erase(live, world_rank);
  }
  void publish() {
    ++generation;
    for (const int rank : live)
      worlds[static_cast<std::size_t>(rank)]->publish_view(Generation{generation});
  }

  /// Until the end, or until the view ends. `values` outlive what is under way on them.
  Result<void> work(DeviceRank& rank, std::vector<std::int64_t>& values, Nanoseconds end) {
    EW_ASSIGN(DeviceGroup* const group, rank.make_everyone(10 * kSecond));
    values[0] = 0;
    while (values[0] == 0) {
      std::fill(values.begin(), values.end(), 1);
      values[0] = rank.now() < end ? 0 : 1;  // all leave after the same step
      EW_TRY(group->all_reduce_sum(rank.stream.queue(), values, "step", rank.in(10 * kSecond)));
      EW_TRY(rank.drain(*group, 10 * kSecond));
      EXPECT_EQ(values[1], group->size());
      EXPECT_EQ(values.back(), group->size());
    }
    return {};
  }

  void run(DeviceRank& rank, Nanoseconds end) {
    worlds[static_cast<std::size_t>(rank.me())] = &rank.world;
    std::vector<std::int64_t> values(100);
    std::optional<Generation> next;
    for (;;) {
      try {
        if (next) {
          rank.groups.stop_all(rank.in(kSecond));
          rank.world.adopt_view(*next, live);
          std::int64_t present = 1;  // the barrier of the survivors
          EXPECT_TRUE(all_reduce_sum(rank.world, everyone(rank.world), {&present, 1}, "barrier",
                                     rank.in(10 * kSecond)));
          const auto released = rank.groups.release_all(rank.in(kSecond));
          EXPECT_TRUE(released) << released.error().text();
          ++recovered;
        }
        const auto worked = work(rank, values, end);
        EXPECT_TRUE(worked) << worked.error().text();
        rank.let_go();
        return;
      } catch (const StepAborted& abort) {
        next = abort.generation();
      }
    }
  }
};

TEST(DeviceGroupFault, the_next_generation_works_with_fewer_ranks) {
  int recovered = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Course course(5, seed);
    SimulationOptions options{.ranks = 5, .seed = seed, .probe = {}};
    options.control = [&](SimulationControl& control) {
      for (std::uint64_t death = 0; death < 3; ++death) {
        // Now and then within the recovery from the death before.
        const auto when = static_cast<Nanoseconds>((death + 1) * 2'000'000 +
                                                   mix64(seed * 10 + death) %
                                                       (seed % 2 == 0 ? 100'000 : 4'000'000));
        control.at(when, [&course, &control, seed, death, when] {
          const std::uint64_t draw = mix64(seed * 100 + death) % course.live.size();
          course.lose(control, course.live[static_cast<std::size_t>(draw)]);
          control.at(when + 300'000, [&course] { course.publish(); });  // found out later
        });
      }
    };
    run_device_ranks(options, course.nccl,
                     [&](DeviceRank& rank) { course.run(rank, 20 * kMillisecond); });
    EXPECT_GE(course.recovered, 2) << "seed " << seed;
    EXPECT_EQ(course.live.size(), 2U);
    for (const int rank : course.live) EXPECT_EQ(course.nccl.live(rank), 0);
    recovered += course.recovered;
  }
  std::printf("%d recoveries of a rank\n", recovered);
}

}  // namespace
}  // namespace elaswave::comm
