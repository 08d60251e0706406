// `elaswave plan` as a person runs it, its cost profiles and its numbers with units.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "app/commands.h"
#include "app/plan_profile.h"
#include "app/plan_request.h"
#include "parallel/layout/plan_text.h"
#include "tests/support/temp_dir.h"

namespace elaswave::app {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code = 0;
  std::string out;
  std::string error;
};

Outcome run(std::vector<std::string> words) {
  ::testing::internal::CaptureStdout();
  const Result<int> result = plan_command(words);
  Outcome outcome{.out = ::testing::internal::GetCapturedStdout()};
  outcome.code = result ? *result : exit_code(result.error().code);
  if (!result) outcome.error = result.error().text();
  return outcome;
}

Outcome run_tiny(std::vector<std::string> words) {
  words.insert(words.begin(), "--model.preset=tiny");
  return run(std::move(words));
}

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(PlanCommand, NeedsNeitherDataNorRanks) {
  const Outcome outcome = run_tiny({"--ranks=8", "--parallel.pp", "2", "--parallel.tp=2",
                                    "--train.global_batch=32", "--parallel.schedule=1f1b"});
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_THAT(outcome.out, HasSubstr("8 ranks: 2 data x 2 pipeline x 2 tensor, chunks 1, schedule "
                                     "1f1b, recompute none\n"));
  EXPECT_THAT(outcome.out, HasSubstr("0: embedding, blocks 1-4"));
  EXPECT_THAT(outcome.out, HasSubstr("1: blocks 5-8, head"));
  for (const std::string_view part : {"gradient sums", "optimizer", "backups", "checkpoint",
                                      "total", "bubble", "bytes of a step", "  0.0: 0F0 0F2 0B0"})
    EXPECT_THAT(outcome.out, HasSubstr(std::string(part)));
  // No rate, no times.
  EXPECT_THAT(outcome.out, HasSubstr("--flops_per_second or --profile give times"));
  EXPECT_THAT(outcome.out, ::testing::Not(HasSubstr("tokens/s")));
}

TEST(PlanCommand, ReadsTheConfigurationAndTellsTimes) {
  const testing::TempDir dir;
  const std::string config = dir / "run.toml", profile = dir / "costs.toml";
  std::ofstream(config) << "[model]\npreset = \"tiny\"\n[parallel]\npp = 2\nchunks = 2\n"
                           "schedule = \"zbv\"\n[train]\nglobal_batch = 16\n";
  std::ofstream(profile) << profile_toml({.tokens = 252,
                                          .embedding = {1000, 1000, 1000, 1000},
                                          .block = {100'000, 100'000, 100'000, 100'000},
                                          .head = {1000, 1000, 1000, 1000}});
  const Outcome outcome = run({config, "--ranks=2", "--profile=" + profile});
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_THAT(outcome.out, HasSubstr("schedule zbv"));
  EXPECT_THAT(outcome.out, HasSubstr("tokens/s"));
  const Outcome alone = run({config, "--ranks", "1", "--parallel.pp=1", "--parallel.chunks=1",
                             "--parallel.schedule=auto", "--profile", profile});
  // 4 micro-batches of 8 blocks at 300 us, embedding and head at 3 us.
  EXPECT_THAT(alone.out, HasSubstr("step 9.6 ms = 9.6 ms of schedule")) << alone.error;
}

TEST(PlanCommand, WritesTextAndPicture) {
  const testing::TempDir dir;
  const std::string picture = dir / "step.svg";
  const Outcome outcome = run_tiny({"--ranks=3", "--parallel.pp=3", "--text", "--svg", picture});
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  const auto plan = layout::parse_plan(outcome.out);
  ASSERT_TRUE(plan.has_value()) << plan.error().text();
  EXPECT_EQ(plan->stages.size(), 3u);
  EXPECT_THAT(read_text(picture), HasSubstr("<svg"));
  EXPECT_THAT(read_text(picture), HasSubstr("3 ranks"));
  const Outcome nowhere = run_tiny({"--ranks=3", "--svg", dir / "none/step.svg"});
  EXPECT_NE(nowhere.code, 0);
}

TEST(PlanCommand, WhatDoesNotFitEndsWithCodeFour) {
  const Outcome tight = run_tiny({"--ranks=4", "--parallel.pp=2", "--memory=1MiB"});
  EXPECT_EQ(tight.code, 4);
  EXPECT_THAT(tight.out, HasSubstr("total"));  // the table is shown all the same
  EXPECT_THAT(tight.error, HasSubstr("the limit is 1.0 MiB"));
  EXPECT_EQ(run_tiny({"--ranks=4", "--parallel.pp=2", "--memory=1GiB"}).code, 0);
  const Outcome key = run_tiny({"--ranks=4", "--parallel.pp=2", "--device.memory_mib=1"});
  EXPECT_EQ(key.code, 4);
  EXPECT_EQ(key.error, tight.error);
  EXPECT_EQ(run_tiny({"--ranks=4", "--device.memory_mib=1", "--memory=1GiB"}).code, 0);
  const Outcome none = run_tiny({"--ranks=4", "--sweep", "--memory=1MiB", "--top=3"});
  EXPECT_EQ(none.code, 4);
  EXPECT_THAT(none.out, HasSubstr("layouts do not fit, smallest first"));
  // More than four chunks of a stage were not tried: nobody knows about them.
  EXPECT_THAT(none.out, HasSubstr("not tried: 2 (tp, pp, chunks) with more than 4 chunks"));
  EXPECT_THAT(none.error, HasSubstr("none of the layouts that were tried fits into memory"));
  const Outcome all = run_tiny({"--ranks=4", "--model.layers=4", "--sweep", "--memory=1MiB"});
  EXPECT_EQ(all.code, 4);
  EXPECT_THAT(all.error, HasSubstr("no layout fits into memory"));
}

