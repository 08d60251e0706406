// io/metrics: legal JSON, exact numbers, each step exactly once.
#include "io/metrics/metrics.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/temp_dir.h"

namespace elaswave::metrics {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

MetricsLine line_of(std::int64_t step) {
  return {.step = Step{step},
          .generation = Generation{3},
          .loss = 2.5 / static_cast<double>(step),
          .grad_norm = 0.1,
          .lr = 6e-4,
          .tokens = 1024 * step,
          .ms = 12.25,
          .samples = 8 * step,
          .sample_hash = 0xABCDEF,
          .tokens_per_s = 83591.8,
          .digest = {},
          .val_loss = {}};
}

std::vector<std::int64_t> steps_in(const std::string& path) {
  std::vector<std::int64_t> steps;
  std::istringstream file(read_file(path));
  for (std::string line; std::getline(file, line);)
    steps.push_back(nlohmann::json::parse(line)["step"].get<std::int64_t>());
  return steps;
}

TEST(MetricsLine, HasTheDocumentedFields) {
  MetricsLine line = line_of(2);
  EXPECT_EQ(to_json(line),
            R"({"step":2,"generation":3,"loss":1.25,"grad_norm":0.1,"lr":0.0006,"tokens":2048,)"
            R"("ms":12.25,"samples":16,"sample_hash":"0000000000abcdef","tokens_per_s":83591.8,)"
            R"("skipped":false})");
  line.digest = 0x0123456789ABCDEF;
  line.val_loss = 1.5;
  line.update = MetricsLine::Update::skipped;
  const auto json = nlohmann::json::parse(to_json(line));
  EXPECT_EQ(json["digest"], "0123456789abcdef");
  EXPECT_EQ(json["val_loss"], 1.5);
  EXPECT_EQ(json["skipped"], true);
}

TEST(MetricsLine, NumbersReadBackExactly) {
  std::mt19937_64 random(5);
  std::vector<double> values{0.0,
                             -0.0,
                             1.0,
                             0.1,
                             1e300,
                             5e-324,
                             2.2250738585072014e-308,
                             std::numeric_limits<double>::max(),
                             1.0 / 3,
                             123456789012345678.0};
  for (int i = 0; i < 3000; ++i) {
    const std::uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, 8);
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    MetricsLine line = line_of(1);
    line.loss = value;
    const double back = nlohmann::json::parse(to_json(line))["loss"].get<double>();
    EXPECT_EQ(std::memcmp(&back, &value, 8), 0) << to_json(line);
  }
}

TEST(MetricsLine, NonFiniteIsNullAndNamed) {
  MetricsLine line = line_of(1);
  line.loss = std::numeric_limits<double>::quiet_NaN();
  line.grad_norm = std::numeric_limits<double>::infinity();
  line.val_loss = -std::numeric_limits<double>::infinity();
  const auto json = nlohmann::json::parse(to_json(line));
  EXPECT_TRUE(json["loss"].is_null());
  EXPECT_EQ(json["loss_text"], "nan");
  EXPECT_TRUE(json["grad_norm"].is_null());
  EXPECT_EQ(json["grad_norm_text"], "inf");
  EXPECT_EQ(json["val_loss_text"], "-inf");
  EXPECT_FALSE(json.contains("lr_text"));
}

TEST(MetricsLine, LocaleDoesNotMatter) {
  const std::string before = to_json(line_of(1));
  const std::string old = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8"}) {
    if (std::setlocale(LC_ALL, name) == nullptr)
      continue;  // which locales exist is the machine's affair
    EXPECT_EQ(to_json(line_of(1)), before);
  }
  std::setlocale(LC_ALL, old.c_str());
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale previous = std::locale::global(std::locale(std::locale(), new Comma));
  EXPECT_EQ(to_json(line_of(1)), before);
  std::locale::global(previous);
}

TEST(MetricsLog, WritesAndContinues) {
  const TempDir dir;
  const std::string run = dir / "runs/one";
  {
    auto log = MetricsLog::open(run, Step{0});
    ASSERT_TRUE(log) << log.error().text();
    EXPECT_EQ(log->last_step(), Step{0});
    for (std::int64_t step = 1; step <= 5; ++step) ASSERT_TRUE(log->write(line_of(step)));
    EXPECT_EQ(log->last_step(), Step{5});
    EXPECT_EQ(steps_in(run + "/metrics.jsonl").size(), 5u);  // nothing is held back
  }
  auto log = MetricsLog::open(run, Step{5});
  ASSERT_TRUE(log);
  EXPECT_EQ(log->dropped_lines(), 0);
  EXPECT_EQ(log->last_step(), Step{5});
  ASSERT_TRUE(log->write(line_of(6)));
  EXPECT_EQ(steps_in(run + "/metrics.jsonl"), (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}));
}

TEST(MetricsLog, DropsStepsThatWillRunAgain) {
  const TempDir dir;
  {
    auto log = MetricsLog::open(dir.path(), Step{0});
    for (std::int64_t step = 1; step <= 9; ++step) ASSERT_TRUE(log->write(line_of(step)));
  }
  auto log = MetricsLog::open(dir.path(), Step{6});
  ASSERT_TRUE(log);
  EXPECT_EQ(log->dropped_lines(), 3);
  EXPECT_EQ(log->last_step(), Step{6});
  ASSERT_TRUE(log->write(line_of(7)));
  EXPECT_EQ(steps_in(dir / "metrics.jsonl"), (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"metrics.jsonl"});
  auto fresh = MetricsLog::open(dir.path(), Step{0});
  ASSERT_TRUE(fresh);
  EXPECT_EQ(fresh->dropped_lines(), 7);
  EXPECT_EQ(read_file(dir / "metrics.jsonl"), "");
}

