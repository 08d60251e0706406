// The ring of events: what it keeps, and that a reader beside a writer at full speed never sees a
// mixture of two events.
#include "io/base/flight_recorder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <limits>
#include <thread>
#include <vector>

namespace elaswave {
namespace {

/// An event all of whose fields follow from `n`.
FlightEvent event(std::uint64_t n) {
  const auto i = static_cast<std::int64_t>(n);
  return {.begin = 3 * i,
          .end = 0,
          .step = Step{5 * i},
          .kind = static_cast<FlightKind>(n % 5),
          .detail = static_cast<std::uint8_t>(n),
          .chunk = static_cast<std::int32_t>(7 * i),
          .micro_batch = static_cast<std::int32_t>(-i),
          .peer = static_cast<std::int32_t>(i ^ 0x55),
          .bytes = 11 * i,
          .message = 13 * n};
}

bool same_but_end(const FlightEvent& a, const FlightEvent& b) {
  return a.begin == b.begin && a.step == b.step && a.kind == b.kind && a.detail == b.detail &&
         a.chunk == b.chunk && a.micro_batch == b.micro_batch && a.peer == b.peer &&
         a.bytes == b.bytes && a.message == b.message;
}

TEST(FlightRecorder, keeps_every_field) {
  FlightLane lane(4);
  EXPECT_TRUE(lane.snapshot().empty());
  const FlightEvent extreme{.begin = -1,
                            .end = std::numeric_limits<Nanoseconds>::max(),
                            .step = Step{std::numeric_limits<std::int64_t>::min()},
                            .kind = FlightKind::receive,
                            .detail = 255,
                            .chunk = std::numeric_limits<std::int32_t>::min(),
                            .micro_batch = std::numeric_limits<std::int32_t>::max(),
                            .peer = -1,
                            .bytes = std::numeric_limits<std::int64_t>::max(),
                            .message = ~std::uint64_t{0}};
  lane.add(FlightEvent{});
  lane.add(extreme);
  const auto events = lane.snapshot();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(same_but_end(events[0], FlightEvent{}));
  EXPECT_EQ(events[0].end, 0);
  EXPECT_TRUE(same_but_end(events[1], extreme));
  EXPECT_EQ(events[1].end, extreme.end);
  ASSERT_TRUE(lane.newest());
  EXPECT_TRUE(same_but_end(*lane.newest(), extreme));
  EXPECT_EQ(lane.newest()->end, extreme.end);
}

TEST(FlightRecorder, the_newest_is_the_one_started_last) {
  FlightLane lane(2);
  EXPECT_FALSE(lane.newest());
  const std::uint64_t first = lane.start(event(1));
  EXPECT_TRUE(same_but_end(lane.newest().value(), event(1)));
  lane.finish(first, 77);
  EXPECT_EQ(lane.newest().value().end, 77);
  for (std::uint64_t n = 2; n < 9; ++n) {
    lane.start(event(n));
    EXPECT_TRUE(same_but_end(lane.newest().value(), event(n)));
  }
  lane.finish(first, 78);  // overwritten long ago
  EXPECT_EQ(lane.newest().value().end, 0);
}

TEST(FlightRecorder, the_last_events_stay_oldest_first) {
  for (const std::size_t capacity : {std::size_t{1}, std::size_t{3}, std::size_t{8}}) {
    FlightLane lane(capacity);
    for (std::uint64_t n = 0; n < 20; ++n) {
      lane.add(event(n));
      EXPECT_EQ(lane.count(), n + 1);
      const auto events = lane.snapshot();
      ASSERT_EQ(events.size(), std::min<std::size_t>(n + 1, capacity));
      for (std::size_t i = 0; i < events.size(); ++i)
        EXPECT_TRUE(same_but_end(events[i], event(n + 1 - events.size() + i)));
    }
  }
}

TEST(FlightRecorder, finish_reaches_its_event_and_no_later_one) {
  FlightLane lane(2);
  const auto first = lane.start(event(1));
  const auto second = lane.start(event(2));
  lane.finish(first, 100);
  EXPECT_EQ(lane.snapshot()[0].end, 100);
  EXPECT_EQ(lane.snapshot()[1].end, 0) << "under way";
  lane.start(event(3));  // takes the place of the first
  lane.finish(first, 200);
  lane.finish(second, 300);
  const auto events = lane.snapshot();
  EXPECT_EQ(events[0].end, 300);
  EXPECT_EQ(events[1].end, 0);
}

TEST(FlightRecorder, an_event_is_corrected_once_and_no_later_one) {
  FlightLane lane(2);
  const auto first = lane.start(event(1));
  lane.finish(first, 100);
  lane.correct(first, 40, 50);
  EXPECT_EQ(lane.newest()->begin, 40);
  EXPECT_EQ(lane.newest()->end, 50);
  EXPECT_EQ(lane.newest()->message, event(1).message);
  lane.finish(first, 300);  // what was found out stands
  lane.correct(first, 1, 2);
  EXPECT_EQ(lane.newest()->begin, 40);
  EXPECT_EQ(lane.newest()->end, 50);
  lane.start(event(2));
  lane.start(event(3));  // takes the place of the first
  lane.correct(first, 4, 5);
  EXPECT_TRUE(same_but_end(lane.newest().value(), event(3)));
  EXPECT_EQ(lane.newest()->end, 0);
}

TEST(FlightRecorder, a_reader_beside_the_writer_sees_whole_events) {
  FlightLane lane(64);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::uint64_t n = 0; !stop.load(std::memory_order_relaxed); ++n) {
      const auto handle = lane.start(event(n));
      if (n % 2 == 0) lane.finish(handle, static_cast<Nanoseconds>(17 * n + 1));
      if (n >= 8)  // one of which a reader is at any place; its message tells whose it is
        lane.correct(n - 8, -static_cast<Nanoseconds>(n - 8), -static_cast<Nanoseconds>(n - 8));
    }
  });
  std::uint64_t torn = 0, disordered = 0, seen = 0, overlapped = 0, snapshots = 0, corrections = 0;
  // Until enough snapshots were taken while the writer wrote; on a busy machine many are not.
  for (; overlapped < 2000 && snapshots < 2'000'000; ++snapshots) {
    const std::uint64_t before = lane.count();
    const auto events = lane.snapshot();
    overlapped += lane.count() != before && before > lane.capacity();
    std::uint64_t previous = 0;
    for (const FlightEvent& got : events) {
      const std::uint64_t n = got.message / 13;
      FlightEvent expected = event(n);
      const bool corrected = n > 0 && got.begin == -static_cast<Nanoseconds>(n);
      if (corrected) expected.begin = got.begin;
      torn += !same_but_end(got, expected) ||
              (corrected ? got.end != got.begin
                         : got.end != 0 && got.end != static_cast<Nanoseconds>(17 * n + 1));
      corrections += corrected ? 1 : 0;
      disordered += previous != 0 && n <= previous;
      previous = n;
      ++seen;
    }
  }
  stop.store(true);
  writer.join();
  EXPECT_EQ(torn, 0u);
  EXPECT_EQ(disordered, 0u);
  EXPECT_GT(seen, 0u);
  EXPECT_GT(corrections, 0u);
  EXPECT_EQ(lane.snapshot().size(), lane.capacity());
  std::printf("%llu events seen in %llu snapshots, %llu while the writer wrote\n",
              static_cast<unsigned long long>(seen), static_cast<unsigned long long>(snapshots),
              static_cast<unsigned long long>(overlapped));
}

}  // namespace
}  // namespace elaswave
