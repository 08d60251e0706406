// The live ranks of a world: what all worlds check about them. Internal to parallel/comm.
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::comm {

inline std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// A message to or from a rank outside the view would never end: it is a bug of the caller.
inline void check_peer(const World& world, std::string_view what, int peer) {
  const auto live = world.live();
  // Everybody lives in nearly every run: then a rank stands at its own place.
  const bool at_its_place = peer >= 0 && static_cast<std::size_t>(peer) < live.size() &&
                            live[static_cast<std::size_t>(peer)] == peer;
  EW_CHECK(at_its_place || std::binary_search(live.begin(), live.end(), peer),
           "{} rank {}, which is not among the {} live ranks of generation {} (size {})", what,
           peer, live.size(), raw(world.generation()), world.size());
}

inline void check_view(const World& world, Generation generation, Generation published,
                       std::span<const int> live) {
  EW_CHECK(generation > world.generation(), "view {} after {}", raw(generation),
           raw(world.generation()));
  EW_CHECK(generation <= published, "view {} was not published, {} is the newest", raw(generation),
           raw(published));
  const bool ascending =
      std::adjacent_find(live.begin(), live.end(), std::greater_equal<>()) == live.end();
  EW_CHECK(ascending && !live.empty() && live.front() >= 0 && live.back() < world.size(),
           "the {} live ranks of view {} are not ascending ranks of {}", live.size(),
           raw(generation), world.size());
  EW_CHECK(std::binary_search(live.begin(), live.end(), world.world_rank()),
           "rank {} enters view {}, which does not name it", world.world_rank(), raw(generation));
}

}  // namespace elaswave::comm
