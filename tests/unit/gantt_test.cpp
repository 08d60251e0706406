// Gantt charts: as text by hand, as SVG by an XML parser that is not ours.
#include "parallel/pipeline/gantt.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/schedule_plans.h"
#include "tests/support/temp_dir.h"

namespace elaswave {
namespace {

using layout::Plan;
using pipeline::Timing;
using test::make_plan;
using testing::TempDir;

/// One after the other, all rows from 0: begins and ends by length, not by what is possible.
Timing packed(const Plan& plan, std::int64_t unit) {
  Timing timing;
  for (const layout::Row& row : plan.schedule) {
    auto& begin = timing.begin.emplace_back();
    auto& end = timing.end.emplace_back();
    std::int64_t at = 0;
    for (const layout::Action& action : row) {
      begin.push_back(at);
      at += action.op == layout::Op::backward ? 2 * unit : unit;
      end.push_back(at);
    }
    timing.makespan = std::max(timing.makespan, at);
    timing.busy.push_back(at);
  }
  return timing;
}

TEST(GanttText, ShowsWhatFits) {
  const Plan plan = test::with_rows(
      make_plan({.stage_of_chunk = {0, 1}, .replicas = {1, 1}, .micro_batches = 12}),
      {"0F0 0B0 0F10 0B11", "1R3 1I3 1W3"});
  Timing timing = packed(plan, 1'000'000);
  for (std::size_t index = 0; index < 3; ++index) {
    timing.begin[1][index] += 1'000'000;
    timing.end[1][index] += 1'000'000;
  }
  // 6 ms of 2 x 6 ms are work in row 0, 3 in row 1.
  EXPECT_EQ(pipeline::gantt_text(plan, timing, 12),
            "step 6 ms, bubble 25.0 %\n"
            "stage  0 replica  0 |F0B0--F-B11-\n"
            "stage  1 replica  0 |  R3I3W3\n");
  EXPECT_EQ(pipeline::gantt_text(plan, timing, 6),
            "step 6 ms, bubble 25.0 %\n"
            "stage  0 replica  0 |FB0FB-\n"
            "stage  1 replica  0 | RIW\n");
  EXPECT_EQ(pipeline::gantt_text(plan, timing, 2),
            "step 6 ms, bubble 25.0 %\n"
            "stage  0 replica  0 |BB\n"
            "stage  1 replica  0 |I\n");
}

/// Lets Python's parser read the chart and find every action of the rows drawn at its place.
void check_svg(const Plan& plan, const Timing& timing, const std::string& title) {
  const TempDir dir;
  elaswave::testing::write_file(dir / "chart.svg", pipeline::gantt_svg(plan, timing, title));
  std::string table;
  for (std::size_t row = 0; row < std::min(plan.schedule.size(), pipeline::kGanttRows); ++row)
    for (std::size_t index = 0; index < plan.schedule[row].size(); ++index) {
      const double scale = 1100.0 / static_cast<double>(timing.makespan);
      const auto begin = static_cast<double>(timing.begin[row][index]);
      const auto end = static_cast<double>(timing.end[row][index]);
      table += fmt::format("{} {} {}\n", 166 + begin * scale, (end - begin) * scale,
                           layout::to_text(plan.schedule[row][index]));
    }
  elaswave::testing::write_file(dir / "table", table);
  const std::string command =
      std::string(ELASWAVE_PYTHON " -B " ELASWAVE_SOURCE_DIR "/tests/unit/gantt_svg.py ") +
      dir / "chart.svg" + " " + dir / "table";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(GanttSvg, BoxesStandWhereTheirTimesSay) {
  const Plan one = test::with_one_f_one_b(
      make_plan({.stage_of_chunk = {0, 1, 2, 3}, .replicas = {1, 1, 1, 1}, .micro_batches = 8}));
  check_svg(one, packed(one, 1'234'567), "1F1B");
  const Plan many = test::with_gpipe(
      make_plan({.stage_of_chunk = {0, 1, 0, 1}, .replicas = {40, 40}, .micro_batches = 160}));
  check_svg(many, packed(many, 3), "<b>\"A & B\"</b> > \x01 \u00e9");
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const Plan random = test::random_plan(seed);
    check_svg(random, packed(random, 70'001), "random");
  }
}

TEST(GanttSvg, SaysWhatIsShown) {
  const Plan plan = test::with_gpipe(
      make_plan({.stage_of_chunk = {0, 1, 0, 1}, .replicas = {40, 40}, .micro_batches = 80}));
  const std::string svg = pipeline::gantt_svg(plan, packed(plan, 1'000'000), "a < b");
  const auto holds = [&](const std::string& text) { return svg.find(text) != std::string::npos; };
  EXPECT_TRUE(holds(">a &lt; b</text>"));
  EXPECT_TRUE(holds("16 more rows are not shown"));
  EXPECT_TRUE(holds("stage 1 \u00b7 replica 23<"));
  EXPECT_FALSE(holds("stage 1 \u00b7 replica 24<"));
  EXPECT_TRUE(holds(">forward</text>") && holds(">backward</text>"));
  EXPECT_FALSE(holds(">recompute</text>"));
  EXPECT_TRUE(holds("0F0: forward of micro-batch 0, chunk 0\nfrom 0 ns to 1 ms (1 ms)"));
  // 12 ms: a mark for each.
  EXPECT_TRUE(holds(">0 ms</text>") && holds(">1</text>") && holds(">12</text>"));
  const std::string none = pipeline::gantt_svg(make_plan({}), {{{}}, {{}}, 0, {0}}, "nothing");
  EXPECT_NE(none.find("bubble 0.0 %"), std::string::npos);
}

TEST(GanttDeathTest, TimesMustBeThere) {
  const Plan plan = test::with_gpipe(make_plan({}));
  Timing timing = packed(plan, 1);
  timing.end[0].pop_back();
  EXPECT_DEATH(pipeline::gantt_text(plan, timing, 10), "times of 2 and 1");
}

}  // namespace
}  // namespace elaswave
