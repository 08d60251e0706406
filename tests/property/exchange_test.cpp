// Ownership over random plans in the simulated world: reduced sums are exact, gathered weights are
// the owners', and nothing waits for ever, whatever the layout, the rows and the order of messages.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>

#include "io/base/hash.h"
#include "parallel/comm/simulation.h"
#include "parallel/zero/gatherer.h"
#include "parallel/zero/reducer.h"
#include "parallel/zero/shard.h"
#include "tests/property/exchange_testing.h"

namespace elaswave::zero {
namespace {

using layout::SumsEvent;

constexpr Nanoseconds kTimeout = 60 * kSecond;

struct Tally {
  std::int64_t plans = 0, ranks = 0, steps = 0, sums = 0, weights = 0, broken_off = 0, messages = 0;
};

/// What all ranks of a run know about each other, beside the messages under test.
template <typename T>
struct Oracle {
  explicit Oracle(const Case& made) : parts(static_cast<std::size_t>(made.blocks.parts())) {
    for (std::size_t part = 0; part < parts.size(); ++part)
      for (std::int32_t rank = 0; rank < made.ranks; ++rank)
        parts[part][rank].resize(
            static_cast<std::size_t>(made.blocks.part(static_cast<std::int32_t>(part)).elems));
  }
  void clear(std::int32_t rank) {
    for (auto& by_rank : parts) std::fill(by_rank[rank].begin(), by_rank[rank].end(), T{});
  }
  std::vector<std::map<std::int32_t, std::vector<T>>> parts;  // [part][rank]: its own sums
};

/// One rank of a run: some steps of adding, reducing, updating and gathering.
template <typename T>
class RankRun {
 public:
  static constexpr std::int64_t kSteps = 3;
  static constexpr bool kExact = std::is_same_v<T, std::int64_t>;

  RankRun(const Case& made, comm::World& world, std::vector<Oracle<T>>& oracles, Tally& tally)
      : made_(made),
        world_(world),
        oracles_(oracles),
        tally_(tally),
        dice_(combine64(made.seed, static_cast<std::uint64_t>(world.world_rank()) + 1)),
        place_(layout::place_of(made.plan, rank())),
        held_(held_parts(made.plan, made.blocks, rank())),
        exchange_(made.blocks, made.plan, rank()),
        shard_(made.blocks, made.plan, rank()),
        sums_(made.blocks, kExact ? SumMode::exact : SumMode::fast, held_),
        working_(made.blocks, working_bytes()),
        reducer_(world, exchange_, made.blocks, sums_, kTimeout),
        gatherer_(world, exchange_, made.blocks, working_, kTimeout) {}

  Result<void> run() {
    EW_TRY(gatherer_.start({Step{0}, Generation{}}));  // as after a restore
    for (std::int64_t step = 1; step <= kSteps; ++step) {
      EW_TRY(reducer_.begin_step());
      sums_.begin_step();
      EW_TRY(compute(step));
      EW_TRY(reducer_.finish());
      check_sums(step);
      EW_TRY(gatherer_.begin_apply());
      for (const HeldBlock& owned : shard_.owned()) set_working(owned.block, step);
      EW_TRY(gatherer_.start({Step{step}, Generation{}}));
      EW_TRY(check_weights(step));
    }
    EW_TRY(gatherer_.begin_apply());
    EW_TRY(reducer_.begin_step());
    return world_.close(Deadline::after(world_.clock(), kTimeout));
  }

 private:
  std::int32_t rank() const { return world_.world_rank(); }

  std::vector<std::int64_t> working_bytes() {
    std::vector<std::int64_t> bytes;
    for (std::size_t part = 0; part < held_.size(); ++part)
      bytes.push_back(held_[part] ? (part % 3 == 0 ? 4 : 2) : 0);
    return bytes;
  }

