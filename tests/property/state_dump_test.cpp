// A dump that the disk does not take ends on all ranks, with the disk's own words: wherever in the
// file the disk stops, nobody waits for a reporter that has left.
#include "app/state_dump.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include "parallel/comm/simulation.h"
#include "tests/support/plans.h"
#include "tests/support/temp_dir.h"

namespace elaswave::app {
namespace {

using elaswave::testing::TempDir;

const spec::ModelConfig kModel{
    .layers = 3, .heads = 4, .hidden = 64, .context = 7, .vocab = 211, .dropout = 0};

/// No file of this process gets larger while the object lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::int64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &before_), 0);
    const rlimit limit{static_cast<rlim_t>(bytes), before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*handler_)(int);
  rlimit before_{};
};

class StateDumpTest : public ::testing::Test {
 protected:
  StateDumpTest() {
    test::Dice dice(3);
    do {
      plan_ = test::random_plan(dice, blocks_, 2, {});
    } while (test::world_size(plan_) < 4);
    for (std::int32_t rank = 0; rank < test::world_size(plan_); ++rank)
      shards_.push_back(std::make_unique<zero::Shard>(blocks_, plan_, rank));
  }

  /// By world rank.
  std::vector<Result<void>> dump(const std::string& path) {
    std::vector<Result<void>> results(shards_.size());
    const auto report =
        comm::simulate({.ranks = static_cast<int>(std::ssize(shards_))}, [&](comm::World& world) {
          const comm::Group group = comm::everyone(world);
          const auto rank = static_cast<std::size_t>(world.world_rank());
          results[rank] = dump_state({.world = world,
                                      .group = group,
                                      .plan = plan_,
                                      .inventory = inventory_,
                                      .blocks = blocks_,
                                      .shard = *shards_[rank],
                                      .timeout = 60 * kSecond},
                                     path);
        });
    EXPECT_TRUE(report) << report.error().text();
    return results;
  }

  TempDir folder_;
  spec::Inventory inventory_{kModel, DType::f32, 2};
  layout::BlockTable blocks_ = inventory_.blocks();
  layout::Plan plan_;
  std::vector<std::unique_ptr<zero::Shard>> shards_;
};

TEST_F(StateDumpTest, AFullDiskIsSaidAndEndsAllRanks) {
  const std::string path = folder_ / "state.h5";
  for (const Result<void>& result : dump(path)) ASSERT_TRUE(result) << result.error().text();
  const auto whole = static_cast<std::int64_t>(std::filesystem::file_size(path));
  std::filesystem::remove(path);
  constexpr std::int64_t kLimits = 24;
  for (std::int64_t i = 0; i < kLimits; ++i) {
    SCOPED_TRACE(std::to_string(whole * i / kLimits) + " of " + std::to_string(whole) + " bytes");
    std::vector<Result<void>> results;
    {
      const FileSizeLimit limit(whole * i / kLimits);
      results = dump(path);
    }
    ASSERT_FALSE(results.front());
    EXPECT_EQ(results.front().error().code, Code::io);
    EXPECT_NE(results.front().error().text().find("File too large"), std::string::npos)
        << results.front().error().text();
    for (std::size_t rank = 1; rank < results.size(); ++rank) {
      ASSERT_FALSE(results[rank]) << "rank " << rank;
      EXPECT_EQ(results[rank].error().code, Code::io);
      EXPECT_EQ(results[rank].error().why, "the lowest rank said so");
    }
    EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  }
  std::printf("campaign: %lld sizes of a disk, %zu ranks, each refusal said by all\n",
              static_cast<long long>(kLimits), shards_.size());
}

}  // namespace
}  // namespace elaswave::app
