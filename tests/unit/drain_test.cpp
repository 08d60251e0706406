// The drain: what was under way when a view ended is received and thrown away, whatever the moment,
// and never met by a later generation.
#include "parallel/comm/drain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <vector>

#include "parallel/comm/simulation.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();

/// Publishes views to its rank at times given beforehand.
class Herald final : public ControlHandler {
 public:
  struct Notice {
    Nanoseconds at = 0;
    Generation generation{};
  };
  Herald(World& world, ControlLinks& links, std::vector<Notice> notices)
      : world_(world), links_(links), notices_(std::move(notices)) {}

  void start(Nanoseconds) override { ask(); }
  void timer(Nanoseconds now) override {
    for (; next_ < notices_.size() && notices_[next_].at <= now; ++next_)
      world_.publish_view(notices_[next_].generation);
    ask();
  }
  void opened(int, Nanoseconds) override {}
  void message(int, std::span<const std::byte>, Nanoseconds) override {}
  void closed(int, Nanoseconds) override {}
  void refused(int, Nanoseconds) override {}
  void unreachable(int, Nanoseconds) override {}

 private:
  void ask() { links_.wake_at(next_ < notices_.size() ? notices_[next_].at : kNever); }

  World& world_;
  ControlLinks& links_;
  std::vector<Notice> notices_;
  std::size_t next_ = 0;
};

/// A history drawn from a seed: views at random moments, told to each rank a little later or not at
/// all when the next one follows, ranks that die in between.
struct History {
  int ranks = 2;
  std::uint32_t generations = 5;
  std::vector<std::vector<Herald::Notice>> notices;  // by rank
  std::vector<Nanoseconds> death;                    // by rank
  std::vector<std::vector<int>> live;                // by generation
};

enum class Deaths : std::uint8_t { none, some };

History draw_history(std::uint64_t seed, int ranks, std::uint32_t generations, Nanoseconds pause,
                     Deaths deaths) {
  test::TrafficRandom random(seed * 77 + 5);
  History history{.ranks = ranks,
                  .generations = generations,
                  .notices = {},
                  .death = std::vector<Nanoseconds>(static_cast<std::size_t>(ranks), kNever),
                  .live = {{}}};
  history.notices.resize(static_cast<std::size_t>(ranks));
  const Nanoseconds end = pause * generations;
  if (deaths == Deaths::some)  // rank 0 may die, at least one lives
    for (int r = 0; r + 1 < ranks; ++r)
      if (random.below(3) == 0)
        history.death[static_cast<std::size_t>((r + static_cast<int>(seed)) % ranks)] =
            random.below(end);
  Nanoseconds now = 0;
  for (std::uint32_t g = 1; g <= generations; ++g) {
    now += 1 + random.below(2 * pause);
    const bool last = g == generations;
    if (last) now = std::max(now, end);
    std::vector<int> live;
    for (int r = 0; r < ranks; ++r) {
      const auto index = static_cast<std::size_t>(r);
      if (history.death[index] <= now) continue;
      live.push_back(r);
      if (last || random.below(4) != 0)
        history.notices[index].push_back({now + random.below(pause / 4 + 1), Generation{g}});
    }
    history.live.push_back(std::move(live));
  }
  return history;
}

struct Ways {
  std::uint64_t seed = 1;
  std::int64_t chunk_bytes = 96;
  std::int64_t eager_bytes = 4096;
  std::int64_t largest_chunks = 9;
};

/// Traffic until the last view, through all the others; then exact traffic and a close.
void live_through(const History& history, const Ways& ways, World& world) {
  const Generation last{history.generations};
  while (world.generation() < last) {
    try {
      for (std::uint64_t i = 0;; ++i) {
        const auto done =
            test::random_traffic(world, {.seed = ways.seed + i * 1000 + raw(world.generation()),
                                         .rounds = 1,
                                         .messages = 5 * history.ranks,
                                         .chunk_bytes = ways.chunk_bytes,
                                         .largest_chunks = ways.largest_chunks,
                                         .patience = 1000 * kSecond});
        ASSERT_TRUE(done) << "seed " << ways.seed << ": " << done.error().text();
        // A rank that has nothing to wait for lives through views as well.
        ASSERT_TRUE(world.wait(Work(), "nothing", Deadline{kNever}));
        world.clock().sleep(1000);
      }
    } catch (const StepAborted& abort) {
      world.adopt_view(abort.generation(), history.live[raw(abort.generation())]);
    }
  }
  const auto done =
      test::random_traffic(world, {.seed = ways.seed, .chunk_bytes = ways.chunk_bytes});
  EXPECT_TRUE(done) << "seed " << ways.seed << ": " << done.error().text();
  const auto collected = test::random_collectives(world, ways.seed, 2, 60);
  EXPECT_TRUE(collected) << "seed " << ways.seed << ": " << collected.error().text();
  const auto closed = world.close(Deadline::after(world.clock(), 10 * kSecond));
  EXPECT_TRUE(closed) << "seed " << ways.seed << ": " << closed.error().text();
}

