// The promise P2 in the simulated world: the same bits whatever the number of ranks, threads and
// message orders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <set>

#include "app/layout.h"
#include "app/memory.h"
#include "app/start.h"
#include "tests/support/training.h"

namespace elaswave::test {
namespace {

using testing::HasSubstr;

class TrainTest : public testing::Test {
 protected:
  TrainTest() {
    write_tokens(folder_.file("train.bin"), 2000, 37);
    config_ = tiny_config(folder_.file("train.bin"));
  }

  static std::vector<std::uint64_t> digests(const SimulatedRun& run) {
    std::vector<std::uint64_t> digests;
    for (const app::StepReport& step : run.steps) digests.push_back(step.digest.value_or(0));
    return digests;
  }
  static void expect_no_errors(const SimulatedRun& run) {
    for (const auto& error : run.errors) EXPECT_FALSE(error.has_value()) << error->text();
  }

  TemporaryFolder folder_;
  app::Config config_;
};

TEST_F(TrainTest, OneDigestForAnyRanksThreadsAndSchedules) {
  const SimulatedRun reference = train_simulated(config_, {});
  expect_no_errors(reference);
  ASSERT_EQ(reference.steps.size(), 6u);
  const auto expected = digests(reference);
  EXPECT_EQ(std::set<std::uint64_t>(expected.begin(), expected.end()).size(), expected.size())
      << "a step changed nothing";

  std::int64_t runs = 0;
  for (const int ranks : {1, 2, 3, 5, 8, 11})
    for (const int threads : {1, 2, 3})
      for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
        if (threads > 1 && seed > 1) continue;
        const SimulatedRun run =
            train_simulated(config_, {.ranks = ranks, .threads = threads, .seed = seed});
        expect_no_errors(run);
        ASSERT_EQ(digests(run), expected)
            << ranks << " ranks, " << threads << " threads, seed " << seed;
        for (std::size_t i = 0; i < run.steps.size(); ++i) {
          EXPECT_EQ(run.steps[i].record.loss, reference.steps[i].record.loss);
          EXPECT_EQ(run.steps[i].record.grad_norm, reference.steps[i].record.grad_norm);
          EXPECT_EQ(run.steps[i].record.sample_hash, reference.steps[i].record.sample_hash);
        }
        EXPECT_EQ(run.summary.digest, reference.summary.digest);
        ++runs;
      }
  RecordProperty("campaign_runs", static_cast<int>(runs));
  std::printf("campaign: %lld simulated runs, one digest per step\n", static_cast<long long>(runs));
}

TEST_F(TrainTest, EverySeedOfTheSchedulerIsRepeatable) {
  const SimulatedRun first = train_simulated(config_, {.ranks = 5, .seed = 9});
  const SimulatedRun again = train_simulated(config_, {.ranks = 5, .seed = 9});
  const SimulatedRun other = train_simulated(config_, {.ranks = 5, .seed = 10});
  EXPECT_EQ(first.report.trace_hash, again.report.trace_hash);
  EXPECT_NE(first.report.trace_hash, other.report.trace_hash);
  EXPECT_EQ(digests(first), digests(other));
}

TEST_F(TrainTest, WorkIsSharedAndStateIsOwnedOnce) {
  for (const int ranks : {1, 3, 8}) {
    const SimulatedRun run = train_simulated(config_, {.ranks = ranks});
    std::int64_t micro_batches = 0, bytes = 0;
    for (const app::RankWork& work : run.summary.work) {
      micro_batches += work.micro_batches;
      bytes += work.optimizer_bytes;
    }
    EXPECT_EQ(micro_batches, 5 * 6);
    const spec::Inventory inventory(app::resolve(config_)->model, DType::f32);
    EXPECT_EQ(bytes, 12 * inventory.total_elems());
  }
}

TEST_F(TrainTest, TheLossFalls) {
  config_.train.steps = 60;
  config_.model.dropout = 0;
  const SimulatedRun run = train_simulated(config_, {.ranks = 2});
  expect_no_errors(run);
  EXPECT_NEAR(run.steps.front().record.loss, std::log(37.0), 0.1);
  EXPECT_LT(run.steps.back().record.loss, 0.75 * run.steps.front().record.loss);
}

TEST_F(TrainTest, TheRecipeChangesTheBits) {
  const auto base = digests(train_simulated(config_, {}));
  const auto changed = [&](auto&& change) {
    app::Config config = config_;
    change(config);
    return digests(train_simulated(config, {}));
  };
  EXPECT_NE(base, changed([](app::Config& config) { config.train.seed = 8; }));
  EXPECT_NE(base, changed([](app::Config& config) { config.train.lr = 2e-2; }));
  EXPECT_NE(base, changed([](app::Config& config) { config.model.dropout = 0; }));
  EXPECT_NE(base, changed([](app::Config& config) { config.train.weight_decay = 0; }));
  EXPECT_NE(base, changed([](app::Config& config) { config.train.clip = 0; }));
}

TEST_F(TrainTest, FastModeTrainsToo) {
  config_.numerics.mode = "fast";
  const SimulatedRun fast = train_simulated(config_, {.ranks = 3});
  expect_no_errors(fast);
  config_.numerics.mode = "exact";
  const SimulatedRun exact = train_simulated(config_, {.ranks = 3});
  // Same recipe, other rounding: the first loss is computed before any gradient is summed and must
  // agree in every bit.
  EXPECT_EQ(fast.steps.front().record.loss, exact.steps.front().record.loss);
  EXPECT_NEAR(fast.steps.back().record.loss, exact.steps.back().record.loss, 1e-3);
}

TEST_F(TrainTest, AnExplodingRunStopsOrSkips) {
  config_.train.lr = 1e30;
  config_.train.warmup_steps = 0;
  config_.train.clip = 0;
  const SimulatedRun stopped = train_simulated(config_, {.ranks = 3});
  for (const auto& error : stopped.errors) {
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code, Code::non_finite) << error->text();
  }
  EXPECT_LT(stopped.steps.size(), 6u);

