// State that a device updates while the shard on the host mirrors it beside the step: few copies,
// the same bits, and nobody sees an update half done.
#include "model/optim/owned_state.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <new>
#include <semaphore>
#include <thread>

#include "app/rank_device.h"
#include "model/optim/update.h"
#include "tests/support/plans.h"
#include "tests/unit/owned_state_device.h"

namespace elaswave::optim {
namespace {

using zero::HeldBlock;

/// A small model on two replicas, each keeping copies of the other's blocks.
class OwnedStateTest : public ::testing::Test {
 protected:
  static constexpr spec::ModelConfig kModel{
      .layers = 2, .heads = 2, .hidden = 72, .context = 8, .vocab = 401};

  /// Blocks whose number is `owner` modulo 2 belong to rank 0; all others to rank 1.
  layout::Plan plan(std::int32_t owner) const {
    layout::Plan plan;
    plan.chunk_of_layer.assign(static_cast<std::size_t>(blocks_.layers()), 0);
    plan.stage_of_chunk = {0};
    plan.stages = {{{{{0}}, {{1}}}}};
    plan.micro_batches = 1;
    plan.route = {0};
    plan.schedule.resize(2);
    plan.copies = 1;
    for (std::int32_t block = 0; block < blocks_.count(); ++block) {
      plan.owner.push_back((block + owner) % 2);
      plan.backup.push_back(1 - plan.owner.back());
    }
    EXPECT_EQ(layout::find_fault(plan, blocks_, 2), "");
    return plan;
  }

  zero::Shard make_shard(device::Device& device) const {
    zero::Shard shard(blocks_, plan(0), 0, device);
    test::Dice dice(5);
    for (const auto& role : {shard.owned(), shard.backups()})
      for (const HeldBlock& held : role)
        for (const auto& range :
             {shard.master(held), shard.moment1(held), shard.moment2(held), shard.log(held)})
          for (float& number : range) number = static_cast<float>(dice.word()) * 0x1p-32f;
    return shard;
  }

  spec::Inventory inventory_{kModel, DType::f32};
  layout::BlockTable blocks_ = inventory_.blocks();
};

/// One rank's steps on a machine, with the same gradients whatever the machine.
struct Rank {
  Rank(const spec::Inventory& its_inventory, const layout::BlockTable& its_blocks,
       zero::Shard its_shard, std::unique_ptr<app::RankDevice> its_device)
      : inventory(its_inventory),
        blocks(its_blocks),
        rank_device(std::move(its_device)),
        shard(std::move(its_shard)) {
    owned.load();
  }

  void step(std::int64_t number, bool skip) {
    test::Dice dice(static_cast<std::uint64_t>(number));
    for (const HeldBlock& held : shard.owned()) {
      const layout::Block& block = blocks.block(held.block);
      std::vector<std::int64_t> values(static_cast<std::size_t>(block.elems));
      for (std::int64_t& value : values) value = static_cast<std::int64_t>(dice.word() >> 30);
      machine.stream.copy(sums.bytes(block).data(), values.data(), std::ssize(values) * 8);
    }
    CommitVote vote;
    log_gradients(machine, blocks, shard, owned, sums, 1, vote);
    squares = vote.gradient_squares.value();
    CommitRecord record{.version = {Step{number}, Generation{0}}, .updates = number, .skip = skip};
    record.scalars = {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f};
    apply(machine, inventory, blocks, shard, owned, shard.backups(), record, working);
  }
  /// What is in the shard, and on the device if there is one.
  std::vector<float> state() {
    std::vector<float> all;
    const auto add = [&](std::span<const float> range) {
      all.insert(all.end(), range.begin(), range.end());
    };
    for (const auto& role : {shard.owned(), shard.backups()})
      for (const HeldBlock& held : role)
        for (const auto& range : {shard.master(held), shard.moment1(held), shard.moment2(held)})
          add(range);
    return all;
  }
  std::vector<float> logs() {
    std::vector<float> all;
    for (const HeldBlock& held : shard.owned())
      all.insert(all.end(), shard.log(held).begin(), shard.log(held).end());
    return all;
  }
  std::vector<float> owned_on_device() {
    std::vector<float> all;
    for (std::size_t index = 0; index < shard.owned().size(); ++index)
      for (const auto& range : {owned.master(index), owned.moment1(index), owned.moment2(index)}) {
        const auto old = static_cast<std::ptrdiff_t>(all.size());
        all.resize(all.size() + range.size());
        machine.stream.copy(&all[static_cast<std::size_t>(old)], range.data(),
                            static_cast<std::int64_t>(range.size_bytes()));
      }
    machine.stream.synchronize();
    return all;
  }

