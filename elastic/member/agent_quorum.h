// When a set of voters may speak for a view. Pure; the safety argument is in README.md.
#pragma once

#include <cstdint>
#include <optional>

#include "elastic/member/agent_ranks.h"

namespace elaswave::member {

enum class Verdict : std::uint8_t {
  no,
  yes,
  ask,  // exactly half: yes if the claim of the next generation is won for these very voters
};

struct Electorate {
  const RankSet& members;  // of the view that votes
  /// Known to have ended, and known to all who voted when they voted.
  const RankSet& ended;
  bool claims = false;
  /// The half that holds the claim; nothing while nobody asked.
  const std::optional<RankSet>& claim;
};

Verdict judge(const RankSet& votes, const Electorate& electorate);

}  // namespace elaswave::member
