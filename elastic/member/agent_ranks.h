// Sets of world ranks, and who is linked to whom. Pure.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace elaswave::member {

/// A set of world ranks below a fixed count, in ascending order.
class RankSet {
 public:
  RankSet() = default;
  explicit RankSet(std::int32_t world_size);

  std::int32_t world_size() const { return world_size_; }
  bool has(std::int32_t rank) const;
  void add(std::int32_t rank);
  void remove(std::int32_t rank);
  std::int32_t count() const;
  bool empty() const { return count() == 0; }
  /// The lowest; -1 of an empty set.
  std::int32_t first() const;
  /// How many are lower than `rank`.
  std::int32_t below(std::int32_t rank) const;
  bool contains(const RankSet& other) const;
  std::vector<std::int32_t> list() const;

  RankSet& operator|=(const RankSet& other);
  RankSet& operator&=(const RankSet& other);
  RankSet& operator-=(const RankSet& other);
  friend RankSet operator|(RankSet a, const RankSet& b) { return a |= b; }
  friend RankSet operator&(RankSet a, const RankSet& b) { return a &= b; }
  friend RankSet operator-(RankSet a, const RankSet& b) { return a -= b; }
  bool operator==(const RankSet&) const = default;

 private:
  std::int32_t world_size_ = 0;
  std::vector<std::uint64_t> words_;  // bits beyond world_size_ are zero
};

/// Whom `self` is linked to when `ranks` (with self among them) form a circulant graph: those at
/// distances 1, 2, 4, ... along the ring of the sorted ranks, both ways. Symmetric: ranks that
/// agree on the set agree on every edge.
RankSet neighbours(const RankSet& ranks, std::int32_t self);

/// World ranks.
using RankPair = std::pair<std::int32_t, std::int32_t>;

/// Ranks without which none of `pairs` is left whole: again and again the one in most of the pairs
/// that are, of equals the highest. A pair that is listed twice counts once.
RankSet one_of_each(std::vector<RankPair> pairs, std::int32_t world_size);

}  // namespace elaswave::member