  const spec::Inventory& inventory;
  const layout::BlockTable& blocks;
  std::unique_ptr<app::RankDevice> rank_device;
  kernels::Machine machine = rank_device->machine();
  zero::Shard shard;
  OwnedState owned{blocks, shard, machine.stream};
  std::vector<std::int64_t> bytes =
      std::vector<std::int64_t>(inventory.tensors().size(), std::int64_t{4});
  zero::TensorStore working{blocks, bytes, machine.stream.device()};
  zero::GradSums sums{blocks, zero::SumMode::exact, std::vector<bool>(bytes.size(), true),
                      machine.arithmetic};
  double squares = 0;
};

Rank make_rank(const spec::Inventory& inventory, const layout::BlockTable& blocks,
               app::MakeRankDevice make, const auto& make_shard) {
  auto device = make({.isa = kernels::Isa::automatic, .threads = 2}).value();
  zero::Shard shard = make_shard(device->machine().stream.device());
  return {inventory, blocks, std::move(shard), std::move(device)};
}

TEST_F(OwnedStateTest, TheMirrorHasTheBitsOfTheDevice) {
  const auto shard = [this](device::Device& device) { return make_shard(device); };
  Rank bare = make_rank(inventory_, blocks_, &app::make_cpu_rank, shard);
  Rank mirrored = make_rank(inventory_, blocks_, &make_device_rank, shard);
  EXPECT_FALSE(bare.owned.mirrored());
  ASSERT_TRUE(mirrored.owned.mirrored());
  for (std::int64_t step = 1; step <= 5; ++step) {
    bare.step(step, step == 3);
    mirrored.step(step, step == 3);
    EXPECT_EQ(mirrored.shard.version, bare.shard.version);
    EXPECT_EQ(mirrored.squares, bare.squares);
    if (step == 2) continue;  // nobody looks, the next step waits
    mirrored.shard.settle();
    mirrored.owned.wait_log();  // there is no update of a skipped step
    ASSERT_EQ(mirrored.logs(), bare.logs()) << "step " << step;
    ASSERT_EQ(mirrored.state(), bare.state()) << "step " << step;
    ASSERT_EQ(mirrored.owned_on_device(), bare.owned_on_device()) << "step " << step;
  }
}

TEST_F(OwnedStateTest, OwnedBlocksAreOneCopyUntilRolesChange) {
  const auto first = [this](device::Device& device) { return make_shard(device); };
  Rank rank = make_rank(inventory_, blocks_, &make_device_rank, first);
  EXPECT_GT(rank.shard.owned().size(), 10u);
  EXPECT_EQ(rank.owned.pieces(), 1);
  // The copies become owned: neighbours among themselves, too.
  const auto promoted = [this](device::Device& device) {
    zero::Shard shard = make_shard(device);
    shard.adopt(plan(1));
    return shard;
  };
  Rank other = make_rank(inventory_, blocks_, &make_device_rank, promoted);
  EXPECT_EQ(other.owned.pieces(), 1);
  Rank bare = make_rank(inventory_, blocks_, &app::make_cpu_rank, promoted);
  other.step(1, false);
  bare.step(1, false);
  EXPECT_EQ(other.owned_on_device(), bare.owned_on_device());
  EXPECT_EQ(other.state(), bare.state());
}

TEST_F(OwnedStateTest, WhoAsksForContentsWaitsForTheUpdate) {
  zero::Shard shard = make_shard(device::host_device());
  const HeldBlock held = shard.owned()[0];
  const std::span<float> range = shard.master(held);
  std::binary_semaphore begin(0), looked(0);
  std::atomic<bool> ended = false;
  shard.update_beside([&] {
    begin.acquire();
    for (float& number : range) number = 7;
    ended = true;
  });
  shard.version = {Step{9}, Generation{1}};
  EXPECT_NE(shard.find(held.block), nullptr);
  EXPECT_TRUE(shard.whole(held.block));
  shard.set_whole(held.block, true);
  shard.drop_unused();
  EXPECT_FALSE(ended) << "none of this is about contents";
  std::thread opener([&] {
    looked.acquire();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    begin.release();
  });
  looked.release();
  EXPECT_EQ(shard.master(held)[0], 7);
  opener.join();
  EXPECT_TRUE(ended);
}

TEST_F(OwnedStateTest, TheNextLogIsWrittenWhenTheUpdateHasReadTheLast) {
  const auto shard = [this](device::Device& device) { return make_shard(device); };
  Rank rank = make_rank(inventory_, blocks_, &make_device_rank, shard);
  std::atomic<bool> ended = false;
  rank.shard.update_beside([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ended = true;
  });
  CommitVote vote;
  log_gradients(rank.machine, blocks_, rank.shard, rank.owned, rank.sums, 1, vote);
  EXPECT_TRUE(ended);
}

TEST_F(OwnedStateTest, AFailedUpdateIsToldEveryTime) {
  zero::Shard shard = make_shard(device::host_device());
  const HeldBlock held = shard.owned()[0];
  shard.update_beside([] { throw device::DeviceLost("gone"); });
  shard.wait_for_update();
  EXPECT_THROW(shard.settle(), device::DeviceLost);
  EXPECT_THROW(static_cast<void>(shard.moment1(held)), device::DeviceLost);
  EXPECT_THROW(shard.update_beside([] {}), device::DeviceLost);
}

}  // namespace
}  // namespace elaswave::optim
