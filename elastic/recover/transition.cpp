#include "elastic/recover/transition.h"

#include <algorithm>
#include <tuple>

namespace elaswave::recover {
namespace {

tl::unexpected<Error> inconsistent(const RankInventory& member, const Version& chosen) {
  return fail({.code = Code::unrecoverable,
               .what = "the survivors' states do not fit together",
               .where = fmt::format("recovery, rank {}", member.world_rank),
               .why = fmt::format("it stands at step {} (generation {}), the newest is {} ({})",
                                  raw(member.version.step), raw(member.version.generation),
                                  raw(chosen.step), raw(chosen.generation)),
               .fix = "start again from the newest checkpoint, and report this"});
}

bool newer(const layout::Plan& one, const layout::Plan& other) {
  return std::tuple(raw(one.generation), one.id) > std::tuple(raw(other.generation), other.id);
}

}  // namespace

Result<Choice> choose(std::span<const RankInventory> table) {
  EW_CHECK(!table.empty(), "a view without members");
  Choice choice{.version = table.front().version,
                .reported = table.front().reported,
                .durable = table.front().durable,
                .previous = table.front().layout};
  for (const RankInventory& member : table) {
    choice.version = std::max({choice.version, member.version, member.record_version});
    choice.reported = std::min(choice.reported, member.reported);
    choice.durable = std::max(choice.durable, member.durable);
    choice.given_up = choice.given_up || member.given_up || member.trusted;
    if (member.trusted)
      choice.trusted = std::min(*member.trusted, choice.trusted.value_or(*member.trusted));
    choice.done = choice.done || member.done;
    if (newer(member.layout, choice.previous)) choice.previous = member.layout;
    choice.holdings.members.push_back(member.world_rank);
    choice.holdings.holds.push_back(member.whole);
    choice.holdings.elems.push_back(member.whole_elems);
  }
  if (choice.given_up) return choice;
  bool behind = false;
  for (const RankInventory& member : table) {
    if (member.record_version == choice.version) choice.record = member.record;
    if (member.version == choice.version) continue;
    behind = true;
    if (next(member.version.step) != choice.version.step)
      return inconsistent(member, choice.version);
  }
  if (behind && choice.record.empty()) return inconsistent(table.front(), choice.version);
  if (!behind) choice.record.clear();
  return choice;
}

plan::Holdings all_whole(const plan::Holdings& holdings) {
  plan::Holdings all = holdings;
  for (std::vector<bool>& blocks : all.holds) blocks.assign(blocks.size(), true);
  return all;
}

}  // namespace elaswave::recover
