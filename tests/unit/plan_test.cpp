// Makers of plans: layers into chunks, replicas onto stages, rows, owners; what is predicted of a
// plan; plans as text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <random>
#include <set>

#include "elastic/plan/evaluate.h"
#include "elastic/plan/partition.h"
#include "elastic/plan/sweep.h"
#include "model/spec/flops.h"
#include "parallel/layout/plan_text.h"
#include "parallel/pipeline/program.h"

namespace elaswave {
namespace {

using layout::Plan;
using pipeline::Schedule;
using spec::Recompute;
using testing::HasSubstr;

const spec::ModelConfig kTiny = spec::find_preset("tiny").value();

layout::BlockTable tiny_blocks(std::int32_t tensor) {
  return spec::Inventory(kTiny, DType::f32, tensor).blocks();
}

std::string error_of(const plan::HealthyRequest& request) {
  const auto made = plan::healthy_plan(tiny_blocks(request.tensor), request);
  if (made) return "";
  EXPECT_EQ(made.error().code, Code::usage);
  return made.error().text();
}

/// Heaviest chunk and sum of squares of a cut.
std::pair<std::int64_t, std::int64_t> judge(std::span<const std::int64_t> weights,
                                            std::span<const std::int32_t> chunk_of_layer) {
  std::vector<std::int64_t> sums(static_cast<std::size_t>(chunk_of_layer.back()) + 1, 0);
  for (std::size_t layer = 0; layer < weights.size(); ++layer)
    sums[static_cast<std::size_t>(chunk_of_layer[layer])] += weights[layer];
  std::int64_t squares = 0;
  for (const std::int64_t sum : sums) squares += sum * sum;
  return {*std::max_element(sums.begin(), sums.end()), squares};
}

/// The best of all cuts, by trying each set of places to cut at.
std::pair<std::int64_t, std::int64_t> best_cut(std::span<const std::int64_t> weights,
                                               std::int32_t chunks) {
  std::optional<std::pair<std::int64_t, std::int64_t>> best;
  const auto layers = static_cast<int>(weights.size());
  for (std::uint32_t cuts = 0; cuts < 1u << (layers - 1); ++cuts) {
    if (std::popcount(cuts) != chunks - 1) continue;
    std::vector<std::int32_t> chunk_of_layer{0};
    for (int layer = 1; layer < layers; ++layer)
      chunk_of_layer.push_back(chunk_of_layer.back() +
                               static_cast<std::int32_t>(cuts >> (layer - 1) & 1));
    const auto value = judge(weights, chunk_of_layer);
    if (!best || value < *best) best = value;
  }
  return *best;
}

TEST(Partition, IsTheBestOfAllCuts) {
  std::mt19937 random(1);
  int cases = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<std::int64_t> weights(1 + random() % 10);
    for (std::int64_t& weight : weights)
      weight = static_cast<std::int64_t>(random() % (round % 2 == 0 ? 4 : 100));
    for (std::int32_t chunks = 1; chunks <= static_cast<std::int32_t>(weights.size()); ++chunks) {
      const std::vector<std::int32_t> cut = plan::chunk_layers(weights, chunks);
      ASSERT_EQ(cut.back(), chunks - 1);
      for (std::size_t layer = 1; layer < cut.size(); ++layer)
        ASSERT_TRUE(cut[layer] == cut[layer - 1] || cut[layer] == cut[layer - 1] + 1);
      ASSERT_EQ(judge(weights, cut), best_cut(weights, chunks)) << "seed 1, round " << round;
      ++cases;
    }
  }
  std::printf("campaign: %d cuts compared with all others\n", cases);
}

TEST(Partition, LargeWeightsDoNotOverflow) {
  const std::vector<std::int64_t> weights(100, std::int64_t{1} << 55);
  const std::vector<std::int32_t> cut = plan::chunk_layers(weights, 10);
  for (std::size_t layer = 0; layer < cut.size(); ++layer)
    EXPECT_EQ(cut[layer], static_cast<std::int32_t>(layer / 10));
}

TEST(Partition, ReplicasGoToTheHeaviestStages) {
  const auto dealt = [](std::vector<std::int64_t> weights, std::int32_t total) {
    return plan::deal_replicas(weights, total);
  };
  EXPECT_EQ(dealt({5, 9, 7}, 6), (std::vector<std::int32_t>{2, 2, 2}));
  EXPECT_EQ(dealt({5, 9, 7}, 7), (std::vector<std::int32_t>{2, 3, 2}));
  EXPECT_EQ(dealt({5, 9, 7}, 8), (std::vector<std::int32_t>{2, 3, 3}));
  EXPECT_EQ(dealt({1, 1}, 3), (std::vector<std::int32_t>{2, 1}));
  EXPECT_EQ(dealt({1, 100, 1}, 5), (std::vector<std::int32_t>{1, 3, 1}));
}

TEST(HealthyPlan, AloneIsDataParallelismInOrder) {
  const layout::BlockTable blocks = tiny_blocks(1);
  for (const std::int32_t ranks : {1, 2, 3, 8, 13}) {
    const Plan plan =
        plan::healthy_plan(blocks, {.world_size = ranks, .micro_batches = 10}).value();
    EXPECT_EQ(plan, plan::healthy_plan(blocks, ranks, 10, Generation{0}).value());
    for (std::int32_t replica = 0; replica < ranks; ++replica) {
      layout::Row expected;
      for (std::int32_t micro_batch = replica; micro_batch < 10; micro_batch += ranks)
        for (const layout::Op op : {layout::Op::forward, layout::Op::backward})
          expected.push_back({op, 0, micro_batch});
      EXPECT_EQ(plan.row(0, replica), expected);
    }
    for (std::int64_t index = 0; index < blocks.count(); ++index) {
      const std::int32_t layer = blocks.block(index).layer;
      ASSERT_EQ(plan.owner[static_cast<std::size_t>(index)],
                (index - blocks.layer_begin(layer) + layer) % ranks);
    }
  }
}

/// Every layout of up to 8 ranks that the tiny model allows.
template <typename Visit>
void for_each_request(Visit visit) {
  for (std::int32_t world = 1; world <= 8; ++world)
    for (const std::int32_t tensor : {1, 2, 4})
      for (std::int32_t stages = 1; stages <= 5; ++stages)
        for (std::int32_t chunks = 1; chunks <= 3; ++chunks)
          for (const auto& schedule :
               {std::optional<Schedule>(), std::optional(Schedule::gpipe),
                std::optional(Schedule::one_f_one_b), std::optional(Schedule::interleaved),
                std::optional(Schedule::zb_h1), std::optional(Schedule::zbv)})
            for (const Recompute recompute : {Recompute::none, Recompute::full})
              for (const plan::Backward backward :
                   {plan::Backward::as_scheduled, plan::Backward::split})
                for (const std::int64_t micro_batches : {1, 5, 8}) {
                  if (world % tensor != 0 || world / tensor < stages) continue;
                  if (stages * chunks > static_cast<std::int32_t>(kTiny.layers) + 2) continue;
                  visit(plan::HealthyRequest{.world_size = world,
                                             .tensor = tensor,
                                             .pipeline = stages,
                                             .chunks = chunks,
                                             .schedule = schedule,
                                             .recompute = recompute,
                                             .backward = backward,
                                             .micro_batches = micro_batches,
                                             .costs = plan::counted_costs(kTiny)});
                }
}

TEST(HealthyPlan, EveryLegalLayoutIsSound) {
  int made_count = 0, refused = 0, uneven = 0;
  for_each_request([&](const plan::HealthyRequest& request) {
    const layout::BlockTable blocks = tiny_blocks(request.tensor);
    const auto made = plan::make_healthy_plan(blocks, request);
    if (!made) {
      ASSERT_TRUE(request.schedule.has_value()) << made.error().text();
      ASSERT_EQ(made.error().code, Code::usage) << made.error().text();
      ++refused;
      return;
    }
    ++made_count;
    const Plan& plan = made->plan;
    ASSERT_EQ(layout::find_fault(plan, blocks, request.world_size), "");
    const pipeline::ScheduleFault fault = pipeline::check_schedule(plan, 0);
    ASSERT_EQ(fault.what, "") << pipeline::fault_text(plan, fault);
    ASSERT_EQ(static_cast<std::int32_t>(plan.stages.size()), request.pipeline);
    ASSERT_EQ(plan.chunks(), request.pipeline * request.chunks);
    if (!plan::in_columns(plan)) ++uneven;
    // World ranks: slice, replica, stage; every one has its place.
    std::int32_t next = 0;
    for (const layout::Stage& stage : plan.stages)
      for (const layout::Replica& replica : stage.replicas)
        for (const std::int32_t rank : replica.world_ranks) ASSERT_EQ(rank, next++);
    ASSERT_EQ(next, request.world_size);
    // The same arguments, the same plan.
    ASSERT_EQ(layout::digest(plan::healthy_plan(blocks, request).value()), layout::digest(plan));
    for (const layout::Row& row : plan.schedule)
      for (std::size_t index = 0; index < row.size(); ++index) {
        if (row[index].op != layout::Op::backward) continue;
        ASSERT_EQ(request.backward, plan::Backward::as_scheduled);
        ASSERT_TRUE(request.recompute == Recompute::none ||
                    row[index - 1].op == layout::Op::recompute ||
                    row[index - 1].op == layout::Op::forward);
      }
  });
  std::printf("campaign: %d plans checked (%d uneven), %d schedules refused\n", made_count, uneven,
              refused);
  EXPECT_GE(made_count, 1000);
  EXPECT_GE(uneven, 100);
  EXPECT_GE(refused, 100);
}

TEST(HealthyPlan, OwnersAreDealtEvenlyWithinSlices) {
  for (const std::int32_t tensor : {1, 2, 4})
    for (const std::int32_t replicas : {1, 2, 3, 5}) {
      const layout::BlockTable blocks = tiny_blocks(tensor);
      const Plan plan = plan::healthy_plan(blocks, {.world_size = tensor * replicas * 2,
                                                    .tensor = tensor,
                                                    .pipeline = 2,
                                                    .micro_batches = 8})
                            .value();
      for (std::int32_t layer = 0; layer < blocks.layers(); ++layer) {
        // [slice or, for replicated parts, tensor][member]
        std::vector<std::vector<int>> owned(
            static_cast<std::size_t>(tensor) + 1,
            std::vector<int>(static_cast<std::size_t>(tensor * replicas), 0));
        bool first_sliced = true;
        for (std::int64_t index = blocks.layer_begin(layer); index < blocks.layer_begin(layer + 1);
             ++index) {
          const std::int32_t slice = blocks.part(blocks.block(index).part).slice;
          const std::int32_t owner = plan.owner[static_cast<std::size_t>(index)];
          EXPECT_TRUE(slice < 0 || !first_sliced || owner == layer % replicas * tensor);
          if (slice >= 0) first_sliced = false;
          ++owned[static_cast<std::size_t>(slice < 0 ? tensor : slice)]
                 [static_cast<std::size_t>(owner)];
        }
        for (std::int32_t kind = 0; kind <= tensor; ++kind) {
          int least = 1 << 30, most = 0;
          for (std::int32_t member = 0; member < tensor * replicas; ++member) {
            const int count =
                owned[static_cast<std::size_t>(kind)][static_cast<std::size_t>(member)];
            if (kind < tensor && member % tensor != kind) {
              EXPECT_EQ(count, 0);
              continue;
            }
            least = std::min(least, count);
            most = std::max(most, count);
          }
          EXPECT_LE(most - least, 1);
        }
      }
    }
}

TEST(HealthyPlan, AutoIsNeverSlowerThanWhatCouldBeAsked) {
  int compared = 0;
  for (const std::int32_t stages : {2, 3, 4})
    for (const std::int32_t chunks : {1, 2})
      for (const std::int64_t micro_batches : {3, 4, 8, 12}) {
        plan::HealthyRequest request{.world_size = stages,
                                     .pipeline = stages,
                                     .chunks = chunks,
                                     .micro_batches = micro_batches,
                                     .costs = plan::counted_costs(kTiny)};
        const auto makespan = [&](const Plan& plan) {
          return pipeline::predict(
                     plan, plan::chunk_costs(request.costs, plan.chunk_of_layer, plan.chunks()))
              .makespan;
        };
        const std::int64_t chosen = makespan(plan::healthy_plan(tiny_blocks(1), request).value());
        for (const Schedule schedule : {Schedule::gpipe, Schedule::one_f_one_b,
                                        Schedule::interleaved, Schedule::zb_h1, Schedule::zbv}) {
          request.schedule = schedule;
          const auto asked = plan::make_healthy_plan(tiny_blocks(1), request);
          if (!asked) continue;
          EXPECT_EQ(asked->schedule, pipeline::name(schedule));
          EXPECT_LE(chosen, makespan(asked->plan));
          ++compared;
        }
      }
  EXPECT_GE(compared, 40);
}

TEST(HealthyPlan, ErrorsNameWhatWouldDo) {
  EXPECT_THAT(error_of({.world_size = 7, .tensor = 2}),
              HasSubstr("use 6 or 8 ranks, or parallel.tp=1"));
  EXPECT_THAT(error_of({.world_size = 1, .tensor = 4}), HasSubstr("use 4 ranks, or parallel.tp=1"));
  EXPECT_THAT(error_of({.world_size = 6, .tensor = 2, .pipeline = 4}),
              HasSubstr("use at least 8 ranks, or parallel.pp=3 at most"));
  EXPECT_THAT(error_of({.world_size = 64, .pipeline = 4, .chunks = 4}),
              HasSubstr("use parallel.chunks=2 at most"));
  EXPECT_THAT(error_of({.world_size = 64, .pipeline = 11}), HasSubstr("parallel.pp=10 at most"));
  const std::string two_chunks = error_of({.world_size = 4,
                                           .pipeline = 4,
                                           .chunks = 2,
                                           .schedule = Schedule::one_f_one_b,
                                           .micro_batches = 8});
  EXPECT_THAT(two_chunks, HasSubstr("use parallel.schedule=auto, interleaved, zbv"));
  // 3 columns of 2, 2 and 1 micro-batches: no multiple of 2.
  const std::string shares = error_of({.world_size = 6,
                                       .pipeline = 2,
                                       .chunks = 2,
                                       .schedule = Schedule::interleaved,
                                       .micro_batches = 5});
  EXPECT_THAT(shares, HasSubstr("auto"));
  EXPECT_THAT(shares, testing::Not(HasSubstr("auto, interleaved")));
  const std::string uneven = error_of(
      {.world_size = 3, .pipeline = 2, .schedule = Schedule::one_f_one_b, .micro_batches = 4});
  EXPECT_THAT(uneven, HasSubstr("3 replicas over 2 stages"));
  EXPECT_THAT(uneven, ::testing::EndsWith("use parallel.schedule=auto"));
}

TEST(HealthyPlan, MoreActionsThanAnyoneCanHoldAreRefused) {
  EXPECT_THAT(error_of({.world_size = 4, .pipeline = 4, .micro_batches = 1'000'000'000}),
              HasSubstr("use larger micro-batches"));
}

TEST(Costs, LayersAddUpToTheModel) {
  for (const spec::Preset& preset : spec::presets()) {
    double sum = 0;
    for (std::int64_t layer = 0; layer < preset.config.layers + 2; ++layer) {
      const spec::LayerFlops flops = spec::layer_flops(preset.config, layer);
      sum += static_cast<double>(flops.forward + flops.input_gradient + flops.weight_gradient);
    }
    EXPECT_EQ(sum, spec::training_flops_per_token(preset.config)) << preset.name;
  }
  // 10^9 FLOP/s: one nanosecond an operation.
  const plan::CostProfile profile = plan::profile_of_rate(kTiny, 2, 1e9, 0);
  const plan::LayerCosts costs =
      plan::profiled_costs(profile, {.config = kTiny, .micro_batch = 2, .tensor = 2});
  EXPECT_EQ(costs.layers[3].forward, spec::layer_flops(kTiny, 3).forward * 2 * kTiny.context / 2);
  EXPECT_EQ(costs.message, 0);
}

/// A model with a plan; Inventory and blocks stay alive with it.
struct Subject {
  explicit Subject(plan::HealthyRequest request, spec::CheckpointImage checkpoints = {})
      : inventory(kTiny, DType::f32, request.tensor),
        blocks(inventory.blocks()),
        model{.config = kTiny,
              .inventory = inventory,
              .blocks = blocks,
              .micro_batch = 2,
              .recompute = request.recompute,
              .checkpoints = checkpoints,
              .loss_chunk_tokens = 256},
        evaluation(
            plan::evaluate(model, request, plan::profile_of_rate(kTiny, 2, 1e9, 1e9)).value()) {}

  const Plan& plan() const { return evaluation.made.plan; }

  spec::Inventory inventory;
  layout::BlockTable blocks;
  spec::MemoryModel model;
  plan::Evaluation evaluation;
};

TEST(Memory, OneRankHoldsTheModelOnce) {
  const Subject subject({.micro_batches = 3}, spec::CheckpointImage::kept);
  const spec::MemoryTable& table = subject.evaluation.memory.at(0).table;
  const auto elems = static_cast<double>(subject.inventory.total_elems());
  using enum spec::MemoryTerm;
  EXPECT_EQ(table[weights], 4 * elems);
  EXPECT_EQ(table[sums], 8 * elems);
  EXPECT_EQ(table[optimizer], 12 * elems);
  EXPECT_EQ(table[log], 4 * elems);
  EXPECT_EQ(table[checkpoint], 12 * elems);
  EXPECT_EQ(table[backups], 0);
  EXPECT_EQ(table[exchange], 0);
  EXPECT_EQ(table[weight_stashes], 0);
  // One micro-batch at a time: 15 C and statistics a token and block, and x of all blocks but the
  // first.
  const double N = 2 * 63, C = 64, L = 8;
  EXPECT_EQ(table[stashes], 4 * (L * (N * (15 * C + 4 + 4)) + (L - 1) * N * C));
  EXPECT_EQ(table[head], 4 * (2 * N * C + 2 * N));
  EXPECT_EQ(table[scratch], 4 * (6 * N * C + N));
  EXPECT_EQ(table[logits], 4 * N * 257);
}

TEST(Memory, SumsOfTheTiedEmbeddingArriveAtItsHome) {
  // One replica a stage: the head's stage alone sends, and only the embedding's matrix.
  const Subject two({.world_size = 2, .pipeline = 2, .micro_batches = 2});
  using enum spec::MemoryTerm;
  EXPECT_EQ(two.evaluation.memory[0].table[exchange], 8.0 * 257 * 64);
  EXPECT_EQ(two.evaluation.memory[1].table[exchange], 0);
}

TEST(Memory, CopiesAreCountedWhereTheyAreKept) {
  const Subject subject({.world_size = 4, .pipeline = 2, .micro_batches = 2});
  Plan plan = subject.plan();
  plan.copies = 2;
  plan.spares = {6};
  // The first copy on the spare, the second of the first stage's blocks on its neighbour's rank.
  double first_stage = 0, all = 0;
  for (std::int64_t index = 0; index < subject.blocks.count(); ++index) {
    const layout::Block& block = subject.blocks.block(index);
    const bool first = plan.stage_of_layer(block.layer) == 0;
    plan.backup.push_back(6);
    plan.backup.push_back(first ? 3 : -1);
    (first ? first_stage : all) += static_cast<double>(block.elems);
  }
  all += first_stage;
  ASSERT_EQ(layout::find_fault(plan, subject.blocks, 7), "");
  const auto elems = spec::copy_elems(plan, subject.blocks);
  const auto owned = spec::owned_elems(plan, subject.blocks);
  ASSERT_EQ(elems.size(), 7u);
  double kept = 0;
  for (std::int32_t rank = 0; rank < 7; ++rank) {
    const layout::Place place = layout::place_of(plan, rank);
    spec::OwnedElems mine{.copies = elems[static_cast<std::size_t>(rank)]};
    if (place.stage >= 0)
      mine = owned[static_cast<std::size_t>(place.stage)][static_cast<std::size_t>(place.replica)];
    else if (rank != 6)
      continue;
    const spec::MemoryTable table = plan::memory_of_rank(subject.model, plan, place, mine);
    kept += table[spec::MemoryTerm::backups];
    EXPECT_EQ(table[spec::MemoryTerm::backups], rank == 6   ? 16 * all
                                                : rank == 3 ? 16 * first_stage
                                                            : 0)
        << "rank " << rank;
    if (rank == 6) {
      EXPECT_EQ(table.total(), table[spec::MemoryTerm::backups]);
    }
  }
  EXPECT_EQ(kept, 16 * (all + first_stage));
  // The worst of the second stage is the one that keeps them.
  EXPECT_EQ(plan::predict_memory(subject.model, plan)[1].place.replica, 1);
  // A plan without any yet: as much as it owns, for each copy asked for.
  spec::MemoryModel asked = subject.model;
  asked.backups = 2;
  const auto table = plan::predict_memory(asked, subject.plan())[0].table;
  EXPECT_EQ(table[spec::MemoryTerm::backups],
            2 * (table[spec::MemoryTerm::optimizer] + table[spec::MemoryTerm::log]));
}

TEST(Memory, PaddingFollowsThePage) {
  // 4 x 1024 bytes of f32 a row.
  const spec::StashMatrix wide{.rows = 3, .cols = 1024, .padded = true};
  EXPECT_EQ(wide.size_bytes(DType::f32), 3 * (1024 + 16) * 4);
  EXPECT_EQ(wide.size_bytes(DType::bf16), 3 * 1024 * 2);
  EXPECT_EQ((spec::StashMatrix{.rows = 3, .cols = 1024}).size_bytes(DType::f32), 3 * 1024 * 4);
}

TEST(Memory, StashesShrinkWithRecomputeAndSlices) {
  const spec::StashShape whole(kTiny, 4, 1), quarter(kTiny, 4, 4);
  const auto bytes = [](const spec::StashShape& shape, Recompute recompute) {
    return spec::block_stash(shape, recompute).size_bytes(DType::f32);
  };
  const double N = 4 * 63, C = 64;
  EXPECT_EQ(bytes(whole, Recompute::none) - bytes(whole, Recompute::selective), 4 * N * 6 * C);
  EXPECT_EQ(bytes(whole, Recompute::none), bytes(whole, Recompute::full));
  EXPECT_EQ(bytes(quarter, Recompute::none), bytes(whole, Recompute::none) / 4);
  // What full recompute saves are slots: a stash lives from R to B alone.
  plan::HealthyRequest request{
      .world_size = 4, .pipeline = 4, .schedule = Schedule::one_f_one_b, .micro_batches = 8};
  const double kept = Subject(request).evaluation.memory[0].table[spec::MemoryTerm::stashes];
  request.recompute = Recompute::full;
  const double again = Subject(request).evaluation.memory[0].table[spec::MemoryTerm::stashes];
  EXPECT_EQ(again, kept / 4);
}

TEST(Memory, EveryRankTogetherOwnsTheModelAndTheWorstIsFound) {
  int cases = 0;
  for_each_request([&](const plan::HealthyRequest& request) {
    if (request.micro_batches != 5 || request.world_size < 5 ||
        request.backward == plan::Backward::split)
      return;
    if (!plan::make_healthy_plan(tiny_blocks(request.tensor), request)) return;
    const Subject subject(request);
    const Plan& plan = subject.plan();
    const auto owned = spec::owned_elems(plan, subject.blocks);
    double optimizer = 0;
    for (std::int32_t stage = 0; stage < request.pipeline; ++stage) {
      double most = 0;
      for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
        for (std::int32_t slice = 0; slice < request.tensor; ++slice) {
          const spec::OwnedElems& elems =
              owned[static_cast<std::size_t>(stage)]
                   [static_cast<std::size_t>(replica * request.tensor + slice)];
          const spec::MemoryTable table =
              plan::memory_of_rank(subject.model, plan, {stage, replica, slice}, elems);
          optimizer += table[spec::MemoryTerm::optimizer];
          most = std::max(most, table.total());
        }
      ASSERT_EQ(subject.evaluation.memory[static_cast<std::size_t>(stage)].table.total(), most);
    }
    ASSERT_EQ(optimizer, 12 * static_cast<double>(subject.inventory.total_elems()));
    ++cases;
  });
  std::printf("campaign: %d plans, memory of every rank\n", cases);
  EXPECT_GE(cases, 100);
}

TEST(Prediction, OfColumnsIsThatOfTheWholePlan) {
  int cases = 0;
  for_each_request([&](const plan::HealthyRequest& request) {
    if (request.world_size < 4 || request.backward == plan::Backward::split ||
        !plan::make_healthy_plan(tiny_blocks(request.tensor), request))
      return;
    const Subject subject(request);
    const pipeline::Timing timing = pipeline::predict(subject.plan(), subject.evaluation.costs);
    ASSERT_EQ(subject.evaluation.step.makespan, timing.makespan);
    ASSERT_NEAR(subject.evaluation.step.bubble, timing.bubble(), 1e-12);
    ++cases;
  });
  std::printf("campaign: %d predictions compared\n", cases);
  EXPECT_GE(cases, 200);
}

TEST(Prediction, BytesAreThoseOfTheMessages) {
  int cases = 0;
  for_each_request([&](const plan::HealthyRequest& request) {
    if (request.backward == plan::Backward::split ||
        !plan::make_healthy_plan(tiny_blocks(request.tensor), request))
      return;
    const Subject subject(request);
    const Plan& plan = subject.plan();
    std::size_t sends = 0;
    for (std::int32_t stage = 0; stage < request.pipeline; ++stage)
      for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
        sends += pipeline::lower(plan, stage, replica).sends.size();
    // 2 x 63 tokens of width 64, f32, over all slices.
    ASSERT_EQ(subject.evaluation.traffic.pipeline, static_cast<double>(sends) * 126 * 64 * 4);
    ASSERT_EQ(subject.evaluation.traffic.tensor == 0, request.tensor == 1);
    ++cases;
  });
  EXPECT_GE(cases, 500);
  // Two replicas: each owns half of what the other adds to.
  const Subject two({.world_size = 2, .micro_batches = 2});
  const auto elems = static_cast<double>(two.inventory.total_elems());
  EXPECT_EQ(two.evaluation.traffic.reduce, 8 * elems);
  EXPECT_EQ(two.evaluation.traffic.gather, 4 * elems);
  EXPECT_EQ(two.evaluation.traffic.reduce_of_rank, 4 * elems);
  // One replica a stage: nothing but the tied embedding, between first and last.
  const Subject tied({.world_size = 2, .pipeline = 2, .micro_batches = 2});
  EXPECT_EQ(tied.evaluation.traffic.reduce, 8.0 * 257 * 64);
}

TEST(Sweep, RanksWhatFitsAndNamesWhatDoesNot) {
  const plan::SweepRequest request{.config = kTiny,
                                   .world_size = 6,
                                   .micro_batch = 2,
                                   .micro_batches = 12,
                                   .profile = plan::profile_of_rate(kTiny, 2, 1e9, 1e9),
                                   .loss_chunk_tokens = 256};
  const plan::Sweep all = plan::sweep(request).value();
  EXPECT_TRUE(all.too_large.empty());
  std::set<std::string> seen;
  double least = 1e30, most = 0;
  for (const plan::SweepEntry& entry : all.fitting) {
    EXPECT_TRUE(seen.insert(fmt::format("{} {} {} {} {}", entry.tensor, entry.pipeline,
                                        entry.chunks, entry.schedule, spec::name(entry.recompute)))
                    .second);
    least = std::min(least, entry.memory);
    most = std::max(most, entry.memory);
  }
  for (const char* layout : {"1 1 1 1f1b none", "2 3 1 zb-h1 full", "1 6 1 gpipe selective",
                             "1 3 2 zbv none", "1 2 3 interleaved none"})
    EXPECT_EQ(seen.count(layout), 1u) << layout;
  // A single stage recomputes nothing by R; unequal stages have no schedule but `auto`.
  EXPECT_EQ(seen.count("1 1 1 1f1b full"), 0u);
  EXPECT_EQ(seen.count("1 4 1 auto none"), 1u);
  EXPECT_EQ(all.left_out.uneven, 0);
  const auto time_of = [&](Recompute recompute) {
    for (const plan::SweepEntry& entry : all.fitting)
      if (entry.pipeline == 1 && entry.tensor == 1 && entry.recompute == recompute)
        return entry.step.step();
    return std::int64_t{0};
  };
  EXPECT_LT(time_of(Recompute::none), time_of(Recompute::selective));
  for (std::size_t index = 1; index < all.fitting.size(); ++index)
    EXPECT_LE(all.fitting[index - 1].step.step(), all.fitting[index].step.step());

  plan::SweepRequest limited = request;
  limited.memory_limit = (least + most) / 2;
  const plan::Sweep some = plan::sweep(limited).value();
  EXPECT_FALSE(some.fitting.empty());
  EXPECT_EQ(some.fitting.size() + some.too_large.size(), all.fitting.size());
  for (const plan::SweepEntry& entry : some.fitting) EXPECT_LE(entry.memory, limited.memory_limit);
  for (const plan::SweepEntry& entry : some.too_large)
    EXPECT_GT(entry.memory, limited.memory_limit);
  std::printf("campaign: %zu layouts of 6 ranks\n", all.fitting.size());
}

/// Lengths agree as they must; everything else is at random.
Plan random_plan(std::mt19937& random) {
  const auto below = [&random](std::int32_t limit) {
    return static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(limit));
  };
  const auto numbers = [&](std::int32_t count) {
    std::vector<std::int32_t> values;
    while (static_cast<std::int32_t>(values.size()) < count) {
      // Runs, repeated runs and noise.
      const std::int32_t first = below(5), length = 1 + below(4), times = 1 + below(4);
      for (std::int32_t time = 0; time < times; ++time)
        for (std::int32_t offset = 0; offset < length; ++offset) values.push_back(first + offset);
    }
    values.resize(static_cast<std::size_t>(count));
    return values;
  };
  Plan plan;
  plan.generation = Generation{static_cast<std::uint32_t>(random() % 4)};
  plan.id = static_cast<std::uint32_t>(random() % 4);
  plan.tensor_degree = 1 + below(3);
  plan.chunk_of_layer = numbers(below(8));
  plan.stage_of_chunk = numbers(below(5));
  plan.micro_batches = below(9);
  const std::int32_t stages = below(4);
  for (std::int32_t stage = 0; stage < stages; ++stage) {
    layout::Stage& added = plan.stages.emplace_back();
    for (std::int32_t replica = below(4); replica-- > 0;) {
      added.replicas.push_back({numbers(plan.tensor_degree)});
      layout::Row& row = plan.schedule.emplace_back();
      for (std::int32_t action = below(6); action-- > 0;)
        row.push_back({static_cast<layout::Op>(below(5)), below(20), below(1000)});
    }
  }
  plan.route = numbers(static_cast<std::int32_t>(plan.micro_batches) * stages);
  plan.owner = numbers(below(60));
  plan.copies = below(3);
  plan.backup = numbers(below(60));
  for (std::int32_t& backup : plan.backup)
    if (below(5) == 0) backup = -1;
  plan.spares = numbers(below(8));
  return plan;
}

TEST(PlanText, ReadsBackWhatItWrites) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const Plan plan = random_plan(random);
    const std::string text = layout::to_text(plan);
    const auto again = layout::parse_plan(text);
    ASSERT_TRUE(again.has_value()) << again.error().text() << '\n' << text;
    ASSERT_EQ(*again, plan) << "seed 7, round " << round << '\n' << text;
  }
  std::printf("campaign: 2000 plans\n");
}