TEST(PlanCommand, AGpuHasLimitsOfItsOwn) {
  const std::vector<std::string> words = {"--ranks=4", "--parallel.pp=2", "--device.kind=cuda"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), words.begin(), words.end());
    return run_tiny(std::move(more));
  };
  const Outcome free = with({});
  EXPECT_EQ(free.code, 0) << free.error;
  for (const char* row : {"state copy", "workspaces", "on the GPU", "staging", "on the host"})
    EXPECT_THAT(free.out, HasSubstr(row));
  EXPECT_THAT(run_tiny({"--ranks=4"}).out, ::testing::Not(HasSubstr("staging")));
  const Outcome tight = with({"--gpu_memory=1MiB", "--memory=1GiB"});
  EXPECT_EQ(tight.code, 4);
  EXPECT_THAT(tight.out, HasSubstr("of 1.0 MiB of the GPU are used"));
  EXPECT_THAT(tight.error, HasSubstr("the GPU's memory"));
  EXPECT_EQ(with({"--device.gpu_memory_mib=1"}).error, tight.error);
  EXPECT_EQ(with({"--device.gpu_memory_mib=1", "--gpu_memory=1GiB"}).code, 0);
  EXPECT_THAT(with({"--memory=1MiB"}).error, HasSubstr("the host's memory"));
  const Outcome none =
      run_tiny({"--ranks=4", "--device.kind=cuda", "--sweep", "--gpu_memory=1MiB"});
  EXPECT_EQ(none.code, 4);
  EXPECT_THAT(none.error, HasSubstr("the limit is 1.0 MiB of a GPU"));
  EXPECT_EQ(run_tiny({"--ranks=4", "--device.kind=cuda", "--sweep", "--memory=1MiB"}).code, 4);
}

TEST(PlanCommand, ASweepThatCannotTryAnythingSaysWhy) {
  const Outcome many = run_tiny({"--ranks=4", "--train.micro_batch=1", "--numerics.mode=fast",
                                 "--train.global_batch=1000000000", "--sweep"});
  EXPECT_EQ(many.code, 2);
  EXPECT_THAT(many.error, HasSubstr("too many for one plan"));
  const Outcome slow =
      run({"--model.preset=gpt2-1.5b", "--ranks=16", "--flops_per_second=1e6",
           "--train.global_batch=32768", "--numerics.mode=fast", "--sweep", "--top=1"});
  EXPECT_EQ(slow.code, 2);
  EXPECT_THAT(slow.error, HasSubstr("longer than can be counted"));
}

TEST(PlanCommand, ASlowNetworkDoesNotTurnTimesNegative) {
  const Outcome slow = run({"--model.preset=gpt2-1.5b", "--ranks=32", "--flops_per_second=1e15",
                            "--bandwidth=1", "--numerics.mode=fast"});
  EXPECT_EQ(slow.code, 2);
  EXPECT_THAT(slow.error, HasSubstr("longer than can be counted"));
  const Outcome bearable = run({"--model.preset=gpt2-1.5b", "--ranks=32", "--flops_per_second=1e15",
                                "--bandwidth=100", "--numerics.mode=fast"});
  EXPECT_EQ(bearable.code, 0) << bearable.error;
  EXPECT_THAT(bearable.out, ::testing::Not(HasSubstr("-9")));
}

TEST(PlanCommand, SweepsAllLayouts) {
  const Outcome outcome =
      run_tiny({"--ranks=4", "--sweep", "--top=5", "--memory=12MiB", "--flops_per_second=1e11",
                "--bandwidth=1e9", "--train.global_batch=64"});
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_THAT(outcome.out, HasSubstr("layouts of 4 ranks fit into 12.0 MiB, fastest first"));
  EXPECT_THAT(outcome.out, HasSubstr(" ms "));
  EXPECT_THAT(outcome.out, HasSubstr("mostly"));
}

TEST(PlanCommand, LargeWorldsArePlannedFromOneOfEachKind) {
  const Outcome outcome = run({"--model.preset=gpt2-1.5b", "--model.heads=16", "--ranks=16384",
                               "--parallel.tp=8", "--parallel.pp=16", "--train.micro_batch=1",
                               "--train.global_batch=4096", "--flops-per-second=4e14"});
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_THAT(outcome.out, HasSubstr("16384 ranks: 128 data x 16 pipeline x 8 tensor"));
  EXPECT_THAT(outcome.out, HasSubstr("(16 of 2048 rows)"));
}

