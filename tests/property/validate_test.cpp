// The validator: its words on small schedules, its verdicts on thousands of damaged ones against a
// model that runs them.
#include <gtest/gtest.h>

#include "parallel/pipeline/schedule.h"
#include "tests/support/mutate_schedule.h"
#include "tests/support/program_model.h"
#include "tests/support/schedule_plans.h"

namespace elaswave {
namespace {

using layout::Plan;
using test::Delivery;
using test::make_plan;
using test::with_rows;

Plan two_stages(const std::vector<std::string>& rows, std::int64_t micro_batches) {
  return with_rows(
      make_plan({.stage_of_chunk = {0, 1}, .replicas = {1, 1}, .micro_batches = micro_batches}),
      rows);
}

struct BadRows {
  std::vector<std::string> rows;
  std::size_t row, column;
  std::string what;
};

TEST(Validate, NamesWhatIsWrongWithARow) {
  const BadRows cases[] = {
      {{"0F0 0B0 0F1", "1F0 1B0 1F1 1B1"}, 0, 3, "0B1 is missing, or 0I1 and 0W1"},
      {{"0F0 0B0 0F1 0I1", "1F0 1B0 1F1 1B1"}, 0, 4, "0W1 is missing"},
      {{"0F0 0B0", "1F0 1B0 1F1 1B1"}, 0, 2, "0F1 is missing"},
      {{"0F0 0B0 0B1 0F1", "1F0 1B0 1F1 1B1"}, 0, 2, "0B1 has no 0F1 before it"},
      {{"0F0 0B0 0F1 0B1", "1F0 1B0 1F0 1B1"}, 1, 2, "1F0 is already at column 0"},
      {{"0F0 0B0 0F1 0B1", "1F0 0B0 1F1 1B1"}, 1, 1, "0B0: chunk 0 belongs to stage 0"},
      {{"0F0 0B0 0F1 0B1", "1F0 2B0 1F1 1B1"}, 1, 1, "2B0: there is no chunk 2, the last is 1"},
      {{"0F0 0B0 0F1 0B1", "1F0 1B2 1F1 1B1"},
       1,
       1,
       "1B2: there is no micro-batch 2, the last is 1"},
      {{"0F0 0B0 0F1 0B1", "1F0 1B0 1R0 1F1 1B1"}, 1, 2, "1R0 comes after 1B0"},
      {{"0F0 0B0 0F1 0B1", "1F0 1W0 1I0 1F1 1B1"}, 1, 1, "1W0 has no 1I0 before it"},
      {{"0F0 0B0 0F1 0B1", "1F0 1B0 1I0 1W0 1F1 1B1"}, 1, 2, "1I0 comes after 1B0"},
      {{"0F0 0B0 0F1 0B1", "1F0 1I0 1B0 1F1 1B1"}, 1, 2, "1B0 comes after 1I0"},
      {{"0F0 0F1 0B0", "1F0 1F1"}, 0, 3, "0B1 is missing, or 0I1 and 0W1"},
      {{"0F0 0F1", "1F0"}, 1, 1, "1F1 is missing"},
  };
  for (const BadRows& bad : cases) {
    const Plan plan = two_stages(bad.rows, 2);
    const pipeline::ScheduleFault fault = pipeline::check_rows(plan);
    EXPECT_EQ(fault.what, bad.what);
    EXPECT_EQ(fault.row, bad.row) << bad.what;
    EXPECT_EQ(fault.column, bad.column) << bad.what;
    EXPECT_EQ(pipeline::check_schedule(plan, 0).what, bad.what);
    EXPECT_FALSE(test::rows_are_complete(plan));
  }
  Plan plan = test::with_gpipe(make_plan({.replicas = {2}, .micro_batches = 2}));
  std::swap(plan.schedule[0], plan.schedule[1]);
  EXPECT_EQ(pipeline::check_rows(plan).what,
            "0F1: micro-batch 1 is routed to replica 1 of this stage");
  plan.schedule.pop_back();
  EXPECT_EQ(pipeline::check_rows(plan).what, "1 rows for 2 replicas");
  const Plan alone = make_plan({.stage_of_chunk = {0, 0}, .replicas = {1}});
  EXPECT_EQ(pipeline::check_rows(with_rows(alone, {"1F0 0F0 1B0 0B0"})).what,
            "1F0 has no 0F0 before it");
  EXPECT_EQ(pipeline::check_rows(with_rows(alone, {"0F0 1F0 0I0 1B0 0W0"})).what,
            "0I0 has no 1B0 before it");
}

TEST(Validate, ForwardsAloneAreComplete) {
  EXPECT_EQ(pipeline::check_schedule(two_stages({"0F0 0F1", "1F0 1F1"}, 2), 0).what, "");
  EXPECT_EQ(pipeline::check_schedule(two_stages({"", ""}, 0), 0).what, "");
}

TEST(Validate, ShowsTheCircle) {
  const Plan plan =
      with_rows(make_plan({.stage_of_chunk = {0, 1, 0, 1}, .replicas = {1, 1}, .micro_batches = 2}),
                {"0F0 2F0 2B0 0B0 0F1 2F1 2B1 0B1", "1F0 1F1 3F0 3B0 1B0 3F1 3B1 1B1"});
  const pipeline::ScheduleFault fault = pipeline::check_schedule(plan, 0);
  EXPECT_EQ(
      pipeline::fault_text(plan, fault),
      "stage 1, replica 0, column 1: the step cannot end: 1F1 waits for 0F1 of stage 0, "
      "replica 0, which is to do 2B0 first; 2B0 waits for 3B0 of stage 1, replica 0, which is "
      "to do 1F1 first\n"
      "  stage 0, replica 0 | 0F0  2F0  2B0  0B0  0F1  2F1  2B1  0B1\n"
      "> stage 1, replica 0 | 1F0 [1F1] 3F0  3B0  1B0  3F1  3B1  1B1\n");
}

TEST(Validate, SendsThatNobodyAwaitsAreADeadlock) {
  // Stage 1 wants the sixth micro-batch first. Receives are posted in the order of sending, so all
  // are posted for it, and this ends ...
  const Plan late = two_stages({"0F0 0F1 0F2 0F3 0F4 0F5", "1F5 1F0 1F1 1F2 1F3 1F4"}, 6);
  EXPECT_EQ(pipeline::check_schedule(late, 0).what, "");
  // ... but not where stage 1 waits for what stage 0 sends to another after that.
  const Plan plan = with_rows(
      make_plan({.stage_of_chunk = {0, 1, 0, 2, 1}, .replicas = {1, 1, 1}, .micro_batches = 6}),
      {"0F0 0F1 0F2 0F3 0F4 0F5 2F0 2F1 2F2 2F3 2F4 2F5",
       "1F0 4F0 1F1 4F1 1F2 4F2 1F3 4F3 1F4 4F4 1F5 4F5", "3F0 3F1 3F2 3F3 3F4 3F5"});
  const pipeline::ScheduleFault fault = pipeline::check_schedule(plan, 0);
  EXPECT_EQ(
      fault.what,
      "the step cannot end: 0F4 has no room to send: 2 messages wait for stage 1, replica 0 to "
      "await them, which is to do 4F0 first; 4F0 waits for 3F0 of stage 2, replica 0; 3F0 "
      "waits for 2F0 of stage 0, replica 0, which is to do 0F4 first");
  EXPECT_EQ(fault.row, 0u);
  EXPECT_EQ(fault.column, 4u);
  EXPECT_FALSE(test::run_programs(plan, Delivery::rendezvous, 1).ended);
  EXPECT_TRUE(test::run_programs(plan, Delivery::buffered, 1).ended);
}

TEST(Validate, TwoSendsMayWaitAndNoMore) {
  // Replica 0 of stage 1 awaits nothing of replica 0 of stage 0 before 1B4, which takes 0F3.
  test::PlanShape shape{{0, 1, 2}, {2, 2, 1}, 6};
  Plan plan = make_plan(shape);
  const std::vector<std::int32_t> first = {0, 0, 0, 0, 1, 1}, second = {0, 0, 0, 1, 0, 0};
  for (std::size_t micro = 0; micro < first.size(); ++micro) {
    plan.route[3 * micro] = first[micro];
    plan.route[3 * micro + 1] = second[micro];
  }
  const std::vector<std::string> rest = {"0F4 0B4 0F5 0B5",
                                         "1F4 1B4 1F5 1B5 1F0 1B0 1F1 1B1 1F2 1B2", "1F3 1B3",
                                         "2F3 2B3 2F4 2B4 2F5 2B5 2F0 2B0 2F1 2B1 2F2 2B2"};
  const auto check = [&](const std::string& row) {
    std::vector<std::string> rows = {row};
    rows.insert(rows.end(), rest.begin(), rest.end());
    plan = with_rows(plan, rows);
    const std::string what = pipeline::check_schedule(plan, 0).what;
    EXPECT_EQ(test::run_programs(plan, Delivery::rendezvous, 1).ended, what.empty());
    return what;
  };
  EXPECT_EQ(check("0F0 0F1 0F3 0F2 0B3 0B0 0B1 0B2"), "");
  EXPECT_EQ(
      check("0F0 0F1 0F2 0F3 0B3 0B0 0B1 0B2"),
      "the step cannot end: 2F3 waits for 1F3 of stage 1, replica 1; 1F3 waits for 0F3 of "
      "stage 0, replica 0, which is to do 0F2 first; 0F2 has no room to send: 2 messages wait "
      "for stage 1, replica 0 to await them, which is to do 1B4 first; 1B4 waits for 2B4 of "
      "stage 2, replica 0, which is to do 2F3 first");
}

TEST(Validate, HoldsRowsToTheirCap) {
  const Plan plan = test::with_one_f_one_b(
      make_plan({.stage_of_chunk = {0, 1, 2, 3}, .replicas = {1, 1, 1, 1}, .micro_batches = 8}));
  EXPECT_EQ(pipeline::check_schedule(plan, 0).what, "");
  EXPECT_EQ(pipeline::check_schedule(plan, 4).what, "");
  const pipeline::ScheduleFault fault = pipeline::check_schedule(plan, 3);
  EXPECT_EQ(fault.what, "0F3 makes 4 activations kept at once, the cap is 3");
  EXPECT_EQ(fault.row, 0u);
  EXPECT_EQ(fault.column, 3u);
  // With recompute only what R brought back counts; W keeps what I used.
  EXPECT_EQ(pipeline::check_schedule(
                with_rows(make_plan({.micro_batches = 3}), {"0F0 0F1 0F2 0B2 0R1 0B1 0R0 0B0"}), 1)
                .what,
            "");
  EXPECT_EQ(pipeline::check_schedule(
                with_rows(make_plan({.micro_batches = 2}), {"0F0 0I0 0F1 0W0 0B1"}), 1)
                .what,
            "0F1 makes 2 activations kept at once, the cap is 1");
}

TEST(Validate, LongRowsAreCutAroundTheFault) {
  Plan plan = test::with_one_f_one_b(make_plan({.stage_of_chunk = {0, 1, 2, 3, 4, 5, 6},
                                                .replicas = {1, 1, 1, 1, 1, 1, 1},
                                                .micro_batches = 12}));
  std::swap(plan.schedule[3][9], plan.schedule[3][10]);
  plan.schedule[3][9].micro_batch = 11;
  EXPECT_EQ(pipeline::fault_text(plan, pipeline::check_schedule(plan, 0)),
            "stage 3, replica 0, column 9: 3B11 has no 3F11 before it\n"
            "  stage 1, replica 0 | .. 1F4   1F5   1B0   1F6   1B1   1F7   1B2   1F8   1B3   1F9   "
            "1B4  ..\n"
            "  stage 2, replica 0 | .. 2F4   2B0   2F5   2B1   2F6   2B2   2F7   2B3   2F8   2B4   "
            "2F9  ..\n"
            "> stage 3, replica 0 | .. 3B0   3F4   3B1   3F5   3B2  [3B11] 3F6   3F7   3B4   3F8   "
            "3B5  ..\n"
            "  stage 4, replica 0 | .. 4F3   4B1   4F4   4B2   4F5   4B3   4F6   4B4   4F7   4B5   "
            "4F8  ..\n"
            "  stage 5, replica 0 | .. 5B1   5F3   5B2   5F4   5B3   5F5   5B4   5F6   5B5   5F7   "
            "5B6  ..\n");
}

/// What each mutant must be, found without the validator.
void check_mutant(const Plan& plan, std::uint64_t seed, bool accepted) {
  if (!test::rows_are_complete(plan)) {
    ASSERT_FALSE(accepted);
    return;
  }
  const auto rendezvous = test::run_programs(plan, Delivery::rendezvous, seed);
  ASSERT_EQ(rendezvous.fault, "");
  ASSERT_EQ(rendezvous.ended, accepted);
  const auto buffered = test::run_programs(plan, Delivery::buffered, seed);
  ASSERT_EQ(buffered.fault, "");
  ASSERT_TRUE(buffered.ended || !accepted);
}

/// The first random rows that end.
Plan sound_random_rows(const Plan& plan) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Plan filled = test::with_random_rows(plan, seed);
    if (test::run_programs(filled, Delivery::rendezvous, seed).ended) return filled;
  }
  ADD_FAILURE() << "no random rows end";
  return test::with_gpipe(plan);
}

