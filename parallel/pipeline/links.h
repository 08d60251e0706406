// Between which ranks boundary matrices travel, and how the ways are dealt to lanes. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::pipeline {

/// One direction between two ranks.
struct RankLink {
  std::int32_t from = 0, to = 0;  // world ranks
  std::int32_t lane = 0;          // of two links of one rank, in or out, never the same
  bool operator==(const RankLink&) const = default;
};

/// More lanes than this cost more memory and multiprocessors than they save time.
inline constexpr std::int32_t kMostLinkLanes = 8;

/// Of every message that programs of `plan` send (and of its evaluation plans, which use the same
/// routes), ascending by (from, to). Lanes are dealt greedily in that order: a straight pipeline
/// needs four. A link that finds none of kMostLinkLanes is left out: its messages go another way.
std::vector<RankLink> links(const layout::Plan& plan);

/// One more than the highest lane of any link.
std::int32_t lane_count(const std::vector<RankLink>& links);

}  // namespace elaswave::pipeline
