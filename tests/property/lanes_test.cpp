// Training whose device memory travels by lanes, over a fake NCCL that runs messages as NCCL does:
// in the order of calls, a group of them as a whole, each only when its peer has come to it. A
// wrong order waits for ever, and a wrong sum shows in the digest. However ranks are laid out and
// whoever dies, the bits are those of a run whose messages go through the world.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "app/layout.h"
#include "io/base/hash.h"
#include "parallel/pipeline/links.h"
#include "parallel/pipeline/program.h"
#include "tests/property/device_training.h"
#include "tests/support/fake_lanes.h"

namespace elaswave::test {
namespace {

struct Layout {
  int ranks = 1, tp = 1, pp = 1, chunks = 1;
  const char* schedule = "auto";
};

constexpr Layout kLayouts[] = {{.ranks = 2},
                               {.ranks = 3},
                               {.ranks = 2, .pp = 2},
                               {.ranks = 4, .pp = 2},
                               {.ranks = 4, .pp = 4, .schedule = "zb-h1"},
                               {.ranks = 3, .pp = 2},
                               {.ranks = 4, .pp = 2, .chunks = 2},
                               {.ranks = 4, .pp = 2, .chunks = 2, .schedule = "zbv"},
                               {.ranks = 2, .tp = 2},
                               {.ranks = 8, .tp = 2, .pp = 2},
                               {.ranks = 5, .pp = 3}};

std::string text_of(const std::vector<std::string>& lines) {
  return std::accumulate(
      lines.begin(), lines.end(), std::string(),
      [](const std::string& all, const std::string& line) { return all + line + "\n"; });
}

MakeLanes lanes_over(FakeNccl& nccl, comm::LaneLimits limits = {}) {
  return [&nccl, limits](comm::World& world, comm::World& front, const kernels::Machine& machine) {
    return fake_lanes(nccl, world, front, machine.stream, limits);
  };
}

class LanesTest : public DeviceTraining {
 protected:
  app::Config config(const Layout& layout) const {
    app::Config config = DeviceTraining::config();
    config.model.layers = 4;
    config.parallel.tp = layout.tp;
    config.parallel.pp = layout.pp;
    config.parallel.chunks = layout.chunks;
    config.parallel.schedule = layout.schedule;
    config.comm.timeout_ms = 20'000;  // of virtual time
    return config;
  }
  static SimulatedRun through_world(const app::Config& config, int ranks) {
    return train(config, ranks, &app::make_cpu_rank);
  }
  /// By lanes; all of them are closed in the end, and NCCL had nothing to object.
  static SimulatedRun by_lanes(const app::Config& config, int ranks, FakeNccl& nccl,
                               std::uint64_t seed = 1, comm::LaneLimits limits = {}) {
    SimulatedRun run = train_simulated(
        config, {.ranks = ranks, .seed = seed, .make_lanes = lanes_over(nccl, limits)});
    for (const auto& error : run.errors) EXPECT_FALSE(error) << error->text();
    EXPECT_EQ(text_of(nccl.misuse()), "");
    for (int rank = 0; rank < ranks; ++rank) EXPECT_EQ(nccl.live(rank), 0);
    return run;
  }
  /// Operations that a rank started on its communicators.
  static std::int64_t messages(const FakeNccl& nccl, int rank) {
    return std::ranges::count_if(nccl.calls(rank), [](const std::string& call) {
      return call.starts_with("send") || call.starts_with("recv");
    });
  }
};

TEST_F(LanesTest, every_layout_trains_the_same_weights) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(fmt::format("{} ranks, tp {}, pp {}, {} chunks, {}", layout.ranks, layout.tp,
                             layout.pp, layout.chunks, layout.schedule));
    const app::Config recipe = config(layout);
    const SimulatedRun expected = through_world(recipe, layout.ranks);
    for (std::uint64_t seed = 1; seed <= 2; ++seed) {
      FakeNccl nccl(layout.ranks, seed);
      expect_equal(by_lanes(recipe, layout.ranks, nccl, seed).steps, expected.steps);
      for (int rank = 0; rank < layout.ranks; ++rank) EXPECT_GT(messages(nccl, rank), 0);
    }
  }
}

// f32 sums depend on the order of adding: it is the same by both ways.
TEST_F(LanesTest, fast_sums_are_added_in_the_same_order) {
  app::Config recipe = config({.ranks = 4});
  recipe.numerics.mode = "fast";
  recipe.elastic.rebalance = false;  // else the order depends on who is fast
  FakeNccl nccl(4, 3);
  expect_equal(by_lanes(recipe, 4, nccl).steps, through_world(recipe, 4).steps);
}

