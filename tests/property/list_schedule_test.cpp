// The list scheduler: any complete route, any cap that can work, ends with rendezvous sends.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/property/schedule_testing.h"

namespace elaswave::test {
namespace {

using pipeline::ChunkCost;
using pipeline::Costs;
using pipeline::ListOptions;
using pipeline::Schedule;

std::int32_t pick(std::mt19937_64& random, std::int32_t low, std::int32_t high) {
  return low + static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(high - low + 1));
}

struct Case {
  Plan plan;
  Costs costs;
  ListOptions options;
  std::int32_t least = 0;  // cap
};

Case random_case(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Case made;
  const std::int32_t stages = pick(random, 1, 6), chunks = pick(random, 1, 4);
  std::vector<std::int32_t> stage_of_chunk;
  const int kind = pick(random, 0, 2);
  for (std::int32_t chunk = 0; chunk < stages * chunks; ++chunk) {
    const std::int32_t turn = chunk % stages;
    const bool up = kind == 1 && chunk / stages % 2 == 1;
    stage_of_chunk.push_back(kind == 2 ? pick(random, 0, stages - 1)
                             : up      ? stages - 1 - turn
                                       : turn);
  }
  std::vector<std::int32_t> replicas;
  for (std::int32_t stage = 0; stage < stages; ++stage) replicas.push_back(pick(random, 1, 4));
  made.plan = make_plan(stage_of_chunk, replicas, pick(random, 1, 24));
  const bool in_turn = pick(random, 0, 2) == 0;
  for (std::int64_t micro_batch = 0; micro_batch < made.plan.micro_batches; ++micro_batch)
    for (std::int32_t stage = 0; stage < stages; ++stage)
      made.plan.route[at(micro_batch * stages + stage)] =
          in_turn ? static_cast<std::int32_t>(micro_batch % replicas[at(stage)])
                  : pick(random, 0, replicas[at(stage)] - 1);
  for (std::int32_t chunk = 0; chunk < made.plan.chunks(); ++chunk)
    made.costs.chunks.push_back({pick(random, 0, 5), pick(random, 1, 5), pick(random, 0, 5), 1});
  made.costs.message = pick(random, 0, 2) == 0 ? pick(random, 0, 12) : 0;
  made.options.split = pick(random, 0, 1) == 1;
  for (std::int32_t stage = 0; stage < stages; ++stage)
    made.least = std::max<std::int32_t>(
        made.least,
        static_cast<std::int32_t>(std::count(stage_of_chunk.begin(), stage_of_chunk.end(), stage)));
  made.options.cap = pick(random, 0, 3) == 0   ? 0
                     : pick(random, 0, 2) == 0 ? 1000
                                               : made.least + pick(random, 0, 3);
  return made;
}

TEST(ListSchedule, EveryRouteEndsUnderItsCap) {
  int cases = 0, at_the_least = 0, without_work = 0, refused = 0;
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    Case made = random_case(seed);
    SCOPED_TRACE("seed " + std::to_string(seed));
    auto rows = list_schedule(made.plan, made.costs, made.options);
    ASSERT_TRUE(rows.has_value()) << rows.error().text();
    made.plan.schedule = *std::move(rows);
    ASSERT_EQ(find_row_fault(made.plan, made.options.split), "");
    ASSERT_EQ(Rendezvous(made.plan).run(), "");
    ASSERT_EQ(pipeline::check_schedule(made.plan, made.options.cap).what, "");
    for (const auto& memory : pipeline::peak_memory(made.plan)) {
      if (made.options.cap > 0) {
        ASSERT_LE(memory.live, made.options.cap);
      }
    }
    const pipeline::Timing timing = predict(made.plan, made.costs);
    ASSERT_GE(timing.makespan, *std::max_element(timing.busy.begin(), timing.busy.end()));
    if (seed % 10 == 0) {
      ASSERT_EQ(list_schedule(made.plan, made.costs, made.options).value(), made.plan.schedule);
    }
    // What passes do within a row leaves the order of messages alone.
    Plan passed = made.plan;
    for (Row& row : passed.schedule)
      row = pipeline::with_recompute(made.options.split ? pipeline::fuse_backward(row)
                                                        : pipeline::split_backward(row));
    ASSERT_EQ(Rendezvous(passed).run(), "");
    ASSERT_EQ(pipeline::check_schedule(passed, 0).what, "");
    ++cases;
    if (made.options.cap == made.least) ++at_the_least;
    for (const Row& row : made.plan.schedule) without_work += row.empty() ? 1 : 0;
    if (made.least > 1) {
      made.options.cap = made.least - 1;
      const auto refusal = list_schedule(made.plan, made.costs, made.options);
      ASSERT_FALSE(refusal.has_value());
      ASSERT_EQ(refusal.error().code, Code::does_not_fit);
      ASSERT_NE(refusal.error().fix.find(std::to_string(made.least)), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(at_the_least, 200);
  EXPECT_GT(without_work, 500);
  EXPECT_GT(refused, 500);
  std::printf("%d routes, %d at the least cap, %d rows without work, %d caps refused\n", cases,
              at_the_least, without_work, refused);
}

std::int32_t peak_of(const Plan& plan) {
  std::int32_t peak = 0;
  for (const auto& memory : pipeline::peak_memory(plan)) peak = std::max(peak, memory.live);
  return peak;
}

/// A regular pipeline and how much longer than the generator's rows the list may take at the same
/// memory.
struct Regular {
  Schedule schedule;
  pipeline::PipelineShape shape;
  double most;
};

TEST(ListSchedule, ComesCloseToTheGenerators) {
  std::printf("makespan, list / generator, at the generator's peak; message of 0, 5, 20 %% of F\n");
  for (const Regular& regular :
       {Regular{Schedule::one_f_one_b, {4, 1, 8}, 1.0},
        Regular{Schedule::one_f_one_b, {8, 1, 8}, 1.0},
        Regular{Schedule::one_f_one_b, {8, 1, 32}, 1.05}, Regular{Schedule::zb_h1, {4, 1, 8}, 1.08},
        Regular{Schedule::zb_h1, {8, 1, 9}, 1.06}, Regular{Schedule::zb_h1, {8, 1, 32}, 1.03},
        Regular{Schedule::interleaved, {4, 2, 8}, 1.10},
        Regular{Schedule::interleaved, {8, 2, 32}, 1.10},
        Regular{Schedule::interleaved, {8, 4, 32}, 1.10}, Regular{Schedule::zbv, {4, 2, 8}, 1.06},
        Regular{Schedule::zbv, {8, 2, 32}, 1.06}}) {
    const bool split = regular.schedule == Schedule::zb_h1 || regular.schedule == Schedule::zbv;
    std::printf("%-11s p %d v %d m %2d:", std::string(name(regular.schedule)).c_str(),
                regular.shape.stages, regular.shape.chunks, regular.shape.micro_batches);
    for (const ChunkCost cost : {ChunkCost{100, 100, 100, 0}, ChunkCost{100, 110, 80, 0}})
      for (const std::int64_t message : {0, 5, 20}) {
        Plan plan = regular_plan(regular.schedule, regular.shape);
        const Costs costs = uniform_costs(plan, cost, message);
        const auto generated = static_cast<double>(predict(plan, costs).makespan);
        const std::int32_t peak = peak_of(plan);
        plan.schedule = list_schedule(plan, costs, {split, peak}).value();
        const double ratio = static_cast<double>(predict(plan, costs).makespan) / generated;
        std::printf(" %.3f", ratio);
        EXPECT_LE(ratio, regular.most) << "message " << message;
        EXPECT_LE(peak_of(plan), peak);
        // Left to itself it takes no more than one stash a chunk and stage needs, plus messages.
        plan.schedule = list_schedule(plan, costs, {split, 0}).value();
        EXPECT_LE(peak_of(plan), message == 0 ? peak : peak + 2);
      }
    std::printf("\n");
  }
}

/// `d` replicas of each of `p` stages with `m` micro-batches each; `dead` (stage) lose replica 0,
/// whose micro-batches go to the others in turn.
Plan rerouted(std::int32_t d, std::int32_t p, std::int32_t m,
              const std::vector<std::int32_t>& dead) {
  std::vector<std::int32_t> replicas(at(p), d);
  for (auto s : dead) --replicas[at(s)];
  Plan plan = make_plan(pipeline::placement(Schedule::one_f_one_b, p, 1), replicas, d * m);
  for (std::int32_t s = 0; s < p; ++s) {
    const bool hit = replicas[at(s)] < d;
    std::int32_t next = 0;
    for (std::int32_t b = 0; b < d * m; ++b)
      plan.route[at(b * p + s)] = !hit ? b % d : b % d == 0 ? next++ % (d - 1) : b % d - 1;
  }
  return plan;
}

TEST(ListSchedule, SiblingsTakeOverForTheDead) {
  struct Line {
    std::int32_t replicas, stages, micro_batches;
    std::vector<std::int32_t> dead;
  };
  std::printf("throughput kept, cap p and 2 p; bound: what the fullest stage keeps\n");
  for (const Line& line :
       {Line{4, 4, 8, {0}}, Line{4, 4, 8, {1}}, Line{4, 4, 8, {3}}, Line{4, 4, 8, {1, 2}},
        Line{4, 4, 8, {0, 1, 2}}, Line{4, 8, 8, {3}}, Line{4, 8, 8, {1, 3, 5}}, Line{8, 4, 8, {1}},
        Line{2, 4, 8, {1}}, Line{4, 8, 32, {2}}, Line{4, 8, 32, {2, 5}}})
    for (const bool split : {false, true}) {
      const Plan healthy = regular_plan(split ? Schedule::zb_h1 : Schedule::one_f_one_b,
                                        {line.stages, 1, line.micro_batches});
      Plan plan = rerouted(line.replicas, line.stages, line.micro_batches, line.dead);
      const Costs costs = uniform_costs(plan, {100, 100, 100, 0});
      const auto before = static_cast<double>(predict(healthy, costs).makespan);
      const double bound = (line.replicas - 1.0) / line.replicas;
      std::printf("%s %d replicas, p %d, m %2d, %zu dead: bound %.2f,", split ? "split" : "fused",
                  line.replicas, line.stages, line.micro_batches, line.dead.size(), bound);
      for (const std::int32_t cap : {line.stages, 2 * line.stages}) {
        plan.schedule = list_schedule(plan, costs, {split, cap}).value();
        const double kept = before / static_cast<double>(predict(plan, costs).makespan);
        std::printf(" %.3f", kept);
        EXPECT_LE(peak_of(plan), cap);
        EXPECT_GE(kept, cap == line.stages ? 0.92 * bound : 0.95 * bound);
      }
      std::printf("\n");
    }
}

TEST(ListSchedule, SixteenThousandRows) {
  Plan plan = make_plan(pipeline::placement(Schedule::one_f_one_b, 64, 1),
                        std::vector<std::int32_t>(64, 256), 2048);
  for (std::size_t i = 0; i < plan.route.size(); ++i)
    plan.route[i] = static_cast<std::int32_t>(i / 64 % 256);
  const Costs costs = uniform_costs(plan, {1000, 1000, 1000, 0}, 10);
  plan.schedule = list_schedule(plan, costs, {.split = true}).value();
  EXPECT_EQ(find_row_fault(plan, true), "");
  // The way there and back through all stages is the least of all.
  EXPECT_GE(predict(plan, costs).makespan, 2 * (64 * 1000 + 63 * 10));
  EXPECT_LE(predict(plan, costs).makespan, 150'000);
}

}  // namespace
}  // namespace elaswave::test
