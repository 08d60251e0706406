// The shard against a simple model over random sequences of plans: what is held keeps its place and
// its contents whatever its role, is whole when it was filled, and memory follows blocks.
#include "parallel/zero/shard.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>

#include "tests/support/random_copies.h"

namespace elaswave::zero {
namespace {

using test::Dice;

struct Counts {
  int plans = 0, promotions = 0, reused = 0, returned = 0, compared = 0;
};

class ShardModel {
 public:
  ShardModel(Dice& dice, const layout::BlockTable& blocks, const layout::Plan& plan,
             std::int32_t rank, Counts& counts)
      : dice_(dice), blocks_(blocks), rank_(rank), counts_(counts), shard_(blocks, plan, rank) {
    take(plan);
    for (auto& [block, held] : held_) held.whole = true;
    check();
  }

  void adopt(const layout::Plan& plan) {
    const std::set<std::int64_t> backups = backups_;
    shard_.adopt(plan);
    take(plan);
    for (const std::int64_t block : owned_) counts_.promotions += backups.contains(block) ? 1 : 0;
    check();
    ++counts_.plans;
  }

  void drop() {
    shard_.drop_unused();
    for (auto entry = held_.begin(); entry != held_.end();) {
      const bool kept = owned_.contains(entry->first) || backups_.contains(entry->first);
      if (!kept) {
        free_[entry->second.slab].insert(slot_bytes(entry->first));
        --slabs_[entry->second.slab].blocks;
      }
      entry = kept ? std::next(entry) : held_.erase(entry);
    }
    for (auto slab = slabs_.begin(); slab != slabs_.end();) {
      const bool gone = slab->second.blocks == 0;
      counts_.returned += gone ? 1 : 0;
      if (gone) free_.erase(slab->first);
      slab = gone ? slabs_.erase(slab) : std::next(slab);
    }
    check();
  }

  void scribble() {
    for (auto& [block, held] : held_) {
      if (dice_.one_in(2)) continue;
      held.value = static_cast<float>(dice_.word() >> 8);
      for (std::size_t kind = 0; kind < 4; ++kind)
        for (float& number : range(block, kind)) number = held.value + static_cast<float>(kind);
      held.written = true;
      held.whole = dice_.one_in(2);
      shard_.set_whole(block, held.whole);
    }
  }

 private:
  struct Held {
    std::int32_t slab = 0;
    const float* place = nullptr;
    bool whole = false, written = false;
    float value = 0;
  };
  struct Slab {
    std::int64_t bytes = 0, blocks = 0;
  };

  std::int64_t slot_bytes(std::int64_t block) const {
    return 16 * round_up(blocks_.block(block).elems, 16);
  }
  std::span<float> range(std::int64_t block, std::size_t kind) {
    const HeldBlock* held = shard_.find(block);
    if (kind == 0) return shard_.master(*held);
    if (kind == 1) return shard_.moment1(*held);
    return kind == 2 ? shard_.moment2(*held) : shard_.log(*held);
  }

  /// Roles by their definition, and what must have been allocated for them.
  void take(const layout::Plan& plan) {
    owned_.clear();
    backups_.clear();
    std::set<std::int64_t> missing;
    for (std::int64_t block = 0; block < blocks_.count(); ++block) {
      const auto copies = plan.backups_of(block);
      const bool owns = plan.owner_rank(blocks_, block) == rank_;
      const bool keeps = std::count(copies.begin(), copies.end(), rank_) > 0;
      if (owns) owned_.insert(block);
      if (keeps) backups_.insert(block);
      if ((owns || keeps) && !held_.contains(block)) missing.insert(block);
    }
    for (const std::int64_t block : missing) {
      const HeldBlock* held = shard_.find(block);
      ASSERT_NE(held, nullptr);
      Held& entry = held_[block];
      entry.slab = held->slab;
      entry.place = shard_.master(*held).data();
    }
    std::erase_if(missing, [&](std::int64_t block) {
      auto& slots = free_[held_[block].slab];
      const auto slot = slots.find(slot_bytes(block));
      if (slot == slots.end()) return false;
      slots.erase(slot);
      ++slabs_[held_[block].slab].blocks;
      ++counts_.reused;
      return true;
    });
    std::map<std::int32_t, Slab> added;
    for (const std::int64_t block : missing) {
      const HeldBlock* held = shard_.find(block);
      for (const auto& [slab, others] : free_)
        ASSERT_FALSE(others.contains(slot_bytes(block))) << "a free slot was passed over";
      ASSERT_FALSE(slabs_.contains(held->slab)) << "block " << block;
      added[held->slab].bytes += slot_bytes(block);
      ++added[held->slab].blocks;
    }
    ASSERT_LE(added.size(), 1u) << "more than one allocation";
    slabs_.insert(added.begin(), added.end());
  }