  config_.train.non_finite = "skip";
  const SimulatedRun skipping = train_simulated(config_, {.ranks = 3});
  expect_no_errors(skipping);
  ASSERT_EQ(skipping.steps.size(), 6u);
  EXPECT_TRUE(skipping.steps.back().record.skip);
  // A skipped step changes no state: all steps after the first bad one have one digest.
  EXPECT_EQ(skipping.steps[4].digest, skipping.steps[5].digest);
  EXPECT_EQ(skipping.steps[4].record.updates, skipping.steps[5].record.updates);
}

TEST_F(TrainTest, ABadTokenOnOneRankEndsAllRanksWithCode3) {
  // One id that the vocabulary of 37 does not have, in the middle of one sample: one rank reads it
  // at one step of the epoch, and only that rank can know.
  set_token(folder_.file("train.bin"), 100 * 7 + 3, 60);
  config_.train.steps = 29;  // 285 samples, 10 a step: the whole epoch
  const SimulatedRun run = train_simulated(config_, {.ranks = 5});
  int seen = 0;
  for (const auto& error : run.errors) {
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code, Code::data) << error->text();
    if (error->what.find("another rank") == std::string::npos) ++seen;
  }
  EXPECT_EQ(seen, 1);
}

TEST_F(TrainTest, PlannedMemoryIsWhatIsAllocated) {
  for (const char* mode : {"exact", "fast"}) {
    config_.numerics.mode = mode;
    config_.model.hidden = 64;
    const app::RunSpec spec = app::resolve(config_).value();
    const auto world = comm::make_solo_world({});
    const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
    device::CpuStream stream(1);
    const auto tokens =
        data::TokenSet::open(config_.data.train, data::TokenFormat::nanogpt).value();
    const auto trainer = app::Trainer::create(spec, {.world = *world,
                                                     .machine = kernels::host_machine(*ops, stream),
                                                     .train = tokens})
                             .value();
    const spec::MemoryTable real = trainer->memory();
    const spec::MemoryTable planned = app::worst_memory(spec, trainer->plan());
    for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
      const auto term = static_cast<spec::MemoryTerm>(index);
      if (real[term] == 0) continue;
      EXPECT_NEAR(planned[term] / real[term], 1, 0.01) << spec::name(term);
    }
    EXPECT_GT(real[spec::MemoryTerm::stashes], 0);
  }
}