SimulationReport run(const History& history, const Ways& ways) {
  SimulationOptions options{.ranks = history.ranks,
                            .seed = ways.seed,
                            .eager_bytes = ways.eager_bytes,
                            .chunk_bytes = ways.chunk_bytes,
                            .probe = {}};
  options.agent = [&](World& world, ControlLinks& links) -> std::unique_ptr<ControlHandler> {
    return std::make_unique<Herald>(world, links,
                                    history.notices[static_cast<std::size_t>(world.world_rank())]);
  };
  options.control = [&](SimulationControl& control) {
    for (int r = 0; r < history.ranks; ++r)
      if (const Nanoseconds at = history.death[static_cast<std::size_t>(r)]; at != kNever)
        control.at(at, [&control, r] { control.kill(r); });
  };
  const auto report = simulate(options, [&](World& world) { live_through(history, ways, world); });
  EXPECT_TRUE(report) << "seed " << ways.seed << ": " << report.error().text();
  return report.value_or(SimulationReport{});
}

Ways ways_of(std::uint64_t seed) {
  return {.seed = seed,
          .chunk_bytes = seed % 3 == 0 ? 24 : 96,
          .eager_bytes = seed % 2 == 0 ? 0 : (seed % 5 == 0 ? 130 : 4096)};
}

TEST(Drain, nothing_is_left_between_live_ranks_whatever_was_under_way) {
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    const int ranks = 2 + static_cast<int>(seed % 4);
    const History history = draw_history(seed, ranks, 6, 150'000, Deaths::none);
    const SimulationReport report = run(history, ways_of(seed));
    EXPECT_EQ(report.undrained, 0) << "seed " << seed;
    EXPECT_EQ(report.buried_requests, 0) << "seed " << seed;
    EXPECT_EQ(report.lent_bytes, 0) << "seed " << seed;
  }
}

TEST(Drain, only_requests_to_the_dead_stay) {
  std::int64_t kills = 0, buried = 0;
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    const int ranks = 3 + static_cast<int>(seed % 4);
    const History history = draw_history(seed, ranks, 6, 150'000, Deaths::some);
    const SimulationReport report = run(history, ways_of(seed));
    EXPECT_EQ(report.undrained, 0) << "seed " << seed;
    if (report.kills == 0) {
      EXPECT_EQ(report.buried_requests, 0) << "seed " << seed;
    }
    kills += report.kills;
    buried += report.buried_requests;
  }
  EXPECT_GT(kills, 60) << "the histories were to hold deaths";
  EXPECT_GT(buried, 0) << "the dead were to be in the middle of something";
}

// Views follow so fast that they come while the one before is being drained.
TEST(Drain, views_may_come_while_others_are_drained) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const History history =
        draw_history(seed, 4, 40, 15'000, seed % 2 == 0 ? Deaths::some : Deaths::none);
    const SimulationReport report = run(history, ways_of(seed));
    EXPECT_EQ(report.undrained, 0) << "seed " << seed;
  }
}

// A tag names its generation mod 512: after 512 of them nothing old may be there to meet.
TEST(Drain, tags_repeat_safely) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const History history = draw_history(seed, 3, 1100, 60'000, Deaths::none);
    const SimulationReport report =
        run(history, {.seed = seed, .eager_bytes = seed == 2 ? 0 : 4096, .largest_chunks = 5});
    EXPECT_EQ(report.undrained, 0) << "seed " << seed;
    EXPECT_EQ(report.lent_bytes, 0) << "seed " << seed;
  }
}

