// Claims on real files: one value wins, everybody reads that one, and whatever cannot be read or
// written is no answer.
#include "elastic/member/claim_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/temp_dir.h"

namespace elaswave::member {
namespace {

using ::elaswave::testing::read_file;
using ::elaswave::testing::TempDir;
using ::elaswave::testing::write_file;
using ::testing::ElementsAre;
using ::testing::Optional;

using Value = std::vector<std::byte>;

Value value(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

FileClaims claims_of(const TempDir& directory, int world_rank, std::uint64_t run = 9) {
  return FileClaims({.directory = directory.path(),
                     .run = run,
                     .world_rank = world_rank,
                     .incarnation = 100 + static_cast<std::uint64_t>(world_rank)});
}

TEST(ClaimFile, TheFirstWinsAndEverybodyReadsIt) {
  const TempDir directory;
  FileClaims a = claims_of(directory, 0), b = claims_of(directory, 1);
  EXPECT_THAT(a.claim(Generation{3}, value("left half")), Optional(value("left half")));
  EXPECT_THAT(b.claim(Generation{3}, value("right")), Optional(value("left half")));
  EXPECT_THAT(a.claim(Generation{3}, value("changed my mind")), Optional(value("left half")));
  EXPECT_THAT(b.claim(Generation{4}, value("right")), Optional(value("right")));
  EXPECT_THAT(a.claim(Generation{5}, Value()), Optional(Value()));
  EXPECT_THAT(b.claim(Generation{5}, value("right")), Optional(Value()));
  EXPECT_THAT(directory.names(),
              ElementsAre("view-3-0000000000000009", "view-4-0000000000000009",
                          "view-5-0000000000000009"));  // no temporary file stays
}

TEST(ClaimFile, RunsThatShareADirectoryDoNotMeet) {
  const TempDir directory;
  FileClaims now = claims_of(directory, 0, 1), later = claims_of(directory, 0, 2);
  EXPECT_THAT(now.claim(Generation{1}, value("now")), Optional(value("now")));
  EXPECT_THAT(later.claim(Generation{1}, value("later")), Optional(value("later")));
}

TEST(ClaimFile, WhatCannotBeReadIsNoAnswer) {
  const TempDir directory;
  FileClaims a = claims_of(directory, 0), b = claims_of(directory, 1);
  ASSERT_THAT(a.claim(Generation{1}, value("a value of some length")), ::testing::Ne(std::nullopt));
  const std::string path = directory / "view-1-0000000000000009";
  const std::string whole = read_file(path);
  for (std::size_t i = 0; i < whole.size(); i += 3) {  // of every field
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    write_file(path, damaged);
    EXPECT_EQ(b.claim(Generation{1}, value("mine")), std::nullopt) << "byte " << i;
    write_file(path, whole.substr(0, i));
    EXPECT_EQ(b.claim(Generation{1}, value("mine")), std::nullopt) << i << " bytes";
  }
  write_file(path, whole + "x");
  EXPECT_EQ(b.claim(Generation{1}, value("mine")), std::nullopt);
  write_file(directory / "view-2-0000000000000009", whole);  // another generation's
  EXPECT_EQ(b.claim(Generation{2}, value("mine")), std::nullopt);
  write_file(path, whole);
  EXPECT_THAT(b.claim(Generation{1}, value("mine")), Optional(value("a value of some length")));
}

TEST(ClaimFile, ADirectoryThatIsNotThereIsNoAnswer) {
  FileClaims claims({.directory = "/nonexistent/run", .run = 1});
  EXPECT_EQ(claims.claim(Generation{1}, value("mine")), std::nullopt);
}

TEST(ClaimFile, WhatAnInterruptedTryLeftBehindIsInNobodysWay) {
  const TempDir directory;
  write_file(directory / "view-1-0000000000000009.0-0000000000000064.tmp", "half a val");
  FileClaims a = claims_of(directory, 0), b = claims_of(directory, 1);
  EXPECT_THAT(b.claim(Generation{1}, value("b")), Optional(value("b")));
  EXPECT_THAT(a.claim(Generation{1}, value("a")), Optional(value("b")));
}

TEST(ClaimFile, OfManyAtOnceExactlyOneWins) {
  constexpr int kRanks = 8, kGenerations = 40;
  const TempDir directory;
  std::atomic<int> ready = 0;
  std::vector<std::vector<std::optional<Value>>> held(kRanks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank)
    threads.emplace_back([&, rank] {
      FileClaims claims = claims_of(directory, rank);
      for (std::uint32_t generation = 0; generation < kGenerations; ++generation) {
        // Together into each generation, or the first thread wins them all.
        ++ready;
        while (ready.load() < kRanks * static_cast<int>(generation + 1)) std::this_thread::yield();
        held[static_cast<std::size_t>(rank)].push_back(
            claims.claim(Generation{generation}, value("rank " + std::to_string(rank))));
      }
    });
  for (auto& thread : threads) thread.join();
  std::set<std::string> winners;
  for (std::size_t generation = 0; generation < kGenerations; ++generation) {
    ASSERT_TRUE(held[0][generation]);
    const Value& won = *held[0][generation];
    winners.emplace(reinterpret_cast<const char*>(won.data()), won.size());
    for (const auto& one : held) EXPECT_EQ(one[generation], held[0][generation]) << generation;
  }
  EXPECT_GT(winners.size(), 1u);  // otherwise nothing raced
}

}  // namespace
}  // namespace elaswave::member