TEST_F(TrainTest, ARunThatDoesNotFitIsRefused) {
  app::RunSpec spec = app::resolve(config_).value();
  const layout::Plan plan = app::healthy_plan(spec, 2, Generation{0}).value().plan;
  const auto use = static_cast<std::int64_t>(app::worst_memory(spec, plan).total());
  EXPECT_TRUE(app::check_memory(spec, plan).has_value()) << "nobody has a limit";
  const auto refusal = [&](const plan::RankLimits& limits) {
    spec.elastic.limits = limits;
    const auto checked = app::check_memory(spec, plan);
    if (checked) return std::string();
    EXPECT_EQ(checked.error().code, Code::does_not_fit);
    return checked.error().text();
  };
  EXPECT_EQ(refusal({{.host_bytes = 2 * use}, {.host_bytes = 2 * use}}), "");
  EXPECT_EQ(refusal({{}, {}}), "") << "not known";
  EXPECT_THAT(refusal({{.host_bytes = 2 * use - 2}, {.host_bytes = 2 * use - 2}}),
              HasSubstr("its share of its host is"));
  EXPECT_EQ(refusal({{.host_bytes = use}, {.host = 1, .host_bytes = use}}), "");
  const std::string small = refusal({{.host_bytes = 2 * use}, {.own_bytes = use / 2}});
  EXPECT_THAT(small, HasSubstr("rank 1 of 2"));
  EXPECT_THAT(small, HasSubstr("device.memory_mib is"));
  EXPECT_EQ(refusal({{.host_bytes = use / 2, .own_bytes = use}, {.host = 1}}), "");
}

TEST_F(TrainTest, ARunThatDoesNotFitOnAGpuIsRefused) {
  config_.device.kind = "cuda";
  app::RunSpec spec = app::resolve(config_).value();
  const layout::Plan plan = app::healthy_plan(spec, 2, Generation{0}).value().plan;
  const spec::MemoryTable worst = app::worst_memory(spec, plan);
  const auto gpu = static_cast<std::int64_t>(worst.total(spec::Side::device));
  const auto refusal = [&](const plan::RankLimits& limits) {
    spec.elastic.limits = limits;
    const auto checked = app::check_memory(spec, plan);
    return checked ? std::string() : checked.error().text();
  };
  EXPECT_EQ(refusal({{.own_gpu_bytes = gpu}, {.own_gpu_bytes = gpu}}), "");
  const std::string own = refusal({{}, {.own_gpu_bytes = gpu / 2}});
  EXPECT_THAT(own, HasSubstr("the GPU's memory"));
  EXPECT_THAT(own, HasSubstr("rank 1 of 2"));
  EXPECT_THAT(own, HasSubstr("device.gpu_memory_mib is"));
  EXPECT_THAT(own, HasSubstr("--gpu_memory="));
  // Of one GPU each has a half.
  EXPECT_THAT(refusal({{.gpu_bytes = gpu}, {.gpu_bytes = gpu}}),
              HasSubstr("its share of its GPU is"));
  EXPECT_EQ(refusal({{.gpu = 0, .gpu_bytes = 2 * gpu}, {.gpu = 1, .gpu_bytes = 2 * gpu}}), "");
  EXPECT_THAT(refusal({{}, {.own_bytes = 1000}}), HasSubstr("device.memory_mib is"));

  const Error refused = app::memory_refused(spec, plan, 1, "no room for 7 bytes");
  EXPECT_EQ(exit_code(refused.code), 4);
  for (const char* part : {"no room for 7 bytes", "rank 1", "of its GPU (weights", "state copy",
                           "of its host (optimizer", "staging", "mostly"})
    EXPECT_THAT(refused.text(), HasSubstr(part));
  spec.elastic.limits = {{.gpu_bytes = gpu}, {.gpu_bytes = gpu}};
  EXPECT_THAT(app::memory_refused(spec, plan, 1, "").text(), HasSubstr("2 ranks share the GPU"));
}