std::vector<Plan> originals() {
  std::vector<Plan> plans;
  for (const std::int64_t micro_batches : {3, 8}) {
    const test::PlanShape line{{0, 1, 2, 3}, {1, 1, 1, 1}, micro_batches};
    plans.push_back(test::with_gpipe(make_plan(line)));
    plans.push_back(test::with_one_f_one_b(make_plan(line)));
    for (const std::vector<std::int32_t>& placement :
         {std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}, {0, 1, 2, 2, 1, 0}})
      for (const std::vector<std::int32_t>& replicas :
           {std::vector<std::int32_t>{1, 1, 1}, {2, 2, 2}, {2, 1, 3}})
        plans.push_back(sound_random_rows(make_plan({placement, replicas, micro_batches})));
  }
  return plans;
}

TEST(Validate, MutantsAreRejectedOrRight) {
  int accepted = 0, incomplete = 0, stuck = 0;
  for (const Plan& plan : originals()) {
    ASSERT_EQ(pipeline::check_schedule(plan, 0).what, "");
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      SCOPED_TRACE(seed);
      Plan mutant = test::mutate(plan, seed);
      if (seed % 4 == 0) mutant = test::mutate(mutant, seed + 1000);
      ASSERT_EQ(test::mutate(plan, seed), test::mutate(plan, seed));
      const pipeline::ScheduleFault fault = pipeline::check_schedule(mutant, 0);
      const bool sound_rows = pipeline::check_rows(mutant).what.empty();
      ASSERT_EQ(sound_rows, test::rows_are_complete(mutant)) << fault.what;
      ASSERT_NO_FATAL_FAILURE(check_mutant(mutant, seed, fault.what.empty()));
      ASSERT_EQ(fault.what.empty(), pipeline::fault_text(mutant, fault).empty());
      ++(fault.what.empty() ? accepted : sound_rows ? stuck : incomplete);
    }
  }
  const int all = accepted + incomplete + stuck;
  printf(
      "campaign: %d mutants: %d right and accepted, %d with wrong rows and %d that would never "
      "end rejected\n",
      all, accepted, incomplete, stuck);
  EXPECT_GT(accepted * 10, all);
  EXPECT_GT((incomplete + stuck) * 10, all);
  EXPECT_GT(stuck * 100, all);
}

}  // namespace
}  // namespace elaswave
