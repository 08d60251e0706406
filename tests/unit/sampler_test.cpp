// io/data/sampler: properties of the order of samples.
#include "io/data/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "io/base/hash.h"

namespace elaswave::data {
namespace {

std::vector<std::int64_t> epoch_order(const Sampler& sampler, std::int64_t epoch) {
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < sampler.sample_count(); ++i)
    order.push_back(sampler.sample_at(epoch * sampler.sample_count() + i));
  return order;
}

void expect_bijection(const Sampler& sampler, std::int64_t epoch) {
  std::vector<bool> seen(static_cast<std::size_t>(sampler.sample_count()));
  for (const std::int64_t sample : epoch_order(sampler, epoch)) {
    ASSERT_GE(sample, 0);
    ASSERT_LT(sample, sampler.sample_count());
    ASSERT_FALSE(seen[static_cast<std::size_t>(sample)]) << sampler.sample_count();
    seen[static_cast<std::size_t>(sample)] = true;
  }
}

TEST(SampleCount, IsWholeSamplesOfOneTokenMore) {
  EXPECT_EQ(sample_count(0, 4), 0);
  EXPECT_EQ(sample_count(1, 4), 0);
  EXPECT_EQ(sample_count(4, 4), 0);
  EXPECT_EQ(sample_count(5, 4), 1);
  EXPECT_EQ(sample_count(8, 4), 1);
  EXPECT_EQ(sample_count(9, 4), 2);
  EXPECT_EQ(sample_count((std::int64_t{1} << 40) + 1, 1024), std::int64_t{1} << 30);
}

TEST(Sampler, IsABijectionForEverySmallCount) {
  for (std::int64_t count = 1; count <= 300; ++count)
    for (const std::int64_t epoch : {0, 1, 7}) expect_bijection(Sampler(42, 99, count), epoch);
}

TEST(Sampler, IsABijectionForPowersAndRandomLargerCounts) {
  std::mt19937_64 random(7);
  std::vector<std::int64_t> counts;
  for (const int bits : {10, 12, 13, 16})
    for (const int off : {-1, 0, 1}) counts.push_back((std::int64_t{1} << bits) + off);
  for (int i = 0; i < 12; ++i) counts.push_back(static_cast<std::int64_t>(300 + random() % 200000));
  for (const std::int64_t count : counts)
    expect_bijection(Sampler(random(), random(), count),
                     static_cast<std::int64_t>(random() % 1000));
}

TEST(Sampler, HugeCountsStayInRange) {
  const std::int64_t count = (std::int64_t{1} << 45) + 12345;
  const Sampler sampler(1, 2, count);
  std::set<std::int64_t> seen;
  for (std::int64_t position = count - 1000; position < count; ++position) {
    const std::int64_t sample = sampler.sample_at(position);
    EXPECT_GE(sample, 0);
    EXPECT_LT(sample, count);
    EXPECT_TRUE(seen.insert(sample).second);
  }
}

TEST(Sampler, DependsOnSeedFingerprintAndEpoch) {
  const Sampler sampler(1, 2, 1000);
  const auto order = epoch_order(sampler, 0);
  EXPECT_EQ(epoch_order(Sampler(1, 2, 1000), 0), order);
  const auto agreements = [&](const std::vector<std::int64_t>& other) {
    int equal = 0;
    for (std::size_t i = 0; i < order.size(); ++i) equal += order[i] == other[i];
    return equal;
  };
  // Two random orders agree in one place on average (Poisson): more than 12 has probability below
  // 1e-10.
  EXPECT_LE(agreements(epoch_order(sampler, 1)), 12);
  EXPECT_LE(agreements(epoch_order(sampler, 2)), 12);
  EXPECT_LE(agreements(epoch_order(Sampler(2, 2, 1000), 0)), 12);
  EXPECT_LE(agreements(epoch_order(Sampler(1, 3, 1000), 0)), 12);
  std::vector<std::int64_t> identity(1000);
  for (std::size_t i = 0; i < identity.size(); ++i) identity[i] = static_cast<std::int64_t>(i);
  EXPECT_LE(agreements(identity), 12);
}

// Every position gets every sample equally often over the seeds: chi-square per position.
TEST(Sampler, EveryPlaceIsUniform) {
  for (const std::int64_t count : {5, 16, 17, 40}) {
    const int seeds = 4000;
    std::vector<std::vector<int>> hits(static_cast<std::size_t>(count),
                                       std::vector<int>(static_cast<std::size_t>(count)));
    for (int seed = 0; seed < seeds; ++seed) {
      const Sampler sampler(static_cast<std::uint64_t>(seed), 5, count);
      for (std::int64_t i = 0; i < count; ++i)
        ++hits[static_cast<std::size_t>(i)][static_cast<std::size_t>(sampler.sample_at(i))];
    }
    double statistic = 0;
    const double expected = static_cast<double>(seeds) / static_cast<double>(count);
    for (const auto& row : hits)
      for (const int hit : row) statistic += (hit - expected) * (hit - expected) / expected;
    // (count - 1)^2 degrees of freedom; mean + 6 sigma of the chi-square distribution.
    const double freedom = static_cast<double>((count - 1) * (count - 1));
    EXPECT_LT(statistic, freedom + 6 * std::sqrt(2 * freedom)) << count;
  }
}

TEST(Sampler, TinyCountsSeeEveryOrder) {
  std::map<std::vector<std::int64_t>, int> orders;
  const int seeds = 4800;
  for (int seed = 0; seed < seeds; ++seed)
    ++orders[epoch_order(Sampler(static_cast<std::uint64_t>(seed), 1, 4), 0)];
  ASSERT_EQ(orders.size(), 24u);
  // 200 expected each, sigma about 14: six sigmas
  for (const auto& [order, count] : orders) EXPECT_NEAR(count, 200, 84);
}

TEST(Sampler, NeighboursAreNotCorrelated) {
  const std::int64_t count = 50000;
  const auto order = epoch_order(Sampler(3, 4, count), 0);
  const double mean = static_cast<double>(count - 1) / 2;
  const double variance = (static_cast<double>(count) * static_cast<double>(count) - 1) / 12;
  for (const std::size_t lag : {1u, 2u, 16u, 256u}) {
    double sum = 0;
    for (std::size_t i = 0; i + lag < order.size(); ++i)
      sum += (static_cast<double>(order[i]) - mean) * (static_cast<double>(order[i + lag]) - mean);
    const double correlation = sum / (variance * static_cast<double>(count));
    EXPECT_LT(std::abs(correlation), 6 / std::sqrt(static_cast<double>(count)))
        << lag;  // six sigmas
  }
}

TEST(Sampler, StepsTileThePositions) {
  std::int64_t next = 0;
  for (std::int64_t step = 1; step <= 5; ++step)
    for (std::int64_t i = 0; i < 7; ++i) EXPECT_EQ(sample_position(step, 7, i), next++);
}

TEST(Sampler, SampleHashIsTheDocumentedChain) {
  const Sampler sampler(11, 0xABCD, 10);  // batch 7: steps cross epochs
  std::set<std::uint64_t> hashes;
  for (std::int64_t step = 1; step <= 20; ++step) {
    std::uint64_t expected = 0xABCD;
    for (std::int64_t position = (step - 1) * 7; position < step * 7; ++position)
      expected = combine64(expected, static_cast<std::uint64_t>(sampler.sample_at(position)));
    EXPECT_EQ(sampler.sample_hash(step, 7), expected);
    hashes.insert(expected);
  }
  EXPECT_EQ(hashes.size(), 20u);
}

// The order is part of every trained result: these values must never change. They were recomputed
// from the text of sampler.h and philox.h by a script of its own.
TEST(Sampler, OrderIsPinned) {
  const Sampler sampler(1337, 0x0123456789ABCDEF, 1000);
  std::vector<std::int64_t> first;
  for (std::int64_t position = 0; position < 6; ++position)
    first.push_back(sampler.sample_at(position));
  EXPECT_EQ(first, (std::vector<std::int64_t>{143, 454, 88, 937, 842, 83}));
  EXPECT_EQ(sampler.sample_at(5000), 984);
  EXPECT_EQ(sampler.sample_hash(3, 32), 0x84c3ee9fba847789u);
}

TEST(Sampler, TinyOrderIsPinned) {
  EXPECT_EQ(epoch_order(Sampler(1, 2, 4), 3), (std::vector<std::int64_t>{0, 2, 3, 1}));
}

TEST(ContentHash, SeesOrderAndValues) {
  const std::vector<std::int32_t> a{1, 2, 3}, b{2, 1, 3}, c{1, 2};
  EXPECT_EQ(content_hash(a), content_hash(std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_NE(content_hash(a), content_hash(b));
  EXPECT_NE(content_hash(a), content_hash(c));
}

}  // namespace
}  // namespace elaswave::data