  static std::vector<std::int64_t> names(std::span<const HeldBlock> held) {
    std::vector<std::int64_t> blocks;
    for (const HeldBlock& one : held) blocks.push_back(one.block);
    return blocks;
  }

  void check() {
    std::vector<std::int64_t> unused;
    for (const auto& [block, held] : held_)
      if (!owned_.contains(block) && !backups_.contains(block)) unused.push_back(block);
    ASSERT_EQ(names(shard_.owned()), std::vector(owned_.begin(), owned_.end()));
    ASSERT_EQ(names(shard_.backups()), std::vector(backups_.begin(), backups_.end()));
    ASSERT_EQ(names(shard_.unused()), unused);
    std::vector<std::int64_t> by_layer;
    for (std::int32_t layer = 0; layer < blocks_.layers(); ++layer)
      for (const HeldBlock& held : shard_.of_layer(layer)) {
        ASSERT_EQ(blocks_.block(held.block).layer, layer);
        by_layer.push_back(held.block);
      }
    ASSERT_EQ(by_layer, names(shard_.owned()));
    for (std::int64_t block = 0; block < blocks_.count(); ++block) {
      const auto known = held_.find(block);
      ASSERT_EQ(shard_.find(block) != nullptr, known != held_.end());
      ASSERT_EQ(shard_.whole(block), known != held_.end() && known->second.whole) << block;
      if (known != held_.end()) check_contents(block, known->second);
    }
    check_memory();
  }

  void check_contents(std::int64_t block, const Held& held) {
    ASSERT_EQ(shard_.master(*shard_.find(block)).data(), held.place)
        << "block " << block << " moved";
    for (std::size_t kind = 0; kind < 4; ++kind) {
      const std::span<float> numbers = range(block, kind);
      ASSERT_EQ(std::ssize(numbers), blocks_.block(block).elems);
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(numbers.data()) % 64, 0u);
      if (!held.written) continue;
      for (const float number : numbers)
        ASSERT_EQ(number, held.value + static_cast<float>(kind)) << "block " << block;
      ++counts_.compared;
    }
  }

  void check_memory() {
    std::int64_t bytes = 0, elems = 0, owned = 0;
    for (const auto& [index, slab] : slabs_) bytes += slab.bytes;
    for (const std::int64_t block : owned_) {
      elems += blocks_.block(block).elems;
      owned += slot_bytes(block);
    }
    ASSERT_EQ(shard_.size_bytes(), bytes);
    ASSERT_EQ(shard_.owned_elems(), elems);
    ASSERT_EQ(shard_.owned_bytes(), owned);
  }

  Dice& dice_;
  const layout::BlockTable& blocks_;
  std::int32_t rank_;
  Counts& counts_;
  Shard shard_;
  std::set<std::int64_t> owned_, backups_;
  std::map<std::int64_t, Held> held_;
  std::map<std::int32_t, Slab> slabs_;
  std::map<std::int32_t, std::multiset<std::int64_t>> free_;  // bytes, by slab
};

TEST(Shard, HoldsWhatPlansGiveItAndMovesNothing) {
  Counts counts;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Dice dice(seed);
    const auto degree = static_cast<std::int32_t>(dice.between(1, 2));
    const layout::BlockTable blocks = test::random_table(dice, degree);
    const auto make = [&] {
      layout::Plan plan = test::random_plan(dice, blocks, degree, {.micro_batches = 1});
      test::add_copies(dice, blocks, static_cast<std::int32_t>(dice.below(3)), plan);
      EXPECT_EQ(layout::find_fault(plan, blocks, test::ranks_of(plan)), "");
      return plan;
    };
    layout::Plan plan = make(), before = plan;
    ShardModel model(dice, blocks, plan, static_cast<std::int32_t>(dice.below(8)), counts);
    for (int turn = 0; turn < 12; ++turn) {
      model.scribble();
      if (dice.one_in(3)) {
        model.drop();
        continue;
      }
      // Now and then back to the plan before, as after a transition that was broken off.
      std::swap(plan, before);
      if (!dice.one_in(3)) plan = make();
      model.adopt(plan);
    }
    if (testing::Test::HasFailure()) return;
  }
  std::printf(
      "campaign: %d plans adopted, %d promotions, %d slots reused, %d slabs returned, "
      "%d ranges compared\n",
      counts.plans, counts.promotions, counts.reused, counts.returned, counts.compared);
  EXPECT_GT(counts.promotions, 100);
  EXPECT_GT(counts.reused, 100);
  EXPECT_GT(counts.returned, 10);
}

}  // namespace
}  // namespace elaswave::zero