// Blocks of a part lie with different owners, and a unit travels in several cuts.
TEST_F(LanesTest, units_are_cut_and_packed) {
  app::Config recipe = config({.ranks = 3});
  recipe.model.layers = 2;
  recipe.model.hidden = 96;
  recipe.model.vocab = 600;
  recipe.train.steps = 3;
  for (const Layout& layout :
       {Layout{.ranks = 3}, Layout{.ranks = 4, .tp = 2}, Layout{.ranks = 5, .pp = 2}}) {
    SCOPED_TRACE(fmt::format("{} ranks, tp {}, pp {}", layout.ranks, layout.tp, layout.pp));
    recipe.parallel.tp = layout.tp;
    recipe.parallel.pp = layout.pp;
    const SimulatedRun expected = through_world(recipe, layout.ranks);
    std::int64_t fewer = 0;
    for (const comm::LaneLimits& limits :
         {comm::LaneLimits{}, comm::LaneLimits{.cut_bytes = 300 << 10, .cuts = 2},
          comm::LaneLimits{.cut_bytes = 1, .cuts = 1}}) {
      FakeNccl nccl(layout.ranks, 5);
      expect_equal(by_lanes(recipe, layout.ranks, nccl, 1, limits).steps, expected.steps);
      EXPECT_GT(messages(nccl, 0), fewer);
      fewer = messages(nccl, 0);
    }
  }
}