TEST(Drain, runs_are_repeatable) {
  auto trace = [](std::uint64_t seed) {
    return run(draw_history(7, 4, 6, 100'000, Deaths::some), ways_of(seed)).trace_hash;
  };
  EXPECT_EQ(trace(3), trace(3));
  EXPECT_NE(trace(3), trace(9));
}

// ---- the books

constexpr Stream stream(std::uint32_t generation) {
  return {Generation{generation}, Channel::reduce, ChunkKind::data};
}

std::vector<StreamCount> told(std::uint32_t generation, std::uint64_t count) {
  return {{.generation = generation,
           .channel = static_cast<std::uint8_t>(Channel::reduce),
           .kind = static_cast<std::uint8_t>(ChunkKind::data),
           .count = count}};
}

TEST(DrainBooks, what_was_missed_and_what_was_never_posted_is_fetched) {
  Drain books;
  books.given_up(5, stream(0));  // chunk 1: cancelled
  books.given_up(5, stream(0));  // chunk 2: matched, comes
  books.ended(5, {stream(0), 1}, false);
  books.left_posted(5, stream(0), 3);
  EXPECT_EQ(books.open_streams(5, Generation{1}), 2);  // and has not told
  EXPECT_FALSE(books.told(5, Generation{1}, Generation{}, told(0, 5)));
  std::vector<std::uint64_t> fetched;
  while (const auto chunk = books.next_stray(5)) {
    EXPECT_EQ(chunk->stream, stream(0));
    fetched.push_back(chunk->sequence);
    books.ended(5, *chunk, true);
  }
  EXPECT_THAT(fetched, ::testing::UnorderedElementsAre(1, 3, 4));
  EXPECT_EQ(books.open_streams(5, Generation{1}), 1) << "chunk 2 has not ended";
  books.ended(5, {stream(0), 2}, true);
  EXPECT_EQ(books.open_streams(5, Generation{1}), 0);
  EXPECT_EQ(books.settled_below(5), Generation{1});
}

TEST(DrainBooks, receives_nobody_sent_for_are_not_missed) {
  Drain books;
  for (std::uint64_t i = 0; i < 3; ++i) books.given_up(1, stream(0));
  books.left_posted(1, stream(0), 3);
  EXPECT_FALSE(books.told(1, Generation{1}, Generation{}, {}));
  EXPECT_EQ(books.settled_below(1), Generation{0});
  for (std::uint64_t i = 0; i < 3; ++i) books.ended(1, {stream(0), i}, false);
  EXPECT_FALSE(books.next_stray(1));
  EXPECT_EQ(books.settled_below(1), Generation{1});
}

// Counts are told until the peer says that it has everything; told twice they are fetched once.
TEST(DrainBooks, a_repeated_count_changes_nothing) {
  Drain books;
  books.left_sent(1, stream(0), 2);
  EXPECT_EQ(books.to_tell(1).size(), 1u);
  EXPECT_FALSE(books.told(1, Generation{1}, Generation{}, told(0, 1)));
  const auto chunk = books.next_stray(1);
  ASSERT_TRUE(chunk);
  EXPECT_EQ(books.to_tell(1).size(), 1u);
  EXPECT_FALSE(books.told(1, Generation{2}, Generation{1}, told(0, 1)));
  EXPECT_FALSE(books.next_stray(1));
  EXPECT_TRUE(books.to_tell(1).empty());
  EXPECT_EQ(books.oldest_open(1), Generation{0});
  books.ended(1, *chunk, true);
  EXPECT_EQ(books.settled_below(1), Generation{2});
  EXPECT_EQ(books.oldest_open(1), Generation{2});
  EXPECT_FALSE(books.told(1, Generation{3}, Generation{2}, told(0, 1)));
  EXPECT_FALSE(books.next_stray(1));
}

TEST(DrainBooks, a_peer_may_send_in_a_view_this_rank_never_entered) {
  Drain books;
  EXPECT_FALSE(books.told(1, Generation{3}, Generation{}, told(2, 1)));
  const auto chunk = books.next_stray(1);
  ASSERT_TRUE(chunk);
  EXPECT_EQ(chunk->stream, stream(2));
  EXPECT_EQ(books.settled_below(1), Generation{2});
}

TEST(DrainBooks, nonsense_is_refused) {
  Drain books;
  EXPECT_THAT(books.told(1, Generation{1}, Generation{}, told(1, 1)).value_or(""),
              HasSubstr("generation 1"));
  auto wrong = told(0, 1);
  wrong[0].channel = 8;
  EXPECT_TRUE(books.told(1, Generation{1}, Generation{}, wrong));
  EXPECT_TRUE(books.told(1, Generation{1}, Generation{2}, {}));
}

}  // namespace
}  // namespace elaswave::comm
