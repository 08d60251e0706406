// Lowered programs: by hand on small schedules, and run by an executable model on thousands.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/layout/sums_order.h"
#include "parallel/pipeline/lowering.h"
#include "parallel/pipeline/program.h"
#include "parallel/pipeline/schedule.h"
#include "tests/support/program_model.h"
#include "tests/support/schedule_plans.h"

namespace elaswave {
namespace {

using layout::Plan;
using pipeline::Instruction;
using pipeline::Message;
using pipeline::Program;
using test::Delivery;
using test::make_plan;
using test::with_rows;

std::string to_text(const Message& message) {
  return fmt::format("{}{}.{}@{}.{}",
                     message.direction == pipeline::Direction::activation ? 'a' : 'g',
                     message.chunk, message.micro_batch, message.stage, message.replica);
}

std::string to_text(const std::vector<Message>& messages) {
  std::string text;
  for (const Message& message : messages) {
    if (!text.empty()) text += ' ';
    text += to_text(message);
  }
  return text;
}

/// One field of every instruction.
template <typename Field>
std::vector<int> each(const Program& program, Field Instruction::*field) {
  std::vector<int> values;
  for (const Instruction& instruction : program.instructions)
    values.push_back(static_cast<int>(instruction.*field));
  return values;
}

using Ints = std::vector<int>;

TEST(Lower, TwoStagesOneForwardOneBackward) {
  const Plan plan =
      with_rows(make_plan({.stage_of_chunk = {0, 1}, .replicas = {1, 1}, .micro_batches = 3}),
                {"0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"});
  const Program first = pipeline::lower(plan, 0, 0), second = pipeline::lower(plan, 1, 0);
  EXPECT_EQ(to_text(first.receives), "g0.0@1.0 g0.1@1.0 g0.2@1.0");
  EXPECT_EQ(to_text(first.sends), "a1.0@1.0 a1.1@1.0 a1.2@1.0");
  EXPECT_EQ(to_text(second.receives), "a1.0@0.0 a1.1@0.0 a1.2@0.0");
  EXPECT_EQ(to_text(second.sends), "g0.0@0.0 g0.1@0.0 g0.2@0.0");
  EXPECT_EQ(each(first, &Instruction::post_until), (Ints{1, 1, 2, 3, 3, 3}));
  EXPECT_EQ(each(first, &Instruction::receive), (Ints{-1, -1, 0, -1, 1, 2}));
  EXPECT_EQ(each(first, &Instruction::send), (Ints{0, 1, -1, 2, -1, -1}));
  EXPECT_EQ(each(first, &Instruction::stash), (Ints{0, 1, 0, 0, 1, 0}));
  EXPECT_EQ(each(first, &Instruction::keep), (Ints{-1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(each(first, &Instruction::last_use), (Ints{0, 0, 1, 0, 1, 1}));
  EXPECT_EQ(each(first, &Instruction::final), (Ints{0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(each(first, &Instruction::final_tied), (Ints{0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(first.slots, (std::vector<pipeline::Slots>{{0, 2, 0, 0}}));
  // In 0F2: inputs 1 and 2, an output, one send (0F0's is known complete), two receives posted.
  EXPECT_EQ(first.boundaries, 6);
  EXPECT_EQ(each(second, &Instruction::keep), (Ints{0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(each(second, &Instruction::final_tied), (Ints{0, 0, 0, 0, 1, 0}));
  EXPECT_EQ(each(second, &Instruction::post_until), (Ints{2, 2, 3, 3, 3, 3}));
  EXPECT_EQ(second.slots, (std::vector<pipeline::Slots>{{1, 1, 1, 0}}));
  for (const auto& flag : {&Instruction::local_input, &Instruction::local_output}) {
    EXPECT_EQ(each(first, flag), Ints(6, 0));
    EXPECT_EQ(each(second, flag), Ints(6, 0));
  }
}

TEST(Lower, ReceivesAreNeededByLaterMessagesOfTheirPairToo) {
  // Stage 1 works off micro-batch 1 first, but 0 was sent first: both must be posted for it.
  const Plan plan =
      with_rows(make_plan({.stage_of_chunk = {0, 1}, .replicas = {1, 1}, .micro_batches = 4}),
                {"0F0 0F1 0F2 0F3 0B3 0B0 0B1 0B2", "1F3 1B3 1F0 1B0 1F1 1B1 1F2 1B2"});
  const Program second = pipeline::lower(plan, 1, 0);
  EXPECT_EQ(to_text(second.receives), "a1.0@0.0 a1.1@0.0 a1.2@0.0 a1.3@0.0");
  EXPECT_EQ(second.instructions[0].post_until, 4);
  EXPECT_EQ(each(second, &Instruction::receive), (Ints{3, -1, 0, -1, 1, -1, 2, -1}));
}

TEST(Lower, NeighbouringChunksOfOneStageHandOver) {
  const Plan plan = with_rows(make_plan({.stage_of_chunk = {0, 1, 1, 0}, .replicas = {1, 1}}),
                              {"0F0 3F0 3B0 0B0", "1F0 2F0 2I0 1I0 2W0 1W0"});
  const Program outer = pipeline::lower(plan, 0, 0), inner = pipeline::lower(plan, 1, 0);
  EXPECT_EQ(to_text(inner.receives), "a1.0@0.0 g2.0@0.0");
  EXPECT_EQ(to_text(inner.sends), "a3.0@0.0 g0.0@0.0");
  EXPECT_EQ(each(inner, &Instruction::local_input), (Ints{0, 1, 0, 1, 0, 0}));
  EXPECT_EQ(each(inner, &Instruction::local_output), (Ints{1, 0, 1, 0, 0, 0}));
  EXPECT_EQ(each(inner, &Instruction::weight_stash), (Ints{-1, -1, 0, 0, 0, 0}));
  EXPECT_EQ(each(inner, &Instruction::last_use), (Ints{0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(each(outer, &Instruction::local_input), Ints(4, 0));
  EXPECT_EQ(each(outer, &Instruction::local_output), Ints(4, 0));
  EXPECT_EQ(each(outer, &Instruction::keep), (Ints{-1, 0, 0, -1}));
  EXPECT_EQ(inner.slots, (std::vector<pipeline::Slots>{{1, 1, 0, 1}, {2, 1, 0, 1}}));
}

TEST(Lower, OneStageAloneSendsNothing) {
  const Plan plan =
      test::with_gpipe(make_plan({.stage_of_chunk = {0, 0}, .replicas = {1}, .micro_batches = 2}));
  const Program program = pipeline::lower(plan, 0, 0);
  EXPECT_TRUE(program.sends.empty() && program.receives.empty());
  EXPECT_EQ(program.boundaries, 5);  // two inputs of each chunk and a gradient
}

TEST(Lower, RecomputeTakesANewStash) {
  const Plan plan =
      with_rows(make_plan({.micro_batches = 3}), {"0F0 0F1 0F2 0R1 0B1 0R0 0I0 0B2 0W0"});
  const Program program = pipeline::lower(plan, 0, 0);
  // Forwards 0 and 1 keep their inputs alone; 2 keeps its stash to 0B2.
  EXPECT_EQ(each(program, &Instruction::stash), (Ints{0, 0, 0, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(each(program, &Instruction::keep), (Ints{0, 1, 2, 1, 1, 0, 0, 2, -1}));
  EXPECT_EQ(each(program, &Instruction::weight_stash), (Ints{-1, -1, -1, -1, -1, -1, 0, -1, 0}));
  EXPECT_EQ(program.slots, (std::vector<pipeline::Slots>{{0, 2, 3, 1}}));
}

TEST(Lower, AReplicaWithoutWorkHasSlotsOfNothing) {
  const Plan plan = test::with_gpipe(
      make_plan({.stage_of_chunk = {0, 1, 0}, .replicas = {2, 1}, .micro_batches = 1}));
  const Program idle = pipeline::lower(plan, 0, 1);
  EXPECT_EQ(idle.slots, (std::vector<pipeline::Slots>{{0, 0, 0, 0}, {2, 0, 0, 0}}));
  EXPECT_EQ(idle.boundaries, 0);
}

TEST(Lower, EvaluationRunsForwardsInGroups) {
  Plan plan = test::with_gpipe(
      make_plan({.stage_of_chunk = {0, 1, 0, 1}, .replicas = {1, 2}, .micro_batches = 8}));
  const Plan evaluation = pipeline::evaluation_plan(plan, 5);
  EXPECT_EQ(evaluation.micro_batches, 5);
  EXPECT_EQ(evaluation.route.size(), 10u);
  EXPECT_EQ(layout::to_text(evaluation.row(0, 0)), "0F0 0F1 2F0 2F1 0F2 0F3 2F2 2F3 0F4 2F4");
  EXPECT_EQ(layout::to_text(evaluation.row(1, 1)), "1F1 3F1 1F3 3F3");
  const Program program = pipeline::lower(evaluation, 1, 1);
  EXPECT_EQ(each(program, &Instruction::last_use), Ints(4, 1));
  EXPECT_EQ(each(program, &Instruction::final_tied), Ints(4, 0));
  EXPECT_EQ(program.slots, (std::vector<pipeline::Slots>{{1, 1, 0, 0}, {3, 1, 1, 0}}));
}

/// Least slots and final actions, counted in the plainest way.
void check_against_row(const Plan& plan, const Program& program) {
  const layout::Row& row = plan.row(program.place.stage, program.place.replica);
  for (const pipeline::Slots& slots : program.slots) {
    std::int32_t live = 0, kept = 0, owed = 0, stash = 0, keep = 0, weight_stash = 0;
    std::int64_t final = -1;
    for (std::size_t at = 0; at < row.size(); ++at) {
      const layout::Op op = row[at].op;
      const std::int32_t chunk = row[at].chunk, micro = row[at].micro_batch;
      if (chunk != slots.chunk) continue;
      if (program.instructions[at].final) {
        EXPECT_EQ(final, -1);
        final = static_cast<std::int64_t>(at);
      }
      const auto later = [&](layout::Op wanted) {
        return std::find(row.begin() + static_cast<std::ptrdiff_t>(at), row.end(),
                         layout::Action{wanted, slots.chunk, micro}) != row.end();
      };
      const bool forward = op == layout::Op::forward;
      const bool gradient = op == layout::Op::backward || op == layout::Op::input_gradient;
      if (forward || op == layout::Op::recompute) stash = std::max(stash, ++live);
      if (forward && chunk + 1 == plan.chunks()) keep = std::max(keep, ++kept);
      if (op == layout::Op::input_gradient) weight_stash = std::max(weight_stash, ++owed);
      const bool ends =
          forward ? later(layout::Op::recompute) ||
                        !(later(layout::Op::backward) || later(layout::Op::input_gradient))
                  : op == layout::Op::backward || op == layout::Op::weight_gradient;
      if (ends) --live;
      if (kept > 0 && (gradient || (forward && ends && !later(layout::Op::recompute)))) --kept;
      if (op == layout::Op::weight_gradient) --owed;
    }
    EXPECT_EQ(slots, (pipeline::Slots{slots.chunk, stash, keep, weight_stash}));
    EXPECT_EQ(final, layout::last_gradient(row, slots.chunk));
  }
}

void check_programs(const Plan& plan) {
  const std::vector<Program> programs = pipeline::lower_all(plan);
  std::size_t index = 0;
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica, ++index) {
      ASSERT_EQ(programs[index], pipeline::lower(plan, stage, replica));
      check_against_row(plan, programs[index]);
    }
  ASSERT_EQ(index, programs.size());
}

TEST(Lower, ProgramsOfRandomPlansRun) {
  int ended = 0, stuck = 0;
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(seed);
    const Plan plan = test::random_plan(seed);
    ASSERT_TRUE(test::rows_are_complete(plan));
    ASSERT_NO_FATAL_FAILURE(check_programs(plan));
    const auto fault = pipeline::check_schedule(plan, 0);
    const auto buffered = test::run_programs(plan, Delivery::buffered, seed);
    const auto rendezvous = test::run_programs(plan, Delivery::rendezvous, seed);
    ASSERT_EQ(buffered.fault, "");
    ASSERT_EQ(rendezvous.fault, "");
    ASSERT_TRUE(buffered.ended);
    ASSERT_EQ(rendezvous.ended, fault.what.empty()) << pipeline::fault_text(plan, fault);
    ++(rendezvous.ended ? ended : stuck);
  }
  printf("campaign: %d random plans end with rendezvous sends, %d do not\n", ended, stuck);
  EXPECT_GT(ended, 500);
}

TEST(Lower, EvaluationOfRegularPlacementsEnds) {
  int plans = 0;
  for (std::int32_t stages = 1; stages <= 6; ++stages)
    for (const bool down_and_up : {false, true})
      for (std::int32_t turns = 1; turns <= 4; ++turns)
        for (std::uint64_t seed = 0; seed < 6; ++seed) {
          SCOPED_TRACE(fmt::format("{} stages, {} turns, seed {}", stages, turns, seed));
          test::PlanShape shape{.stage_of_chunk = {}, .replicas = {}};
          for (std::int32_t chunk = 0; chunk < stages * turns; ++chunk) {
            const std::int32_t at = chunk % stages;
            const bool up = down_and_up && chunk / stages % 2 == 1;
            shape.stage_of_chunk.push_back(up ? stages - 1 - at : at);
          }
          for (std::int32_t stage = 0; stage < stages; ++stage)
            shape.replicas.push_back(1 + static_cast<std::int32_t>(seed * 7 + seed * stage) % 3);
          shape.micro_batches = 3 * stages + static_cast<std::int64_t>(seed);
          Plan plan = make_plan(shape);
          for (std::size_t index = 0; seed >= 3 && index < plan.route.size(); ++index)
            plan.route[index] = static_cast<std::int32_t>(
                (index * 2654435761u >> 7) %
                static_cast<std::uint64_t>(shape.replicas[index % shape.replicas.size()]));
          plan = pipeline::evaluation_plan(plan, shape.micro_batches - 1);
          ASSERT_TRUE(test::rows_are_complete(plan));
          ASSERT_NO_FATAL_FAILURE(check_programs(plan));
          const auto run = test::run_programs(plan, Delivery::rendezvous, seed);
          ASSERT_EQ(run.fault, "");
          ASSERT_TRUE(run.ended);
          ASSERT_EQ(pipeline::check_schedule(plan, 0).what, "");
          ++plans;
        }
  printf("campaign: %d evaluation plans end\n", plans);
}

}  // namespace
}  // namespace elaswave