TEST(PlanText, IsWhatAPersonExpects) {
  const Plan plan =
      plan::healthy_plan(
          layout::BlockTable({{0, 40000}, {1, 1}, {2, 1}}),
          {.world_size = 4, .pipeline = 2, .schedule = Schedule::one_f_one_b, .micro_batches = 3})
          .value();
  EXPECT_EQ(
      layout::to_text(plan),
      "elaswave plan 2\ngeneration 0\nid 0\ntensor_degree 1\nmicro_batches 3\n"
      "chunk_of_layer 0-1 1\nstage_of_chunk 0-1\n"
      "stage 0\nreplica 0.0 ranks 0\nreplica 0.1 ranks 1\nroute 0-1 0\n"
      "stage 1\nreplica 1.0 ranks 2\nreplica 1.1 ranks 3\nroute 0-1 0\n"
      "row 0.0 0F0 0F2 0B0 0B2\nrow 0.1 0F1 0B1\n"
      "row 1.0 1F0 1B0 1F2 1B2\nrow 1.1 1F1 1B1\nowner 0-1*2 0\ncopies 0\nbackup\nspares\nend\n");
}

TEST(PlanText, DamageIsAnErrorWithALine) {
  std::mt19937 random(11);
  int cases = 0, accepted = 0;
  for (int round = 0; round < 200; ++round) {
    const std::string text = layout::to_text(random_plan(random));
    for (std::size_t length = 0; length < text.size(); length += 1 + random() % 7) {
      const auto cut = layout::parse_plan(std::string_view(text).substr(0, length));
      ASSERT_FALSE(cut.has_value());
      ASSERT_EQ(cut.error().code, Code::corrupt);
      ASSERT_THAT(cut.error().where, testing::StartsWith("line "));
      ++cases;
    }
    for (int time = 0; time < 60; ++time) {
      std::string mutated = text;
      constexpr std::string_view letters = "0123456789 -*.\nFBIWRxae\xff";
      for (std::uint32_t change = 1 + random() % 3; change-- > 0;) {
        const std::size_t at = random() % mutated.size();
        const char letter = letters[random() % letters.size()];
        switch (random() % 3) {
          case 0:
            mutated[at] = letter;
            break;
          case 1:
            mutated.insert(at, 1, letter);
            break;
          default:
            mutated.erase(at, 1);
        }
      }
      const auto read = layout::parse_plan(mutated);
      ++cases;
      if (read) {
        // A plan of another value, or the same text.
        ASSERT_EQ(layout::to_text(*read), mutated);
        ++accepted;
      } else {
        ASSERT_EQ(read.error().code, Code::corrupt);
        ASSERT_THAT(read.error().where, testing::StartsWith("line "));
      }
    }
  }
  std::printf("campaign: %d damaged texts, %d still plans\n", cases, accepted);
}

