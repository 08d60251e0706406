// io/metrics/events: legal JSON whatever the values, read back exactly, and a new writer that an
// old one cannot disturb.
#include "io/metrics/events.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"

namespace elaswave::metrics {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

Event recovery() {
  return {"recovery",
          {{"generation", 3},
           {"lost", std::vector<std::int32_t>{2, 5}},
           {"nobody", std::vector<std::int32_t>{}},
           {"phases_us", Fields{{"agree", 3000}, {"plan", 12}}},
           {"ranks", std::vector<Fields>{{{"rank", 0}, {"host", "a"}}, {{"rank", 1}}}},
           {"share", 0.1},
           {"whole", 2.0},
           {"rolled_forward", true},
           {"moved_bytes", INT64_MAX}}};
}

TEST(Event, HasTheDocumentedForm) {
  EXPECT_EQ(to_json(recovery()),
            R"({"event":"recovery","generation":3,"lost":[2,5],"nobody":[],)"
            R"("phases_us":{"agree":3000,"plan":12},"ranks":[{"rank":0,"host":"a"},{"rank":1}],)"
            R"("share":0.1,"whole":2.0,"rolled_forward":true,"moved_bytes":9223372036854775807})");
  EXPECT_EQ(to_json({"end", {}}), R"({"event":"end"})");
}

TEST(Event, AnyTextIsLegal) {
  const std::string text = std::string("a\"b\\c\nd\te\x01 \xC3\xA9 \xFF") + '\0' + "z";
  const std::string line = to_json({"e\"", {{"k\n", text}}});
  EXPECT_EQ(line.find('\n'), line.npos);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["event"], "e\"");
  EXPECT_EQ(json["k\n"], std::string("a\"b\\c\nd\te\x01 \xC3\xA9 \xEF\xBF\xBD") + '\0' + "z");
}

TEST(Event, NonFiniteIsNullAndNamed) {
  const auto json = nlohmann::json::parse(to_json(
      {"e", {{"x", std::numeric_limits<double>::quiet_NaN()}, {"y", -HUGE_VAL}, {"z", -0.0}}}));
  EXPECT_TRUE(json["x"].is_null());
  EXPECT_EQ(json["x_text"], "nan");
  EXPECT_EQ(json["y_text"], "-inf");
  EXPECT_TRUE(std::signbit(json["z"].get<double>()));
}

TEST(EventLog, ReadsBackWhatWasWritten) {
  const TempDir dir;
  const std::string run = dir / "runs/one";
  for (int session = 0; session < 2; ++session) {
    auto log = EventLog::open(run);
    ASSERT_TRUE(log) << log.error().text();
    ASSERT_TRUE(log->write(recovery()));
    ASSERT_TRUE(log->write({"end", {{"session", session}}}));
  }
  const auto events = read_events(run + "/events.jsonl");
  ASSERT_TRUE(events) << events.error().text();
  ASSERT_EQ(events->size(), 4u);
  EXPECT_EQ(events->at(0), recovery());
  EXPECT_EQ(events->at(2), recovery());
  ASSERT_NE(events->at(3).find("session"), nullptr);
  EXPECT_EQ(*events->at(3).find("session"), Value(1));
  EXPECT_EQ(events->at(3).find("other"), nullptr);
}

TEST(EventLog, EveryTornTailIsRepaired) {
  const TempDir dir;
  const std::string head = to_json(recovery()) + "\n", last = to_json({"end", {}}) + "\n";
  for (std::size_t length = 0; length <= last.size(); ++length) {
    write_file(dir / "events.jsonl", head + last.substr(0, length));
    const auto before = read_events(dir / "events.jsonl");
    ASSERT_TRUE(before);
    EXPECT_EQ(before->size(), length == last.size() ? 2u : 1u);
    auto log = EventLog::open(dir.path());
    ASSERT_TRUE(log) << log.error().text();
    ASSERT_TRUE(log->write({"x", {}}));
    const auto after = read_events(dir / "events.jsonl");
    ASSERT_TRUE(after);
    EXPECT_EQ(after->size(), before->size() + 1) << length;
  }
}

TEST(EventLog, LeavesForeignFilesAlone) {
  const TempDir dir;
  for (const char* bad :
       {"hello\n", "{}\n", "[]\n", "{\"a\":1,\"event\":\"x\"}\n", "{\"event\":1}\n", "\n"}) {
    write_file(dir / "events.jsonl", bad);
    expect_error(EventLog::open(dir.path()), Code::data);
    expect_error(EventLog::take_over(dir.path()), Code::data);
    EXPECT_EQ(read_file(dir / "events.jsonl"), bad);
  }
}

TEST(EventLog, WhatTheOldWriterStillWritesIsSeenByNobody) {
  const TempDir dir;
  auto old_log = EventLog::open(dir.path());
  ASSERT_TRUE(old_log && old_log->write({"start", {}}));
  auto heir = EventLog::take_over(dir.path());
  ASSERT_TRUE(heir) << heir.error().text();
  ASSERT_TRUE(old_log->write({"late", {}}));
  ASSERT_TRUE(heir->write({"view", {}}));
  EXPECT_EQ(read_file(dir / "events.jsonl"), "{\"event\":\"start\"}\n{\"event\":\"view\"}\n");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"events.jsonl"});

  ASSERT_TRUE(old_log->keep_name());  // what it does when it wakes up in the middle of its own
  EXPECT_EQ(read_file(dir / "events.jsonl"), "{\"event\":\"start\"}\n{\"event\":\"late\"}\n");
  ASSERT_TRUE(heir->keep_name());
  ASSERT_TRUE(heir->write({"end", {}}));
  EXPECT_EQ(read_file(dir / "events.jsonl"),
            "{\"event\":\"start\"}\n{\"event\":\"view\"}\n{\"event\":\"end\"}\n");
}

TEST(EventLog, TakesOverNothingToo) {
  const TempDir dir;
  auto log = EventLog::take_over(dir / "new");
  ASSERT_TRUE(log) << log.error().text();
  ASSERT_TRUE(log->write({"view", {}}));
  EXPECT_EQ(read_file(dir / "new/events.jsonl"), "{\"event\":\"view\"}\n");
}

}  // namespace
}  // namespace elaswave::metrics
