#include "elastic/member/agent_ranks.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <map>

#include "io/base/error.h"

namespace elaswave::member {
namespace {

std::size_t word(std::int32_t rank) {
  return static_cast<std::size_t>(rank) / 64;
}
std::uint64_t bit(std::int32_t rank) {
  return std::uint64_t{1} << (static_cast<std::uint32_t>(rank) % 64);
}

}  // namespace

RankSet::RankSet(std::int32_t world_size)
    : world_size_(world_size), words_((static_cast<std::size_t>(world_size) + 63) / 64) {}

bool RankSet::has(std::int32_t rank) const {
  return rank >= 0 && rank < world_size_ && (words_[word(rank)] & bit(rank)) != 0;
}

void RankSet::add(std::int32_t rank) {
  EW_CHECK(rank >= 0 && rank < world_size_, "rank {} of {}", rank, world_size_);
  words_[word(rank)] |= bit(rank);
}

void RankSet::remove(std::int32_t rank) {
  if (rank >= 0 && rank < world_size_) words_[word(rank)] &= ~bit(rank);
}

std::int32_t RankSet::count() const {
  int sum = 0;
  for (const std::uint64_t bits : words_) sum += std::popcount(bits);
  return sum;
}

std::int32_t RankSet::first() const {
  for (std::size_t i = 0; i < words_.size(); ++i)
    if (words_[i] != 0) return static_cast<std::int32_t>(i * 64) + std::countr_zero(words_[i]);
  return -1;
}

std::int32_t RankSet::below(std::int32_t rank) const {
  if (rank <= 0) return 0;
  int sum = 0;
  for (std::size_t i = 0; i < words_.size() && i < word(rank); ++i) sum += std::popcount(words_[i]);
  if (word(rank) < words_.size()) sum += std::popcount(words_[word(rank)] & (bit(rank) - 1));
  return sum;
}

bool RankSet::contains(const RankSet& other) const {
  EW_CHECK(world_size_ == other.world_size_, "sets of {} and {}", world_size_, other.world_size_);
  for (std::size_t i = 0; i < words_.size(); ++i)
    if ((other.words_[i] & ~words_[i]) != 0) return false;
  return true;
}

std::vector<std::int32_t> RankSet::list() const {
  std::vector<std::int32_t> ranks;
  for (std::size_t i = 0; i < words_.size(); ++i)
    for (std::uint64_t bits = words_[i]; bits != 0; bits &= bits - 1)
      ranks.push_back(static_cast<std::int32_t>(i * 64) + std::countr_zero(bits));
  return ranks;
}

RankSet& RankSet::operator|=(const RankSet& other) {
  EW_CHECK(world_size_ == other.world_size_, "sets of {} and {}", world_size_, other.world_size_);
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  return *this;
}

RankSet& RankSet::operator&=(const RankSet& other) {
  EW_CHECK(world_size_ == other.world_size_, "sets of {} and {}", world_size_, other.world_size_);
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] &= other.words_[i];
  return *this;
}

RankSet& RankSet::operator-=(const RankSet& other) {
  EW_CHECK(world_size_ == other.world_size_, "sets of {} and {}", world_size_, other.world_size_);
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] &= ~other.words_[i];
  return *this;
}

RankSet neighbours(const RankSet& ranks, std::int32_t self) {
  const std::vector<std::int32_t> ring = ranks.list();
  RankSet result(ranks.world_size());
  const std::size_t count = ring.size();
  const auto at = static_cast<std::size_t>(ranks.below(self));
  EW_CHECK(ranks.has(self), "rank {} is not on the ring", self);
  for (std::size_t distance = 1; distance < count; distance *= 2) {
    result.add(ring[(at + distance) % count]);
    result.add(ring[(at + count - distance) % count]);
  }
  return result;
}

RankSet one_of_each(std::vector<RankPair> pairs, std::int32_t world_size) {
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  RankSet result(world_size);
  while (!pairs.empty()) {
    std::map<std::int32_t, int> counts;
    for (const auto& [low, high] : pairs) {
      ++counts[low];
      ++counts[high];
    }
    std::int32_t most = counts.begin()->first;
    for (const auto& [rank, count] : counts)
      if (count >= counts[most]) most = rank;
    result.add(most);
    std::erase_if(
        pairs, [most](const RankPair& pair) { return pair.first == most || pair.second == most; });
  }
  return result;
}

}  // namespace elaswave::member
