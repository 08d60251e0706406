// What a commit record carries, and what owner and backup make of it: the same state, and a digest
// that tells when they are not.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "model/kernels/cpu_ops.h"
#include "model/optim/copy_digest.h"
#include "model/optim/digest.h"
#include "model/optim/update.h"
#include "tests/support/plans.h"

namespace elaswave::optim {
namespace {

using zero::HeldBlock;

TEST(CommitRecord, SurvivesTheWireBitForBit) {
  const auto make = [](double number) {
    return CommitRecord{.version = {Step{std::int64_t{1} << 40}, Generation{0xFFFFFFFFu}},
                        .loss = number,
                        .grad_norm = -number,
                        .lr = 0.1,
                        .updates = -5,
                        .skip = number > 0,
                        .sample_hash = 0x8000000000000001u,
                        .scalars = {0.1f, 0.2f, 0.3f, 0x1p-149f, -0.0f, 0.6f, 0.7f, -0.8f}};
  };
  for (const double number :
       {0.0, -0.0, 1.0 / 3, 0x1p-1074, -1e300, std::numeric_limits<double>::infinity(),
        std::bit_cast<double>(0x7FF8000000000123u)}) {
    const CommitRecord record = make(number);
    const CommitRecord back = CommitRecord::from_words(record.words());
    EXPECT_EQ(back.words(), record.words());
    EXPECT_EQ(back.version, record.version);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(back.loss), std::bit_cast<std::uint64_t>(number));
    EXPECT_EQ(std::bit_cast<std::uint64_t>(back.grad_norm), std::bit_cast<std::uint64_t>(-number));
    EXPECT_EQ(back.lr, record.lr);
    EXPECT_EQ(back.updates, record.updates);
    EXPECT_EQ(back.skip, record.skip);
    EXPECT_EQ(back.sample_hash, record.sample_hash);
    EXPECT_EQ(std::memcmp(&back.scalars, &record.scalars, sizeof record.scalars), 0);
  }
  EXPECT_EQ(make(1).words().size(), CommitRecord::kWords);
}

TEST(CopyDigest, ComparesEachBlockOncePerPeriod) {
  for (const std::int64_t period : {1, 2, 7, 100})
    for (std::int64_t block = 0; block < 20; ++block) {
      std::int64_t times = 0;
      for (std::int64_t step = 1000; step < 1000 + period; ++step)
        times += scrubbed(block, Step{step}, period) ? 1 : 0;
      EXPECT_EQ(times, 1) << "block " << block << ", period " << period;
    }
  for (std::int64_t step = 0; step < 100; ++step) EXPECT_FALSE(scrubbed(0, Step{step}, 0));
}

/// A small model on two replicas, each keeping copies of the other's blocks.
class CopiesTest : public testing::Test {
 protected:
  static constexpr spec::ModelConfig kModel{
      .layers = 2, .heads = 2, .hidden = 72, .context = 8, .vocab = 401};

  CopiesTest() {
    plan_.chunk_of_layer.assign(static_cast<std::size_t>(blocks_.layers()), 0);
    plan_.stage_of_chunk = {0};
    plan_.stages = {{{{{0}}, {{1}}}}};
    plan_.micro_batches = 1;
    plan_.route = {0};
    plan_.schedule.resize(2);
    plan_.copies = 1;
    for (std::int32_t block = 0; block < blocks_.count(); ++block) {
      plan_.owner.push_back(block % 2);
      plan_.backup.push_back(1 - block % 2);
    }
    EXPECT_EQ(layout::find_fault(plan_, blocks_, 2), "");
    for (std::int32_t rank = 0; rank < 2; ++rank) {
      shards_.emplace_back(blocks_, plan_, rank);
      fill(shards_.back());
    }
  }

  void fill(zero::Shard& shard) {
    for (const auto& role : {shard.owned(), shard.backups()})
      for (const HeldBlock& held : role) {
        test::Dice dice(static_cast<std::uint64_t>(held.block) + 1);
        for (const auto& range : state(shard, held))
          for (float& number : range) number = static_cast<float>(dice.word()) * 0x1p-32f;
        for (float& number : shard.log(held)) number = static_cast<float>(dice.word()) * 0x1p-34f;
      }
  }

  static std::array<std::span<float>, 3> state(zero::Shard& shard, const HeldBlock& held) {
    return {shard.master(held), shard.moment1(held), shard.moment2(held)};
  }

  std::int64_t differences() {
    std::int64_t count = 0;
    for (std::int64_t block = 0; block < blocks_.count(); ++block) {
      const auto a = state(shards_[0], *shards_[0].find(block));
      const auto b = state(shards_[1], *shards_[1].find(block));
      for (std::size_t kind = 0; kind < 3; ++kind)
        count += std::memcmp(a[kind].data(), b[kind].data(), a[kind].size_bytes()) == 0 ? 0 : 1;
    }
    return count;
  }

  std::vector<zero::SharedBlock> shared(zero::Shard& shard) {
    std::vector<zero::SharedBlock> all;
    for (const HeldBlock& held : shard.owned()) all.push_back({held, 1});
    for (const HeldBlock& held : shard.backups()) all.push_back({held, -1});
    return all;
  }