// Cut anywhere, at each of the first and last bytes: whatever a crash leaves, the file can be
// continued and every step is there once.
TEST(MetricsLog, EveryTornTailIsRepaired) {
  const TempDir dir;
  const std::string head = to_json(line_of(1)) + "\n" + to_json(line_of(2)) + "\n";
  const std::string last = to_json(line_of(3)) + "\n";
  for (std::size_t length = 0; length <= last.size();
       length += length > 8 && length + 8 < last.size() ? 7 : 1) {
    write_file(dir / "metrics.jsonl", head + last.substr(0, length));
    auto log = MetricsLog::open(dir.path(), Step{3});
    ASSERT_TRUE(log) << log.error().text();
    const bool is_whole = length + 1 >= last.size();  // only the newline may be missing
    EXPECT_EQ(log->last_step(), Step{is_whole ? 3 : 2}) << length;
    EXPECT_EQ(log->dropped_lines(), is_whole || length == 0 ? 0 : 1) << length;
    if (!is_whole) {
      ASSERT_TRUE(log->write(line_of(3)));
    }
    EXPECT_EQ(read_file(dir / "metrics.jsonl"), head + last) << length;
  }
}

TEST(MetricsLog, LeavesForeignFilesAlone) {
  const TempDir dir;
  const std::string good = to_json(line_of(1)) + "\n";
  for (const std::string& bad : {std::string("hello\n") + good, good + "{\"loss\":1}\n",
                                 good + "{\"step\":1.5}\n", good + good, good + "\n", good + "[]\n",
                                 good + "{\"step\":0}\n", std::string(100, '\0') + "\n"}) {
    write_file(dir / "metrics.jsonl", bad);
    const std::string text = expect_error(MetricsLog::open(dir.path(), Step{9}), Code::data);
    EXPECT_NE(text.find("metrics.jsonl:"), std::string::npos) << text;
    EXPECT_EQ(read_file(dir / "metrics.jsonl"), bad);
  }
  write_file(dir / "file", "x");
  EXPECT_FALSE(MetricsLog::open(dir / "file", Step{0}));
}

TEST(MetricsLog, WhatTheOldReporterStillWritesIsSeenByNobody) {
  const TempDir dir;
  auto old_log = MetricsLog::open(dir.path(), Step{0});
  ASSERT_TRUE(old_log);
  for (std::int64_t step = 1; step <= 3; ++step) ASSERT_TRUE(old_log->write(line_of(step)));
  auto heir = MetricsLog::take_over(dir.path());
  ASSERT_TRUE(heir) << heir.error().text();
  EXPECT_EQ(heir->last_step(), Step{3});
  EXPECT_EQ(heir->dropped_lines(), 0);
  ASSERT_TRUE(old_log->write(line_of(4)));  // it wakes up
  ASSERT_TRUE(heir->write(line_of(4)));
  ASSERT_TRUE(old_log->write(line_of(5)));
  ASSERT_TRUE(heir->write(line_of(5)));
  EXPECT_EQ(steps_in(dir / "metrics.jsonl"), (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(dir.names(), std::vector<std::string>{"metrics.jsonl"});

  auto third = MetricsLog::take_over(dir.path());
  ASSERT_TRUE(third);
  EXPECT_EQ(third->last_step(), Step{5});
  ASSERT_TRUE(heir->keep_name());  // a former reporter that slept in the middle of taking over
  ASSERT_TRUE(third->write(line_of(6)));
  EXPECT_EQ(steps_in(dir / "metrics.jsonl").size(), 5u);
  ASSERT_TRUE(third->keep_name());
  EXPECT_EQ(steps_in(dir / "metrics.jsonl"), (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}));
  ASSERT_TRUE(third->write(line_of(7)));
  EXPECT_EQ(steps_in(dir / "metrics.jsonl").size(), 7u);
}

TEST(MetricsLog, ANewReporterDropsATornLine) {
  const TempDir dir;
  const std::string head = to_json(line_of(1)) + "\n", last = to_json(line_of(2)) + "\n";
  for (std::size_t length = 0; length <= last.size(); ++length) {
    write_file(dir / "metrics.jsonl", head + last.substr(0, length));
    auto heir = MetricsLog::take_over(dir.path());
    ASSERT_TRUE(heir) << heir.error().text();
    const bool is_whole = length + 1 >= last.size();
    EXPECT_EQ(heir->last_step(), Step{is_whole ? 2 : 1});
    if (!is_whole) {
      ASSERT_TRUE(heir->write(line_of(2)));
    }
    EXPECT_EQ(read_file(dir / "metrics.jsonl"), head + last) << length;
  }
}

TEST(MetricsLogDeathTest, AStepIsWrittenOnce) {
  const TempDir dir;
  auto log = MetricsLog::open(dir.path(), Step{0});
  ASSERT_TRUE(log->write(line_of(4)));
  EXPECT_EXIT((void)log->write(line_of(4)), ::testing::ExitedWithCode(70), "step 4 after step 4");
}

}  // namespace
}  // namespace elaswave::metrics