TEST(PlanCommand, MistakesAreNamed) {
  const auto error = [](std::vector<std::string> words) {
    const Outcome outcome = run_tiny(std::move(words));
    EXPECT_EQ(outcome.code, 2) << outcome.error;
    EXPECT_EQ(outcome.out, "");
    return outcome.error;
  };
  EXPECT_THAT(error({}), HasSubstr("--ranks is required"));
  EXPECT_THAT(error({"--ranks=0"}), HasSubstr("1 to 1000000"));
  EXPECT_THAT(error({"--ranks=7", "--parallel.tp=2"}), HasSubstr("use 6 or 8 ranks"));
  EXPECT_THAT(error({"--ranks=9", "--parallel.tp=3"}), HasSubstr("use one of 1, 2, 4"));
  EXPECT_THAT(error({"--rank=3"}), HasSubstr("did you mean --ranks?"));
  EXPECT_THAT(error({"--ranks=2", "--parallel.p=3"}), HasSubstr("did you mean --parallel."));
  EXPECT_THAT(error({"--ranks=2", "--parallel.pp"}), HasSubstr("has no value"));
  EXPECT_THAT(error({"--ranks=2", "--memory=80Gi"}), HasSubstr("B, KB, MB"));
  EXPECT_THAT(error({"--ranks=2", "--bandwidth=1e9"}), HasSubstr("--flops_per_second"));
  EXPECT_THAT(error({"--ranks=2", "--profile=none.toml", "--flops_per_second=1e12"}),
              HasSubstr("leave one or the others out"));
  EXPECT_THAT(error({"--ranks=2", "--profile=none.toml"}), HasSubstr("none.toml"));
  EXPECT_THAT(error({"--ranks=2", "--sweep", "--text"}), HasSubstr("leave one of them out"));
  EXPECT_THAT(error({"none.toml", "--ranks=2"}), HasSubstr("none.toml"));
  EXPECT_THAT(error({"--ranks=2", "--model.layers=10000", "--model.hidden=1000000"}),
              HasSubstr("too large to plan"));
  EXPECT_THAT(error({"--ranks=2", "--model.layers=10000", "--model.hidden=1024",
                     "--flops_per_second=1e6", "--train.global_batch=40000"}),
              HasSubstr("longer than can be counted"));
}

TEST(PlanCommand, BytesHaveUnits) {
  EXPECT_EQ(parse_bytes("--memory", "80GiB").value(), 80 * 1073741824.0);
  EXPECT_EQ(parse_bytes("--memory", "1.5 MB").value(), 1.5e6);
  EXPECT_EQ(parse_bytes("--memory", "1e9").value(), 1e9);
  for (const char* text : {"", "GiB", "-1GiB", "0", "nan", "inf", "1e99", "1 GiB ", "1gib", "0x1"})
    EXPECT_FALSE(parse_bytes("--memory", text).has_value()) << text;
}

TEST(CostProfile, IsReadBackAndDamageIsNamed) {
  const plan::CostProfile profile{.tokens = 4096,
                                  .tensor = 2,
                                  .embedding = {1, 2, 3, 4},
                                  .block = {5, 6, 7, 8},
                                  .head = {9, 10, 11, 12},
                                  .latency = 20'000,
                                  .bytes_per_second = 1.25e10};
  const std::string text = profile_toml(profile);
  const auto again = parse_profile(text, "costs.toml");
  ASSERT_TRUE(again.has_value()) << again.error().text();
  EXPECT_EQ(profile_toml(*again), text);
  EXPECT_EQ(again->head.recompute, 12);
  EXPECT_EQ(again->bytes_per_second, 1.25e10);

  std::istringstream lines(text);
  int keys = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t equals = line.find(" = ");
    if (equals == std::string::npos) continue;
    ++keys;
    const auto with = [&](const std::string& replacement) {
      std::string changed = text;
      changed.replace(changed.find(line + '\n'), line.size(), replacement);
      const auto read = parse_profile(changed, "costs.toml");
      EXPECT_FALSE(read.has_value()) << replacement;
      if (!read) {
        EXPECT_EQ(read.error().code, Code::usage);
        EXPECT_THAT(read.error().where, HasSubstr("costs.toml"));
      }
    };
    const std::string key = line.substr(0, equals);
    with("");
    with(key + " = \"4\"");
    with(key + " = -1");
    with(key + " = nan");
    with(line + "\nunknown = 1");
  }
  EXPECT_EQ(keys, 17);
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string mutated = text;
    mutated[random() % mutated.size()] = static_cast<char>(32 + random() % 95);
    if (round % 2 == 0) mutated.resize(random() % mutated.size());
    const auto read = parse_profile(mutated, "costs.toml");  // does not crash
    EXPECT_TRUE(read || read.error().code == Code::usage);
  }
}

}  // namespace
}  // namespace elaswave::app