  /// Adds what the events of the row bring, tells the reducer at once, and now and then looks how
  /// far the others are. Some parts get nothing; some ranks stop in the middle.
  Result<void> compute(std::int64_t step) {
    Oracle<T>& oracle = oracles_[static_cast<std::size_t>(step - 1)];
    oracle.clear(rank());
    if (place_.stage < 0) return {};
    const auto events = layout::sums_order(made_.plan, place_.stage, place_.replica);
    const std::int64_t stop =
        dice_.one_in(5) ? dice_.below(std::ssize(events)) : std::ssize(events);
    for (std::int64_t i = 0; i < stop; ++i) {
      const SumsEvent& event = events[static_cast<std::size_t>(i)];
      for (std::int32_t part = 0; part < made_.blocks.parts(); ++part) {
        const layout::PartExtent& extent = made_.blocks.part(part);
        const std::int32_t layer = event.tied ? extent.tied_layer : extent.layer;
        if (layer == event.layer && adds(made_, extent, place_, event.tied) && !dice_.one_in(6))
          contribute(oracle, part);
      }
      EW_TRY(reducer_.done(event.layer, event.tied));
      if (dice_.one_in(2)) EW_TRY(reducer_.progress());
    }
    if (stop == std::ssize(events)) return {};
    ++tally_.broken_off;
    return reducer_.done_rest();
  }

  T addend() {
    const std::uint64_t bits = combine64(dice_.word(), dice_.word());
    if constexpr (kExact)
      return static_cast<T>(bits) / 64;  // sums over the members stay in range
    else
      return static_cast<T>(static_cast<std::int64_t>(bits) >> 32) * 0x1.8p-20f;
  }

  void contribute(Oracle<T>& oracle, std::int32_t part) {
    const bool first = sums_.first_touch(part);
    auto* data = reinterpret_cast<T*>(sums_.data(part));
    for (T& own : oracle.parts[static_cast<std::size_t>(part)][rank()]) {
      const T value = addend();
      *data = first ? value : *data + value;
      own = *data++;
    }
  }

  void check_sums(std::int64_t step) {
    const Oracle<T>& oracle = oracles_[static_cast<std::size_t>(step - 1)];
    for (const HeldBlock& owned : shard_.owned()) {
      const layout::Block& block = made_.blocks.block(owned.block);
      const auto& by_rank = oracle.parts[static_cast<std::size_t>(block.part)];
      // Own first, then the others in their order: what fast mode promises.
      std::vector<T> expected = by_rank.at(rank());
      for (const auto& [other, theirs] : by_rank) {
        const layout::Place at = layout::place_of(made_.plan, other);
        const layout::PartExtent& extent = made_.blocks.part(block.part);
        if (other == rank() || at.stage < 0 ||
            !(adds(made_, extent, at, false) || adds(made_, extent, at, true)))
          continue;
        for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += theirs[i];
      }
      const std::span<std::byte> bytes = sums_.bytes(block);
      EXPECT_EQ(std::memcmp(bytes.data(), expected.data() + block.begin, bytes.size()), 0)
          << "seed " << made_.seed << " step " << step << " rank " << rank() << " block "
          << owned.block;
      tally_.sums += block.elems;
    }
  }

  static std::byte weight(std::int64_t step, std::int64_t block, std::size_t i) {
    return static_cast<std::byte>(combine64(static_cast<std::uint64_t>(step * 1000003 + block), i));
  }
  void set_working(std::int64_t index, std::int64_t step) {
    const std::span<std::byte> bytes = working_.bytes(made_.blocks.block(index));
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = weight(step, index, i);
  }