TEST(MemoryDifferences, AreToldWhereTheyMatter) {
  constexpr double kMib = 1 << 20;
  spec::MemoryTable planned, measured;
  const auto told = [&] { return std::ssize(app::memory_differences(planned, measured)); };
  planned[spec::MemoryTerm::checkpoint] = 0.2 * kMib;  // of a tiny model; the file has a frame
  measured[spec::MemoryTerm::checkpoint] = 0.9 * kMib;
  EXPECT_EQ(told(), 0);
  planned[spec::MemoryTerm::stashes] = 100 * kMib;
  measured[spec::MemoryTerm::stashes] = 105 * kMib;
  planned[spec::MemoryTerm::logits] = 100 * kMib;  // was not measured
  EXPECT_EQ(told(), 0);
  measured[spec::MemoryTerm::stashes] = 115 * kMib;
  EXPECT_THAT(app::memory_differences(planned, measured),
              testing::ElementsAre("stashes 100.0 MiB planned, 115.0 MiB measured"));
  measured[spec::MemoryTerm::checkpoint] = 1.3 * kMib;
  EXPECT_EQ(told(), 2);
}

/// Fails at one step, as a full disk would.
class FailingObserver final : public app::StepObserver {
 public:
  Result<void> on_step(const app::StepReport& report) override {
    if (raw(report.record.version.step) < 2) return {};
    return fail({.code = Code::io, .what = "the disk is full"});
  }
};

TEST_F(TrainTest, AnObserverThatFailsEndsItsRankInOrder) {
  // The step loop is left with transfers under way; the simulated transport must let go of them.
  // (Over MPI the order of declarations in run_train() does; there is no test for that.)
  const auto report = comm::simulate({.ranks = 3}, [&](comm::World& world) {
    const app::RunSpec spec = app::resolve(config_).value();
    const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
    device::CpuStream stream(1);
    const auto tokens =
        data::TokenSet::open(config_.data.train, data::TokenFormat::nanogpt).value();
    const auto trainer =
        app::Trainer::create(
            spec, {.world = world, .machine = kernels::host_machine(*ops, stream), .train = tokens})
            .value();
    FailingObserver observer;
    const auto run = trainer->run(observer);
    ASSERT_FALSE(run.has_value());
    EXPECT_EQ(run.error().what, "the disk is full");
  });
  EXPECT_TRUE(report.has_value()) << report.error().text();
}

TEST_F(TrainTest, RanksToldDifferentRunsAreRefused) {
  const auto report = comm::simulate({.ranks = 2}, [&](comm::World& world) {
    app::StartIdentity identity{.numeric_class =
                                    world.world_rank() == 0 ? "cpu/avx512" : "cpu/avx2"};
    const auto agreed = app::agree_start(world, std::nullopt, identity, kSecond);
    ASSERT_FALSE(agreed.has_value());
    EXPECT_NE(agreed.error().text().find("cpu/avx2 on rank 1, cpu/avx512 on rank 0"),
              std::string::npos)
        << agreed.error().text();
  });
  ASSERT_TRUE(report.has_value()) << report.error().text();
}

}  // namespace
}  // namespace elaswave::test