TEST(PlanText, CountsBeyondAnyPlanAreRefused) {
  const auto owner = [](std::string_view numbers) {
    return layout::parse_plan(fmt::format(
        "elaswave plan 2\ngeneration 0\nid 0\ntensor_degree 1\nmicro_batches 0\n"
        "chunk_of_layer\nstage_of_chunk\nowner{}\ncopies 1\nbackup none*2 0-1\nspares\nend\n",
        numbers));
  };
  EXPECT_TRUE(owner(" 0-3*2 7").has_value());
  // What follows the largest number is not its successor.
  EXPECT_TRUE(owner(" 2147483647 3").has_value());
  EXPECT_TRUE(owner(" 2147483646-2147483647 0").has_value());
  for (const char* numbers : {" 0*999999999999",
                              " 0-2147483647",
                              " 0-1000*1000000000",
                              " 0-9223372036854775807",
                              " 0*99999999999999999999",
                              " 2-1",
                              " 1-1",
                              " 0*1",
                              " 0*0",
                              " -1",
                              " 00",
                              " 0  0",
                              " 0 ",
                              " 0-",
                              " 0*",
                              "0",
                              " 0 0",
                              " 0-1-2",
                              " 0 1",
                              " none-1",
                              " none*1",
                              " nonesuch",
                              "none",
                              " none none",
                              " 0-none"}) {
    const auto read = owner(numbers);
    ASSERT_FALSE(read.has_value()) << numbers;
    EXPECT_EQ(read.error().where, "line 8") << numbers;
  }
}

}  // namespace
}  // namespace elaswave
