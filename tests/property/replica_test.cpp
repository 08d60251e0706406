// Backups over random plans in the simulated world: after every step each copy that follows is what
// its owner is, bit for bit; the logs acknowledged are the logs expected; nothing waits for ever.
// And a transport that lies is caught.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "elastic/replica/backups.h"
#include "io/base/hash.h"
#include "parallel/comm/group.h"
#include "parallel/comm/simulation.h"
#include "tests/support/random_copies.h"

namespace elaswave::replica {
namespace {

using test::Dice;
using zero::HeldBlock;

constexpr Nanoseconds kTimeout = 60 * kSecond;

struct Case {
  std::uint64_t seed = 0;
  layout::BlockTable blocks;
  layout::Plan plan;
  std::vector<Copy> missing;
  std::int64_t fill_elems = 0;
  std::int32_t ranks = 0;
  std::int64_t steps = 0;
};

Case make_case(std::uint64_t seed) {
  Dice dice(seed);
  Case made{.seed = seed};
  const auto degree = static_cast<std::int32_t>(dice.between(1, 2));
  made.blocks = test::random_table(dice, degree);
  made.plan = test::random_plan(dice, made.blocks, degree, {.micro_batches = 1});
  test::add_copies(dice, made.blocks, static_cast<std::int32_t>(dice.below(3)), made.plan);
  made.ranks = test::ranks_of(made.plan);
  made.steps = dice.between(1, 6);
  // None, some or all are missing; filled in any order.
  const std::int64_t share = dice.below(4);
  for (std::int64_t block = 0; block < made.blocks.count(); ++block)
    for (const std::int32_t backup : made.plan.backups_of(block))
      if (backup >= 0 && dice.below(3) < share)
        made.missing.push_back({block, made.plan.owner_rank(made.blocks, block), backup});
  for (std::size_t i = made.missing.size(); i > 1; --i)
    std::swap(made.missing[i - 1],
              made.missing[static_cast<std::size_t>(dice.below(static_cast<int>(i)))]);
  const std::int64_t budgets[] = {0, 1, 700, layout::kBlockElems, 3 * layout::kBlockElems};
  made.fill_elems = budgets[dice.below(std::size(budgets))];
  return made;
}

float number(std::int64_t a, std::int64_t b, std::int64_t c) {
  const std::uint64_t hash =
      combine64(combine64(static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b)),
                static_cast<std::uint64_t>(c));
  return static_cast<float>(static_cast<std::int64_t>(hash)) * 0x1p-62f;
}

void fill(std::span<float> numbers, std::int64_t key, std::int64_t block) {
  for (std::size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = number(key, block, static_cast<std::int64_t>(i));
}

/// Anything that depends on all of state and log, and keeps a difference for ever.
void update(zero::Shard& shard, const HeldBlock& held) {
  const std::span<float> w = shard.master(held), m = shard.moment1(held), v = shard.moment2(held),
                         g = shard.log(held);
  for (std::size_t i = 0; i < g.size(); ++i) {
    m[i] = 0.875f * m[i] + g[i];
    v[i] = 0.75f * v[i] - g[i] * g[i];
    w[i] += m[i] - 0.5f * v[i];
  }
}

bool same(std::span<float> a, std::span<float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

struct Tally {
  std::int64_t runs = 0, steps = 0, copies = 0, filled = 0, unfinished = 0, messages = 0;
};

void print(const char* what, const Tally& tally) {
  std::printf(
      "campaign: %s: %lld runs, %lld steps, %lld messages, %lld copies compared, %lld of "
      "them filled on the way, %lld runs ended before all were\n",
      what, static_cast<long long>(tally.runs), static_cast<long long>(tally.steps),
      static_cast<long long>(tally.messages), static_cast<long long>(tally.copies),
      static_cast<long long>(tally.filled), static_cast<long long>(tally.unfinished));
}

/// What a run leaves behind.
struct Outcome {
  std::vector<std::unique_ptr<zero::Shard>> shards;  // by rank
  std::vector<std::string> errors;
  std::int64_t unlogged = 0;  // steps whose sum was not what was expected, by rank
  std::int64_t unequal = 0;   // steps at whose commit point a copy differed, by rank
  std::int64_t pending = 0;   // sends under way when the update began
  bool ended = false;         // the simulation by itself
};

enum class Lie { none, lose_a_log, acknowledge_early };

/// A transport that tells of what it did not do.
class LyingWorld final : public comm::World {
 public:
  LyingWorld(comm::World& world, Lie lie) : world_(world), lie_(lie) {}

  int world_rank() const override { return world_.world_rank(); }
  int size() const override { return world_.size(); }
  Generation generation() const override { return world_.generation(); }
  std::span<const int> live() const override { return world_.live(); }
  Clock& clock() override { return world_.clock(); }
  FlightRecorder& recorder() override { return world_.recorder(); }
  void set_activity(const comm::Activity& activity) override { world_.set_activity(activity); }
  comm::Work send(int to, comm::Channel channel, comm::ConstPieces pieces) override {
    if (lie_ == Lie::lose_a_log && channel == comm::Channel::state && !std::exchange(lied_, true))
      return {};
    const comm::Work work = world_.send(to, channel, std::move(pieces));
    if (channel == comm::Channel::state) sends_.push_back(work);
    return work;
  }
  comm::Work receive(int from, comm::Channel channel, comm::Pieces pieces) override {
    return world_.receive(from, channel, std::move(pieces));
  }
  Result<void> wait(const comm::Work& work, std::string_view operation,
                    Deadline deadline) override {
    if (lie_ == Lie::acknowledge_early && operation == "log at backups") return {};
    return world_.wait(work, operation, deadline);
  }
  bool test(const comm::Work& work) override { return world_.test(work); }
  void publish_view(Generation generation) override { world_.publish_view(generation); }
  void adopt_view(Generation generation, std::span<const int> live) override {
    world_.adopt_view(generation, live);
  }
  void probe(Point point) override { world_.probe(point); }
  Result<void> close(Deadline deadline) override { return world_.close(deadline); }

  /// Sends of state and log that still read memory.
  std::int64_t pending() const {
    return std::count_if(sends_.begin(), sends_.end(),
                         [&](const comm::Work& work) { return !world_.test(work); });
  }

 private:
  comm::World& world_;
  Lie lie_;
  std::vector<comm::Work> sends_;
  bool lied_ = false;
};

/// One member of a case.
class RankRun {
 public:
  RankRun(const Case& made, LyingWorld& world, Outcome& outcome)
      : made_(made),
        world_(world),
        outcome_(outcome),
        shard_(*outcome.shards[static_cast<std::size_t>(world.world_rank())]),
        dice_(combine64(made.seed, static_cast<std::uint64_t>(world.world_rank()))) {
    for (const auto& role : {shard_.owned(), shard_.backups()})
      for (const HeldBlock& held : role) {
        fill(shard_.master(held), 1, held.block);
        fill(shard_.moment1(held), 2, held.block);
        fill(shard_.moment2(held), 3, held.block);
      }
    for (const Copy& copy : made.missing) {
      if (copy.backup != world.world_rank()) continue;
      shard_.set_whole(copy.block, false);
      const HeldBlock& held = *shard_.find(copy.block);
      for (const std::span<float> range :
           {shard_.master(held), shard_.moment1(held), shard_.moment2(held), shard_.log(held)})
        std::fill(range.begin(), range.end(), 1e30f);
    }
  }

  Result<void> run() {
    Backups backups(world_, shard_,
                    Followers(made_.blocks, made_.plan, made_.missing, made_.fill_elems), kTimeout);
    const comm::Group group{layout::members(made_.plan), world_.generation()};
    for (std::int64_t step = 1; step <= made_.steps; ++step) {
      backups.begin_step();
      EXPECT_EQ(backups.logged(), 0);
      if (dice_.one_in(3)) world_.clock().sleep(dice_.below(200'000));
      for (const HeldBlock& held : shard_.owned()) fill(shard_.log(held), 10 + step, held.block);
      EW_TRY(backups.log());
      std::int64_t vote[] = {backups.logged(), compared(backups), weights(backups)};
      EW_TRY(comm::all_reduce_sum(world_, group, vote, "commit point",
                                  Deadline::after(world_.clock(), kTimeout)));
      if (vote[0] != backups.expected()) ++outcome_.unlogged;
      if (vote[1] != 0) ++outcome_.unequal;
      EXPECT_EQ(vote[2], 2 * settled(step)) << "seed " << made_.seed;
      EW_TRY(backups.before_apply());
      outcome_.pending += world_.pending();
      for (const HeldBlock& held : shard_.owned()) update(shard_, held);
      for (const HeldBlock& held : backups.following()) update(shard_, held);
      // What the transport would still read now is not the log any more.
      for (const HeldBlock& held : shard_.owned()) fill(shard_.log(held), -step, held.block);
      backups.committed();
    }
    return {};
  }

 private:
  /// What scrubbing of all blocks at once would add.
  std::int64_t compared(const Backups& backups) {
    std::uint64_t sum = 0;
    for (const auto& [held, weight] : backups.shared())
      for (const std::span<float> range :
           {shard_.master(held), shard_.moment1(held), shard_.moment2(held)})
        sum += static_cast<std::uint64_t>(weight) *
               hash_bytes(std::as_bytes(range), static_cast<std::uint64_t>(held.block));
    return static_cast<std::int64_t>(sum);
  }
  static std::int64_t weights(const Backups& backups) {
    std::int64_t sum = 0;
    for (const zero::SharedBlock& shared : backups.shared()) sum += std::abs(shared.weight);
    return sum;
  }
  /// Copies that followed before this step.
  std::int64_t settled(std::int64_t step) const {
    Followers followers(made_.blocks, made_.plan, made_.missing, made_.fill_elems);
    for (std::int64_t before = 1; before < step; ++before) followers.advance();
    return std::ssize(followers.following()) - std::ssize(followers.filling());
  }

  const Case& made_;
  LyingWorld& world_;
  Outcome& outcome_;
  zero::Shard& shard_;
  Dice dice_;
};

Outcome run_case(const Case& made, std::uint64_t schedule, Lie lie, Tally& tally) {
  Dice dice(combine64(made.seed, schedule));
  const comm::SimulationOptions options{.ranks = made.ranks,
                                        .seed = schedule,
                                        .eager_bytes = dice.one_in(2) ? 0 : 4096,
                                        .chunk_bytes = std::int64_t{1} << dice.between(12, 16)};
  Outcome outcome;
  for (std::int32_t rank = 0; rank < made.ranks; ++rank)
    outcome.shards.push_back(std::make_unique<zero::Shard>(made.blocks, made.plan, rank));
  const std::vector<std::int32_t> members = layout::members(made.plan);
  const auto report = comm::simulate(options, [&](comm::World& world) {
    if (!std::binary_search(members.begin(), members.end(), world.world_rank())) return;
    LyingWorld lying(world, lie);
    auto rank = std::make_unique<RankRun>(made, lying, outcome);
    if (const Result<void> ran = rank->run(); !ran) outcome.errors.push_back(ran.error().text());
  });
  outcome.ended = report.has_value();
  if (!report) outcome.errors.push_back(report.error().text());
  ++tally.runs;
  tally.steps += made.steps;
  if (report) tally.messages += report->messages;
  return outcome;
}

/// Copies that should follow now and are not what their owners are, and copies that should not and
/// say they are whole.
std::int64_t wrong_copies(const Case& made, const Outcome& outcome, Tally& tally) {
  Followers followers(made.blocks, made.plan, made.missing, made.fill_elems);
  for (std::int64_t step = 1; step <= made.steps; ++step) followers.advance();
  const auto& not_yet = followers.filling();
  std::int64_t wrong = 0, whole = 0;
  for (const Copy& copy : followers.following()) {
    if (std::find(not_yet.begin(), not_yet.end(), copy) != not_yet.end()) continue;
    zero::Shard& owner = *outcome.shards[static_cast<std::size_t>(copy.owner)];
    zero::Shard& backup = *outcome.shards[static_cast<std::size_t>(copy.backup)];
    const HeldBlock &from = *owner.find(copy.block), &to = *backup.find(copy.block);
    const bool equal = backup.whole(copy.block) && same(owner.master(from), backup.master(to)) &&
                       same(owner.moment1(from), backup.moment1(to)) &&
                       same(owner.moment2(from), backup.moment2(to));
    wrong += equal ? 0 : 1;
    ++tally.copies;
  }
  for (const auto& shard : outcome.shards)
    for (const HeldBlock& held : shard->backups()) whole += shard->whole(held.block) ? 1 : 0;
  const std::int64_t settled = std::ssize(followers.following()) - std::ssize(not_yet);
  tally.filled += settled - (std::ssize(made.plan.backup) - std::ssize(made.missing) -
                             std::count(made.plan.backup.begin(), made.plan.backup.end(), -1));
  if (!followers.complete()) ++tally.unfinished;
  return wrong + std::abs(whole - settled);
}

TEST(Backups, EveryCopyThatFollowsIsWhatItsOwnerIs) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    const Case made = make_case(seed);
    ASSERT_EQ(layout::find_fault(made.plan, made.blocks, made.ranks), "") << "seed " << seed;
    for (std::uint64_t schedule = 1; schedule <= 2; ++schedule) {
      const Outcome outcome = run_case(made, schedule, Lie::none, tally);
      ASSERT_TRUE(outcome.errors.empty()) << "seed " << seed << ": " << outcome.errors.front();
      ASSERT_EQ(outcome.unlogged, 0) << "seed " << seed;
      ASSERT_EQ(outcome.unequal, 0) << "seed " << seed;
      ASSERT_EQ(outcome.pending, 0) << "seed " << seed;
      ASSERT_EQ(wrong_copies(made, outcome, tally), 0) << "seed " << seed;
    }
  }
  print("sound", tally);
  EXPECT_GT(tally.filled, 100);
  EXPECT_GT(tally.unfinished, 5);
}

bool sends_logs(const Case& made) {
  const Followers followers(made.blocks, made.plan, made.missing, made.fill_elems);
  return !followers.following().empty();
}

TEST(Backups, ALogThatIsNotSentPassesNoCommitPoint) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const Case made = make_case(seed);
    if (!sends_logs(made)) continue;
    const Outcome outcome = run_case(made, seed, Lie::lose_a_log, tally);
    // Nothing comes instead, or what comes has another length.
    ASSERT_FALSE(outcome.errors.empty()) << "seed " << seed;
    ASSERT_TRUE(outcome.ended) << "seed " << seed << ": " << outcome.errors.back();
  }
  print("lost", tally);
  EXPECT_GT(tally.runs, 20);
}

TEST(Backups, AnEarlyAcknowledgementLeavesCopiesThatDiffer) {
  Tally tally;
  std::int64_t caught = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const Case made = make_case(seed);
    if (!sends_logs(made)) continue;
    const Outcome outcome = run_case(made, seed, Lie::acknowledge_early, tally);
    if (!outcome.errors.empty() || wrong_copies(made, outcome, tally) > 0) ++caught;
  }
  print("hasty", tally);
  std::printf("campaign: %lld of them caught\n", static_cast<long long>(caught));
  EXPECT_GT(caught, 0);
}

