// The generators: complete rows for every shape they accept, with the published bubble and memory.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/property/schedule_testing.h"

namespace elaswave::test {
namespace {

using pipeline::ChunkCost;
using pipeline::PipelineShape;
using pipeline::RowMemory;
using pipeline::Schedule;

constexpr Schedule kSchedules[] = {Schedule::gpipe, Schedule::one_f_one_b, Schedule::interleaved,
                                   Schedule::zb_h1, Schedule::zbv};

bool is_split(Schedule schedule) {
  return schedule == Schedule::zb_h1 || schedule == Schedule::zbv;
}

std::vector<PipelineShape> shapes() {
  std::vector<PipelineShape> all;
  for (const std::int32_t stages : {1, 2, 3, 4, 5, 6, 7, 8, 16})
    for (std::int32_t chunks = 1; chunks <= 4; ++chunks)
      for (std::int32_t micro_batches = 1; micro_batches <= 64; ++micro_batches)
        if (micro_batches <= 20 || micro_batches == 32 || micro_batches == 64)
          all.push_back({stages, chunks, micro_batches});
  return all;
}

std::string text(Schedule schedule, const PipelineShape& shape) {
  return std::string(name(schedule)) + " p " + std::to_string(shape.stages) + " v " +
         std::to_string(shape.chunks) + " m " + std::to_string(shape.micro_batches);
}

/// Idle time of the step beyond the work of one row, which is the same for all rows.
std::int64_t bubble_of(const Plan& plan, const PipelineShape& shape, const ChunkCost& cost) {
  const std::int64_t work = std::int64_t{shape.micro_batches} * shape.chunks *
                            (cost.forward + cost.input_gradient + cost.weight_gradient);
  return predict(plan, uniform_costs(plan, cost)).makespan - work;
}

TEST(Schedules, EveryAcceptedShapeHasCompleteRowsThatEnd) {
  int accepted = 0, refused = 0;
  for (const Schedule schedule : kSchedules)
    for (const PipelineShape& shape : shapes()) {
      SCOPED_TRACE(text(schedule, shape));
      const bool sound = schedule == Schedule::zbv ? shape.chunks == 2
                         : schedule == Schedule::interleaved
                             ? shape.micro_batches % shape.stages == 0
                             : shape.chunks == 1;
      const auto checked = check_shape(schedule, shape);
      ASSERT_EQ(checked.has_value(), sound);
      if (!sound) {
        ASSERT_EQ(checked.error().code, Code::usage);
        ASSERT_FALSE(checked.error().fix.empty());
        ++refused;
        continue;
      }
      const Plan plan = regular_plan(schedule, shape);
      ASSERT_EQ(find_row_fault(plan, is_split(schedule)), "");
      ASSERT_EQ(Rendezvous(plan).run(), "");
      ASSERT_EQ(pipeline::check_schedule(plan, 0).what, "");
      ++accepted;
    }
  std::printf("%d shapes complete, %d refused\n", accepted, refused);
  EXPECT_GT(accepted, 1000);
}

TEST(Schedules, RefusalsSayWhatWouldDo) {
  const auto fix = [](Schedule schedule, const PipelineShape& shape) {
    return check_shape(schedule, shape).error().fix;
  };
  EXPECT_EQ(fix(Schedule::interleaved, {4, 3, 10}),
            "give every pipeline 8 or 12 micro-batches, or use auto");
  EXPECT_EQ(fix(Schedule::interleaved, {8, 2, 3}),
            "give every pipeline 8 micro-batches, or use zbv, which takes any number");
  EXPECT_EQ(fix(Schedule::zbv, {4, 1, 8}), "set parallel.chunks=2, or use interleaved");
  EXPECT_EQ(fix(Schedule::zb_h1, {4, 2, 8}), "set parallel.chunks=1, or use interleaved or zbv");
  EXPECT_FALSE(check_shape(Schedule::gpipe, {1, 1, 0}).has_value());
  EXPECT_FALSE(check_shape(Schedule::gpipe, {0, 1, 1}).has_value());
  EXPECT_FALSE(check_shape(Schedule::zbv, {1 << 30, 2, 1}).has_value());
}

TEST(Schedules, RowsAreThePublishedOnes) {
  const auto rows = [](Schedule schedule, const PipelineShape& shape) {
    std::vector<std::string> texts;
    for (const Row& row : generate(schedule, shape)) texts.push_back(layout::to_text(row));
    return texts;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(rows(Schedule::gpipe, {2, 1, 2}), (Texts{"0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1"}));
  EXPECT_EQ(rows(Schedule::one_f_one_b, {2, 1, 3}),
            (Texts{"0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1B0 1F1 1B1 1F2 1B2"}));
  EXPECT_EQ(rows(Schedule::zb_h1, {2, 1, 3}),
            (Texts{"0F0 0F1 0I0 0W0 0F2 0I1 0W1 0I2 0W2", "1F0 1I0 1F1 1I1 1W0 1F2 1I2 1W1 1W2"}));
  EXPECT_EQ(rows(Schedule::interleaved, {2, 2, 2}),
            (Texts{"0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1", "1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1"}));
  EXPECT_EQ(rows(Schedule::zbv, {1, 2, 2}),
            (Texts{"0F0 1F0 1I0 1W0 0F1 0I0 0W0 1F1 1I1 1W1 0I1 0W1"}));
  EXPECT_EQ(placement(Schedule::zbv, 3, 2), (std::vector<std::int32_t>{0, 1, 2, 2, 1, 0}));
  EXPECT_EQ(placement(Schedule::interleaved, 3, 2), (std::vector<std::int32_t>{0, 1, 2, 0, 1, 2}));
}

/// Published for as many micro-batches as the pipeline needs to fill; the rest says how the same
/// rows fall short with fewer.
std::int64_t expected_bubble(Schedule schedule, const PipelineShape& shape, const ChunkCost& cost) {
  const std::int64_t behind = shape.stages - 1;
  const std::int64_t backward = cost.input_gradient + cost.weight_gradient;
  if (schedule == Schedule::zb_h1) {
    const std::int64_t missing = std::max(0, shape.stages - shape.micro_batches);
    return behind * (cost.forward + cost.input_gradient - cost.weight_gradient) +
           missing * cost.weight_gradient;
  }
  if (schedule == Schedule::zbv)  // half the forward of a row's two chunks, for each row behind
    return std::max(behind, 2 * (2 * behind + 1 - shape.micro_batches)) * cost.forward;
  // A row's (p - 1)(F + B) / v: a chunk is a v-th of the row.
  return behind * (cost.forward + backward);
}

TEST(Schedules, BubbleIsThePublishedOne) {
  int cases = 0;
  for (const Schedule schedule : kSchedules)
    for (const PipelineShape& shape : shapes())
      for (const ChunkCost cost : {ChunkCost{1, 1, 1, 0}, ChunkCost{10, 11, 8, 0},
                                   ChunkCost{7, 5, 3, 0}, ChunkCost{100, 190, 95, 0}}) {
        if (!check_shape(schedule, shape)) continue;
        const bool equal = cost.forward == cost.input_gradient;
        if (schedule == Schedule::zbv && !equal) continue;  // published for F = I = W
        const Plan plan = regular_plan(schedule, shape);
        ASSERT_EQ(bubble_of(plan, shape, cost), expected_bubble(schedule, shape, cost))
            << text(schedule, shape) << ", " << cost.forward << " " << cost.input_gradient << " "
            << cost.weight_gradient;
        ++cases;
      }
  std::printf("%d shapes and costs\n", cases);
  EXPECT_GT(cases, 3000);
}

/// In stashes of one chunk.
std::int32_t expected_peak(Schedule schedule, const PipelineShape& shape, std::int32_t row) {
  const std::int32_t p = shape.stages, v = shape.chunks, m = shape.micro_batches;
  switch (schedule) {
    case Schedule::gpipe:
      return m;
    case Schedule::one_f_one_b:
      return std::min(m, p - row);
    case Schedule::interleaved:  // p (1 + (p - 1) / (p v)) of a row's share on the first row
      return std::min(m * v, p * v + p - 1 - 2 * row);
    case Schedule::zb_h1:
      return std::min(m, p);
    case Schedule::zbv:  // p of a row's share
      return std::min({2 * m, m + 1 + row, 2 * p});
  }
  return 0;
}

TEST(Schedules, PeakMemoryIsThePublishedOne) {
  int cases = 0;
  for (const Schedule schedule : kSchedules)
    for (const PipelineShape& shape : shapes()) {
      if (!check_shape(schedule, shape)) continue;
      const auto memory = pipeline::peak_memory(regular_plan(schedule, shape));
      for (std::int32_t row = 0; row < shape.stages; ++row)
        ASSERT_EQ(memory[at(row)].live, expected_peak(schedule, shape, row))
            << text(schedule, shape) << ", row " << row;
      ++cases;
    }
  std::printf("%d shapes\n", cases);
  EXPECT_GT(cases, 1000);
}

TEST(Passes, SplitFuseAndRecompute) {
  const Row fused = layout::parse_row("0F0 0F1 0B0 0B1").value();
  EXPECT_EQ(layout::to_text(pipeline::split_backward(fused)), "0F0 0F1 0I0 0W0 0I1 0W1");
  EXPECT_EQ(pipeline::fuse_backward(pipeline::split_backward(fused)), fused);
  EXPECT_EQ(layout::to_text(pipeline::fuse_backward(
                layout::parse_row("1F0 1I0 0I0 1W0 0W0 2I0 2W1 2I1 2W0").value())),
            "1F0 1I0 0I0 1W0 0W0 2I0 2W1 2I1 2W0");
  EXPECT_EQ(layout::to_text(
                pipeline::with_recompute(layout::parse_row("0F0 0F1 0I1 0W1 1F0 1B0 0B0").value())),
            "0F0 0F1 0I1 0W1 1F0 1B0 0R0 0B0");
}

TEST(Passes, RecomputeKeepsInputsAlone) {
  Plan plan = regular_plan(Schedule::one_f_one_b, {3, 1, 5});
  for (Row& row : plan.schedule) row = pipeline::with_recompute(row);
  const auto memory = pipeline::peak_memory(plan);
  EXPECT_EQ(memory[0].live, 1);
  EXPECT_EQ(memory[0].inputs, 3);
  EXPECT_EQ(memory[1].inputs, 2);
  EXPECT_EQ(memory[2].live, 1);  // F is directly followed by B
  EXPECT_EQ(memory[2].inputs, 0);
  const auto split = pipeline::peak_memory(regular_plan(Schedule::zb_h1, {3, 1, 5}));
  for (std::int32_t row = 0; row < 3; ++row) EXPECT_EQ(split[at(row)].weight_stash, row + 1);
}

TEST(Prediction, FollowsRowsAndMessages) {
  const Plan plan = regular_plan(Schedule::one_f_one_b, {2, 1, 2});
  pipeline::Costs costs{{{10, 5, 5, 0}, {20, 8, 7, 0}}, 3};
  const pipeline::Timing timing = predict(plan, costs);
  using Times = std::vector<std::int64_t>;
  EXPECT_EQ(timing.begin[0], (Times{0, 10, 51, 86}));
  EXPECT_EQ(timing.begin[1], (Times{13, 33, 48, 68}));
  EXPECT_EQ(timing.end[0], (Times{10, 20, 61, 96}));
  EXPECT_EQ(timing.makespan, 96);
  EXPECT_EQ(timing.busy, (Times{40, 70}));
  EXPECT_DOUBLE_EQ(timing.bubble(), 1.0 - 110.0 / 192.0);
  // Chunks of one stage hand over without a message.
  Plan alone = make_plan({0, 0}, {1}, 1);
  alone.schedule = {layout::parse_row("0F0 1F0 1B0 0B0").value()};
  EXPECT_EQ(predict(alone, costs).makespan, 55);
  EXPECT_EQ(predict(alone, costs).bubble(), 0.0);
}

}  // namespace
}  // namespace elaswave::test