/// Of every message of a plan, except where lanes run out.
void expect_sound_links(const layout::Plan& plan, bool all) {
  const std::vector<pipeline::RankLink> links = pipeline::links(plan);
  std::set<std::pair<std::int32_t, std::int32_t>> pairs, taken;
  for (const pipeline::RankLink& link : links) {
    EXPECT_TRUE(pairs.insert({link.from, link.to}).second);
    for (const std::int32_t rank : {link.from, link.to})
      EXPECT_TRUE(taken.insert({rank, link.lane}).second) << "rank " << rank;
    EXPECT_LT(link.lane, pipeline::kMostLinkLanes);
  }
  if (!all) return;
  std::size_t found = 0;
  for (std::int32_t stage = 0; stage < std::ssize(plan.stages); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
      for (const pipeline::Message& message : pipeline::lower(plan, stage, replica).sends)
        for (std::int32_t slice = 0; slice < plan.tensor_degree; ++slice, ++found)
          EXPECT_TRUE(pairs.contains({plan.rank_of({stage, replica, slice}),
                                      plan.rank_of({message.stage, message.replica, slice})}));
  EXPECT_EQ(found == 0, links.empty());
}

TEST_F(LanesTest, no_two_links_of_a_rank_share_a_lane) {
  const auto plan_of = [this](const Layout& layout) {
    const auto spec = app::resolve(config(layout));
    EXPECT_TRUE(spec);
    return app::healthy_plan(*spec, layout.ranks, Generation{0}).value().plan;
  };
  for (const Layout& layout : kLayouts) expect_sound_links(plan_of(layout), true);
  EXPECT_EQ(pipeline::lane_count(pipeline::links(plan_of({.ranks = 4, .pp = 4}))), 4);
  EXPECT_EQ(pipeline::lane_count(pipeline::links(plan_of({.ranks = 3}))), 0);

  // One replica before six: twelve links of one rank.
  layout::Plan fan{.chunk_of_layer = {0, 1}, .stage_of_chunk = {0, 1}, .micro_batches = 6};
  fan.stages.resize(2);
  fan.stages[0].replicas.push_back({.world_ranks = {0}});
  for (std::int32_t rank = 1; rank <= 6; ++rank) {
    fan.stages[1].replicas.push_back({.world_ranks = {rank}});
    fan.route.insert(fan.route.end(), {0, rank - 1});
  }
  expect_sound_links(fan, false);
  EXPECT_EQ(std::ssize(pipeline::links(fan)), pipeline::kMostLinkLanes);
}

TEST_F(LanesTest, evaluation_goes_by_lanes_too) {
  app::Config recipe = config({.ranks = 4, .pp = 2});
  recipe.data.val = {folder_.file("train.bin")};
  recipe.train.val_every = 2;
  const SimulatedRun expected = through_world(recipe, 4);
  FakeNccl nccl(4, 1);
  const SimulatedRun run = by_lanes(recipe, 4, nccl);
  expect_equal(run.steps, expected.steps);
  for (std::size_t i = 0; i < run.steps.size(); ++i)
    EXPECT_EQ(run.steps[i].val_loss, expected.steps[i].val_loss);
}

TEST_F(LanesTest, ranks_that_share_a_device_use_no_lanes) {
  FakeNccl nccl(2, 1);
  const auto same_place = [&nccl](comm::World& world, comm::World&, const kernels::Machine&) {
    return std::make_unique<comm::NoLanes>(world, comm::device_place(1, "0", 0));
  };
  const app::Config recipe = config({.ranks = 2});
  const SimulatedRun run = train_simulated(recipe, {.ranks = 2, .make_lanes = same_place});
  for (const auto& error : run.errors) EXPECT_FALSE(error) << error->text();
  expect_equal(run.steps, through_world(recipe, 2).steps);
  EXPECT_EQ(nccl.ids_made(), 0);
}

TEST_F(LanesTest, a_rank_dies) {
  app::Config recipe = DeviceTraining::config();  // expect_survival's
  recipe.parallel.pp = 2;
  const SimulatedRun expected = through_world(recipe, 8);
  std::vector<std::unique_ptr<FakeNccl>> fakes;
  expect_survival(&app::make_cpu_rank, expected.steps, [&fakes](ElasticOptions& options) {
    FakeNccl& nccl = *fakes.emplace_back(std::make_unique<FakeNccl>(8, fakes.size() + 1));
    options.make_lanes = lanes_over(nccl);
    options.control = [&nccl](comm::SimulationControl& control) {
      nccl.ask_alive([&control](int rank) { return control.alive(rank); });
    };
  });
  ASSERT_EQ(fakes.size(), 6u);
  for (const auto& nccl : fakes) {
    EXPECT_EQ(text_of(nccl->misuse()), "");
    EXPECT_GT(nccl->ids_made(), 6);  // lanes for sums and links, in at least two views
  }
}

// Communicators that do not come to rest are aborted, and the run goes on.
TEST_F(LanesTest, revoking_hangs_everywhere) {
  app::Config recipe = DeviceTraining::config();
  recipe.parallel.pp = 2;
  FakeNccl nccl(8, 4);
  for (int rank = 0; rank < 8; ++rank) nccl.faults(rank).revoke_hangs = true;
  ElasticOptions options{.ranks = 8,
                         .faults = {{.rank = 5, .point = Point::before_reduce, .hit = 2}}};
  options.make_lanes = lanes_over(nccl);
  options.control = [&nccl](comm::SimulationControl& control) {
    nccl.ask_alive([&control](int rank) { return control.alive(rank); });
  };
  const ElasticRun run = train_elastic(recipe, options);
  EXPECT_EQ(run.failure + run.wrong, "");
  EXPECT_EQ(text_of(nccl.misuse()), "");
  expect_equal(run.steps, through_world(recipe, 8).steps);
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(nccl.live(rank), rank == 5 ? 3 : 0);
}

// Ranks die anywhere, a second one often while the first is being made up for.
TEST_F(LanesTest, ranks_die_at_any_time) {
  constexpr Point kSteps[] = {Point::step_begin,    Point::after_forward, Point::after_backward,
                              Point::before_reduce, Point::after_reduce,  Point::before_commit,
                              Point::after_commit,  Point::before_gather, Point::after_gather,
                              Point::send_chunk,    Point::receive_chunk};
  constexpr Point kRecovery[] = {Point::recover_begin,   Point::recover_inventory,
                                 Point::recover_planned, Point::recover_moved,
                                 Point::recover_gate,    Point::recover_done};
  app::Config recipe = DeviceTraining::config();
  recipe.parallel.pp = 2;
  recipe.elastic.copies = 2;
  const SimulatedRun expected = through_world(recipe, 8);
  std::int64_t fired = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    auto draw = [seed, n = std::uint64_t{0}](std::uint64_t below) mutable {
      return combine64(seed, ++n) % below;
    };
    const int first = static_cast<int>(draw(8)),
              second = (first + 1 + static_cast<int>(draw(7))) % 8;
    std::vector<Fault> faults = {{.rank = first,
                                  .point = kSteps[draw(std::size(kSteps))],
                                  .hit = 1 + static_cast<std::int64_t>(draw(4))}};
    if (draw(3) > 0)
      faults.push_back({.rank = second, .point = kRecovery[draw(std::size(kRecovery))]});
    FakeNccl nccl(8, seed);
    ElasticOptions options{.ranks = 8, .seed = seed, .faults = faults, .copies = 2};
    options.make_lanes = lanes_over(nccl);
    options.control = [&nccl](comm::SimulationControl& control) {
      nccl.ask_alive([&control](int rank) { return control.alive(rank); });
    };
    const ElasticRun run = train_elastic(recipe, options);
    std::string what = fmt::format("seed {}", seed);
    for (const Fault& fault : faults) what += ", " + text(fault);
    SCOPED_TRACE(what);
    EXPECT_EQ(run.failure + run.wrong, "");
    EXPECT_EQ(text_of(nccl.misuse()), "");
    expect_equal(run.steps, expected.steps);
    fired += run.fired;
  }
  EXPECT_GT(fired, 50);
}

// The device of one rank stands still: all come to an error that says where and for whom.
TEST_F(LanesTest, a_wait_in_vain_names_rank_operation_and_step) {
  app::Config recipe = config({.ranks = 3});
  recipe.comm.timeout_ms = 500;
  FakeNccl nccl(3, 1);
  std::int64_t asked = 0;
  nccl.ask_alive([&asked](int rank) { return rank != 1 || ++asked < 200; });
  const SimulatedRun run = train_simulated(recipe, {.ranks = 3, .make_lanes = lanes_over(nccl)});
  for (const auto& error : run.errors) {
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code, Code::deadline) << error->text();
    EXPECT_NE(error->text().find(", step "), std::string::npos) << error->text();
  }
  const std::string text = run.errors[0]->text();
  EXPECT_NE(text.find("waited in vain for rank 1 in '"), std::string::npos) << text;
  EXPECT_NE(text.find("which needs ranks 1 2"), std::string::npos) << text;
}

}  // namespace
}  // namespace elaswave::test