  /// Layer by layer as a forward pass asks for them, not all the time in the order of the gather.
  Result<void> check_weights(std::int64_t step) {
    std::vector<std::int32_t> layers;
    for (std::int32_t layer = 0; layer < made_.blocks.layers(); ++layer)
      if (place_.stage >= 0 && made_.plan.stage_of_layer(layer) == place_.stage)
        layers.push_back(layer);
    if (dice_.one_in(2)) std::reverse(layers.begin(), layers.end());
    for (const std::int32_t layer : layers) {
      EXPECT_NE(gatherer_.version(layer).step, Step{step});
      EW_TRY(gatherer_.wait(layer));
      EXPECT_EQ(gatherer_.version(layer).step, Step{step});
      for (std::int64_t index = 0; index < made_.blocks.count(); ++index) {
        const layout::Block& block = made_.blocks.block(index);
        const layout::PartExtent& extent = made_.blocks.part(block.part);
        const bool read = (extent.layer == layer || extent.tied_layer == layer) &&
                          held_[static_cast<std::size_t>(block.part)];
        if (!read) continue;
        const std::span<std::byte> bytes = working_.bytes(block);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < bytes.size(); ++i) wrong += bytes[i] != weight(step, index, i);
        EXPECT_EQ(wrong, 0u) << "seed " << made_.seed << " step " << step << " rank " << rank()
                             << " layer " << layer << " block " << index;
        tally_.weights += block.elems;
      }
    }
    return {};
  }

  const Case& made_;
  comm::World& world_;
  std::vector<Oracle<T>>& oracles_;
  Tally& tally_;
  Dice dice_;
  layout::Place place_;
  std::vector<bool> held_;
  ExchangeMap exchange_;
  Shard shard_;
  GradSums sums_;
  TensorStore working_;
  Reducer reducer_;
  Gatherer gatherer_;
};

template <typename T>
void run_case(const Case& made, std::uint64_t schedule, Tally& tally) {
  std::vector<Oracle<T>> oracles(static_cast<std::size_t>(RankRun<T>::kSteps), Oracle<T>(made));
  Dice dice(combine64(made.seed, schedule));
  const comm::SimulationOptions options{.ranks = made.ranks,
                                        .seed = schedule,
                                        .eager_bytes = dice.one_in(2) ? 0 : 4096,
                                        .chunk_bytes = std::int64_t{1} << dice.between(12, 16)};
  std::vector<std::string> errors;
  const auto report = comm::simulate(options, [&](comm::World& world) {
    auto rank = std::make_unique<RankRun<T>>(made, world, oracles, tally);
    if (const Result<void> ran = rank->run(); !ran) errors.push_back(ran.error().text());
  });
  ASSERT_TRUE(report) << "seed " << made.seed << ": " << report.error().text();
  ASSERT_TRUE(errors.empty()) << "seed " << made.seed << ": " << errors.front();
  ++tally.plans;
  tally.ranks += made.ranks;
  tally.steps += RankRun<T>::kSteps;
  tally.messages += report->messages;
}

void print(const char* mode, const Tally& tally) {
  std::printf(
      "campaign: %s: %lld runs, %lld ranks, %lld steps, %lld broken off, %lld messages, %lld sums "
      "and %lld weights compared\n",
      mode, static_cast<long long>(tally.plans), static_cast<long long>(tally.ranks),
      static_cast<long long>(tally.steps), static_cast<long long>(tally.broken_off),
      static_cast<long long>(tally.messages), static_cast<long long>(tally.sums),
      static_cast<long long>(tally.weights));
}

TEST(Exchange, OwnersHoldTheSumsAndMembersTheWeights) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const Case made = make_case(seed);
    for (std::uint64_t schedule = 1; schedule <= 2; ++schedule)
      run_case<std::int64_t>(made, schedule, tally);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(tally.broken_off, 0);
  print("exact", tally);
}

TEST(Exchange, FastModeAddsInTheOrderOfMembers) {
  Tally tally;
  for (std::uint64_t seed = 1001; seed <= 1030; ++seed) {
    run_case<float>(make_case(seed), seed, tally);
    if (::testing::Test::HasFailure()) return;
  }
  print("fast", tally);
}

}  // namespace
}  // namespace elaswave::zero