// By the words of the header: order, budget of each owner, one block at least.
TEST(Followers, FillInOrderAsFarAsEachOwnerMaySend) {
  std::int64_t cases = 0, longest = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    const Case made = make_case(seed);
    Followers followers(made.blocks, made.plan, made.missing, made.fill_elems);
    std::vector<Copy> left = made.missing;
    std::size_t settled = 0;
    for (const std::int32_t rank : made.plan.backup) settled += rank >= 0 ? 1 : 0;
    settled -= left.size();
    std::int64_t steps = 0;
    for (;; ++steps) {
      std::vector<Copy> filled;
      for (std::int32_t owner = 0; owner < made.ranks; ++owner) {
        std::int64_t elems = 0;
        for (const Copy& copy : left) {
          if (copy.owner != owner) continue;
          const std::int64_t next = elems + made.blocks.block(copy.block).elems;
          if (made.fill_elems > 0 && elems > 0 && next > made.fill_elems) break;
          elems = next;
          filled.push_back(copy);
        }
      }
      ASSERT_EQ(followers.filling().size(), filled.size()) << "seed " << seed;
      for (const Copy& copy : filled) {
        ASSERT_EQ(std::count(followers.filling().begin(), followers.filling().end(), copy), 1);
        ASSERT_EQ(std::count(followers.following().begin(), followers.following().end(), copy), 1);
        std::erase(left, copy);
      }
      settled += filled.size();
      ASSERT_EQ(followers.following().size(), settled);
      ASSERT_TRUE(std::is_sorted(followers.following().begin(), followers.following().end(),
                                 [](const Copy& a, const Copy& b) {
                                   return std::pair(a.block, a.backup) <
                                          std::pair(b.block, b.backup);
                                 }));
      ASSERT_EQ(followers.missing(), std::ssize(left));
      ASSERT_EQ(followers.complete(), filled.empty() && left.empty());
      if (followers.complete()) break;
      followers.advance();
    }
    longest = std::max(longest, steps);
    ++cases;
  }
  std::printf("campaign: %lld plans, the longest filled in %lld steps\n",
              static_cast<long long>(cases), static_cast<long long>(longest));
  EXPECT_GT(longest, 10);
}

}  // namespace
}  // namespace elaswave::replica