  std::int64_t digest(std::int64_t step, std::int64_t period) {
    std::uint64_t sum = 0;
    for (zero::Shard& shard : shards_) {
      OwnedState owned(blocks_, shard, stream_);
      sum += static_cast<std::uint64_t>(copy_digest(kernels::host_machine(*ops_, stream_), shard,
                                                    owned, shared(shard), Step{step}, period));
    }
    return static_cast<std::int64_t>(sum);
  }

  spec::Inventory inventory_{kModel, DType::bf16};
  layout::BlockTable blocks_ = inventory_.blocks();
  layout::Plan plan_;
  std::vector<zero::Shard> shards_;
  void apply_to(zero::Shard& shard, std::span<const zero::HeldBlock> following,
                const CommitRecord& record, zero::TensorStore& working) {
    OwnedState owned(blocks_, shard, stream_);
    apply(kernels::host_machine(*ops_, stream_), inventory_, blocks_, shard, owned, following,
          record, working);
  }

  std::unique_ptr<kernels::Ops> ops_ = kernels::make_cpu_ops(kernels::Isa::automatic).value();
  device::CpuStream stream_{2};
};

TEST_F(CopiesTest, BackupsTakeTheSameUpdate) {
  CommitRecord record{.version = {Step{4}, Generation{2}}, .updates = 4};
  record.scalars = {.lr = 0.01f,
                    .beta1 = 0.9f,
                    .beta2 = 0.95f,
                    .epsilon = 1e-8f,
                    .weight_decay = 0.1f,
                    .clip = 0.5f,
                    .correction1 = 2,
                    .correction2 = 3};
  std::vector<std::int64_t> bytes;
  for (const spec::TensorSpec& tensor : inventory_.tensors())
    bytes.push_back(size_bytes(tensor.storage));
  const HeldBlock first = shards_[0].owned()[0];
  const float before = shards_[0].master(first)[0];
  for (zero::Shard& shard : shards_) {
    zero::TensorStore working(blocks_, bytes);
    apply_to(shard, shard.backups(), record, working);
    EXPECT_EQ(shard.version, record.version);
    for (const HeldBlock& held : shard.backups())
      for (const std::byte byte : working.bytes(blocks_.block(held.block)))
        ASSERT_EQ(byte, std::byte{0}) << "a backup has no working weights";
  }
  EXPECT_NE(shards_[0].master(first)[0], before);
  EXPECT_EQ(differences(), 0);

  // Left out of `following`, they stay behind; skipped, nobody moves.
  zero::TensorStore working(blocks_, bytes);
  apply_to(shards_[0], {}, record, working);
  apply_to(shards_[1], {}, record, working);
  EXPECT_EQ(differences(), 3 * blocks_.count());
  const float after = shards_[0].master(first)[0];
  record.skip = true;
  record.version.step = Step{5};
  apply_to(shards_[0], shards_[0].backups(), record, working);
  EXPECT_EQ(shards_[0].version.step, Step{5});
  EXPECT_EQ(shards_[0].master(first)[0], after);
}

TEST_F(CopiesTest, AnyBitThatDiffersIsSeenWhenItsBlockIsScrubbed) {
  constexpr std::int64_t kPeriod = 5;
  for (std::int64_t step = 1; step <= 2 * kPeriod; ++step) EXPECT_EQ(digest(step, kPeriod), 0);
  test::Dice dice(9);
  for (int flip = 0; flip < 40; ++flip) {
    const std::int64_t block = dice.below(blocks_.count());
    zero::Shard& shard = shards_[static_cast<std::size_t>(dice.below(2))];
    const std::span<float> range =
        state(shard, *shard.find(block))[static_cast<std::size_t>(flip % 3)];
    float& number = range[static_cast<std::size_t>(dice.below(std::ssize(range)))];
    const float before = number;
    number = std::bit_cast<float>(std::bit_cast<std::uint32_t>(number) ^ 1u << dice.below(32));
    for (std::int64_t step = 1; step <= 2 * kPeriod; ++step)
      EXPECT_EQ(digest(step, kPeriod) != 0, scrubbed(block, Step{step}, kPeriod));
    EXPECT_EQ(digest(1, 0), 0);  // never looked at
    number = before;
  }
  EXPECT_EQ(digest(3, 1), 0);
}

TEST_F(CopiesTest, StateDigestIsOfOwnedBlocksAlone) {
  const auto told = [&](std::vector<zero::Shard>& shards) {
    DigestSums total(2);
    for (zero::Shard& shard : shards) {
      const DigestSums sums = digest_sums(*ops_, stream_, inventory_, blocks_, shard);
      for (std::size_t i = 0; i < sums.size(); ++i)
        total[i] = std::bit_cast<std::int64_t>(std::bit_cast<std::uint64_t>(total[i]) +
                                               std::bit_cast<std::uint64_t>(sums[i]));
    }
    return state_digest(inventory_, total);
  };
  layout::Plan alone = plan_;
  alone.copies = 0;
  alone.backup.clear();
  std::vector<zero::Shard> owners;
  for (std::int32_t rank = 0; rank < 2; ++rank) fill(owners.emplace_back(blocks_, alone, rank));
  EXPECT_EQ(told(shards_), told(owners));
}

}  // namespace
}  // namespace elaswave::optim
