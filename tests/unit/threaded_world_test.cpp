// The communication thread and its queue over a wire inside the process, so that ThreadSanitizer
// sees our threads alone.
#include "parallel/comm/threaded_world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/group.h"
#include "tests/support/traffic.h"

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

/// A network of threads: small sends complete at once, larger ones when the receiver has polled.
class Hub {
 public:
  explicit Hub(int ranks)
      : inboxes_(static_cast<std::size_t>(ranks)), finished_(static_cast<std::size_t>(ranks)) {}
  int ranks() const { return static_cast<int>(inboxes_.size()); }

  static constexpr std::size_t kEagerBytes = 512;
  struct Message {
    int from = 0;
    Tag tag = 0;
    Token token = 0;
    std::span<const std::byte> bytes;
    std::vector<std::byte> copy;
    bool eager = false;
  };

  void send(int to, Message message) {
    std::lock_guard lock(mutex_);
    auto& inbox = inboxes_[static_cast<std::size_t>(to)];
    inbox.push_back(std::move(message));
    Message& kept = inbox.back();
    if (kept.bytes.size() > kEagerBytes) return;
    kept.eager = true;
    kept.copy.assign(kept.bytes.begin(), kept.bytes.end());
    kept.bytes = kept.copy;
    finished_[static_cast<std::size_t>(kept.from)].push_back({kept.token, Outcome::done, 0});
  }
  /// Moves the first message of (from, tag) for `rank` into `buffer`; -1 when there is none.
  std::int64_t take(int rank, int from, Tag tag, std::span<std::byte> buffer) {
    std::lock_guard lock(mutex_);
    auto& inbox = inboxes_[static_cast<std::size_t>(rank)];
    for (auto it = inbox.begin(); it != inbox.end(); ++it) {
      if (it->from != from || it->tag != tag) continue;
      const auto bytes = static_cast<std::int64_t>(it->bytes.size());
      std::copy(it->bytes.begin(), it->bytes.end(), buffer.begin());
      if (!it->eager)
        finished_[static_cast<std::size_t>(from)].push_back({it->token, Outcome::done, 0});
      inbox.erase(it);
      return bytes;
    }
    return -1;
  }
  void take_finished(int rank, std::vector<Completion>& out) {
    std::lock_guard lock(mutex_);
    auto& finished = finished_[static_cast<std::size_t>(rank)];
    out.insert(out.end(), finished.begin(), finished.end());
    finished.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::deque<Message>> inboxes_;
  std::vector<std::vector<Completion>> finished_;
};

class HubWire final : public Wire {
 public:
  HubWire(Hub& hub, int world_rank) : hub_(hub), world_rank_(world_rank) {}
  int world_rank() const override { return world_rank_; }
  int size() const override { return hub_.ranks(); }
  Result<void> start_send(int to, Tag tag, std::span<const std::byte> bytes, Token token) override {
    hub_.send(to, {world_rank_, tag, token, bytes, {}, false});
    return {};
  }
  Result<void> start_receive(int from, Tag tag, std::span<std::byte> buffer, Token token) override {
    posted_.push_back({from, tag, token, buffer});
    return {};
  }
  Result<void> poll(std::vector<Completion>& completed) override {
    hub_.take_finished(world_rank_, completed);
    completed.insert(completed.end(), cancelled_.begin(), cancelled_.end());
    cancelled_.clear();
    for (std::size_t i = 0; i < posted_.size();) {
      const std::int64_t bytes =
          hub_.take(world_rank_, posted_[i].from, posted_[i].tag, posted_[i].buffer);
      if (bytes < 0) {
        ++i;
        continue;
      }
      completed.push_back({posted_[i].token, Outcome::done, bytes});
      posted_.erase(posted_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    return {};
  }
  // An unmatched receive is cancelled; a send stays until it is met.
  void abandon(Token token) override {
    if (std::erase_if(posted_, [token](const Posted& p) { return p.token == token; }) > 0)
      cancelled_.push_back({token, Outcome::cancelled, 0});
  }
  Result<void> close() override { return {}; }

 private:
  struct Posted {
    int from;
    Tag tag;
    Token token;
    std::span<std::byte> buffer;
  };
  std::vector<Completion> cancelled_;
  Hub& hub_;
  int world_rank_;
  std::vector<Posted> posted_;
};

std::unique_ptr<World> join(Hub& hub, int world_rank) {
  MessengerOptions options;
  options.payload_bytes = 1000;
  options.control_payload_bytes = 200;
  options.checksum = Checksum::on;
  auto world = make_threaded_world(
      [&hub, world_rank]() -> Result<std::unique_ptr<Wire>> {
        return std::make_unique<HubWire>(hub, world_rank);
      },
      options);
  EXPECT_TRUE(world);
  return std::move(*world);
}

void on_all_ranks(int ranks, const std::function<void(World&)>& body) {
  Hub hub(ranks);
  std::vector<std::unique_ptr<World>> worlds;
  for (int r = 0; r < ranks; ++r) worlds.push_back(join(hub, r));
  std::vector<std::thread> threads;
  for (auto& world : worlds) threads.emplace_back([&body, &world] { body(*world); });
  for (auto& thread : threads) thread.join();
  worlds.clear();
}

Deadline in(World& world, Nanoseconds duration) {
  return Deadline::after(world.clock(), duration);
}

TEST(ThreadedWorld, traffic_and_collectives) {
  for (const int ranks : {1, 2, 3, 5})
    on_all_ranks(ranks, [](World& world) {
      const auto done = test::random_traffic(
          world, {.seed = 7, .messages = 10 * world.size(), .chunk_bytes = 1000});
      EXPECT_TRUE(done) << done.error().text();
      const auto collected = test::random_collectives(world, 8, 8, 300);
      EXPECT_TRUE(collected) << collected.error().text();
      const auto closed = world.close(in(world, 20 * kSecond));
      EXPECT_TRUE(closed) << closed.error().text();
    });
}

TEST(ThreadedWorld, a_view_published_by_another_thread_ends_a_wait) {
  on_all_ranks(2, [](World& world) {
    std::vector<std::byte> bytes(5000);
    const Work work = world.receive(1 - world.world_rank(), Channel::state, {bytes});
    std::thread agent([&world] {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      world.publish_view(Generation{3});
    });
    EXPECT_THROW((void)world.wait(work, "forever", in(world, 60 * kSecond)), StepAborted);
    agent.join();
    test::enter_view(world, Generation{3});
    EXPECT_EQ(world.generation(), Generation{3});
    const auto done = test::random_traffic(world, {.seed = 9, .chunk_bytes = 1000});
    EXPECT_TRUE(done) << done.error().text();
  });
}

// close() ends only when nothing of older views is left between live ranks.
TEST(ThreadedWorld, aborted_traffic_is_drained) {
  on_all_ranks(4, [](World& world) {
    std::vector<int> live{0, 1, 2, 3};
    for (std::uint32_t next = 1; next <= 6; ++next) {
      std::thread agent([&world, next] {
        std::this_thread::sleep_for(std::chrono::milliseconds(3 + world.world_rank()));
        world.publish_view(Generation{next});
      });
      try {
        for (std::uint64_t i = 0;; ++i) {
          const auto done = test::random_traffic(
              world, {.seed = next * 1000 + i, .rounds = 1, .chunk_bytes = 1000});
          EXPECT_TRUE(done) << done.error().text();
        }
      } catch (const StepAborted& abort) {
        EXPECT_EQ(abort.generation(), Generation{next});
      }
      agent.join();
      if (next == 5) {  // one leaves without a word
        if (world.world_rank() == 2) return;
        std::erase(live, 2);
      }
      world.adopt_view(Generation{next}, live);
      EXPECT_EQ(std::vector<int>(world.live().begin(), world.live().end()), live);
    }
    const auto done = test::random_traffic(world, {.seed = 10, .chunk_bytes = 1000});
    EXPECT_TRUE(done) << done.error().text();
    const auto closed = world.close(in(world, 20 * kSecond));
    EXPECT_TRUE(closed) << closed.error().text();
  });
}

TEST(ThreadedWorld, a_view_may_be_published_while_another_is_entered) {
  on_all_ranks(2, [](World& world) {
    const std::vector<int> live{0, 1};
    world.publish_view(Generation{1});
    world.publish_view(Generation{3});
    world.adopt_view(Generation{1}, live);
    EXPECT_EQ(world.generation(), Generation{1});
    EXPECT_THROW((void)world.wait(Work(), "newer", in(world, kSecond)), StepAborted);
    world.adopt_view(Generation{3}, live);
    const auto done = test::random_traffic(world, {.seed = 11, .chunk_bytes = 1000});
    EXPECT_TRUE(done) << done.error().text();
    EXPECT_TRUE(world.close(in(world, 20 * kSecond)));
  });
}

TEST(ThreadedWorld, a_deadline_error_gives_everything_up_until_the_next_view) {
  on_all_ranks(2, [](World& world) {
    std::vector<std::byte> bytes(64);
    const Work work = world.receive(1 - world.world_rank(), Channel::state, {bytes});
    const auto got = world.wait(work, "nothing", in(world, 20 * kMillisecond));
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, Code::deadline);
    EXPECT_TRUE(world.test(work)) << "given up: nobody may be left waiting for it";
    const auto later = world.wait(world.send(1 - world.world_rank(), Channel::state, {bytes}),
                                  "later", in(world, kSecond));
    ASSERT_FALSE(later);
    EXPECT_EQ(later.error().what, got.error().what);
    test::enter_view(world, Generation{1});
    const auto done = test::random_traffic(world, {.seed = 10, .chunk_bytes = 1000});
    EXPECT_TRUE(done) << done.error().text();
  });
}

TEST(ThreadedWorld, the_others_name_a_rank_that_does_not_answer) {
  on_all_ranks(4, [](World& world) {
    const int me = world.world_rank();
    if (me == 3) return;
    world.set_activity({Step{13}, "2F" + std::to_string(me)});
    std::vector<std::byte> bytes(64);
    const auto got = world.wait(world.receive(me + 1, Channel::pipeline, {bytes}),
                                "receive activation", in(world, 2 * kSecond));
    ASSERT_FALSE(got);
    const std::string text = got.error().text();
    EXPECT_THAT(text, HasSubstr("step 13, 2F" + std::to_string(me)));
    EXPECT_THAT(text, HasSubstr("rank 3 has not been heard of"));
    if (me != 2) {
      EXPECT_THAT(text, HasSubstr("rank 2 waits for rank 3 in 2F2 (receive activation"));
    }
  });
}

TEST(ThreadedWorld, notes_nobody_reads_do_not_disturb_the_close) {
  on_all_ranks(3, [](World& world) {
    for (int round = 0; round < 3; ++round) {
      std::int64_t one = 1;
      if (world.world_rank() == 0) world.clock().sleep(300 * kMillisecond);
      const auto summed =
          all_reduce_sum(world, everyone(world), {&one, 1}, "late", in(world, kSecond));
      EXPECT_TRUE(summed) << summed.error().text();
    }
    const auto done = test::random_traffic(world, {.seed = 2, .chunk_bytes = 1000});
    EXPECT_TRUE(done) << done.error().text();
    const auto closed = world.close(in(world, 20 * kSecond));
    EXPECT_TRUE(closed) << closed.error().text();
  });
}

TEST(ThreadedWorld, the_recorder_can_be_read_while_messages_move) {
  on_all_ranks(2, [](World& world) {
    std::atomic<bool> stop{false};
    std::size_t events = 0;
    std::thread reader([&] {
      while (!stop.load())
        events += world.recorder().communication.snapshot().size() +
                  world.recorder().compute.snapshot().size();
    });
    const auto done = test::random_traffic(world, {.seed = 12, .messages = 40});
    stop.store(true);
    reader.join();
    EXPECT_TRUE(done) << done.error().text();
    EXPECT_GT(world.recorder().communication.count(), 0u);
  });
}

TEST(ThreadedWorld, a_wire_that_cannot_be_opened_is_an_error) {
  const auto world = make_threaded_world(
      []() -> Result<std::unique_ptr<Wire>> {
        return fail(
            Error{.code = Code::unavailable, .what = "no wire", .where = {}, .why = {}, .fix = {}});
      },
      {});
  ASSERT_FALSE(world);
  EXPECT_EQ(world.error().what, "no wire");
}

}  // namespace
}  // namespace elaswave::comm
