#include "elastic/member/agent_quorum.h"

#include "io/base/mutant.h"

namespace elaswave::member {
namespace {

/// Exactly half. Two halves need not meet, so one of them at most may count: the one that holds the
/// claim, or the one with the lowest member.
Verdict judge_half(const RankSet& votes, const Electorate& electorate) {
  if (mutant(Mutant::tie_won_twice)) return Verdict::yes;
  if (!electorate.claims) return votes.has(electorate.members.first()) ? Verdict::yes : Verdict::no;
  if (!electorate.claim) return Verdict::ask;
  return *electorate.claim == votes ? Verdict::yes : Verdict::no;
}

}  // namespace

Verdict judge(const RankSet& votes, const Electorate& electorate) {
  const RankSet counted = votes & electorate.members;
  // Of all members: "of those not known to have ended" would let two sets decide (README).
  const std::int32_t members = electorate.members.count();
  if (2 * counted.count() > members) return Verdict::yes;
  // Nobody else is left who could know of another decision.
  if (counted.contains(electorate.members - electorate.ended)) return Verdict::yes;
  if (2 * counted.count() == members) return judge_half(counted, electorate);
  return Verdict::no;
}

}  // namespace elaswave::member
