// What must never happen to agents, looked for after every event.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "tests/support/agent_network.h"

namespace elaswave::member {

void AgentNetwork::wrong(std::int32_t rank, const std::string& what) {
  if (fault_.empty())
    fault_ = fmt::format("at {} us rank {}: {} ({})", now_ / 1000, rank, what,
                         nodes_[at(rank)].agent->text());
}

void AgentNetwork::look_at_message(std::int32_t rank, const Message& message) {
  for (const Doubt& doubt : message.doubts)
    if (doubt.ended && !ended(life(doubt.rank)))
      wrong(rank, fmt::format("holds that live rank {} has ended", doubt.rank));
  if (message.kind == Kind::accept ||
      (message.kind == Kind::echo && message.phase == Phase::accept && message.ranks.has(rank))) {
    auto& [value, ranks] = accepted_[{message.generation, message.ballot}];
    if (message.kind == Kind::accept) {
      if (!value.empty() && value != message.ranks.list()) wrong(rank, "one ballot, two values");
      value = message.ranks.list();
    }
    ranks.insert(rank);
  }
}

void AgentNetwork::look_at_install(std::int32_t rank, const Install& install) {
  Node& node = nodes_[at(rank)];
  const std::uint32_t generation = raw(install.view.generation);
  const Value& members = install.view.members;
  ++installs_;
  last_install_ = now_;
  if (generation <= node.generation) wrong(rank, "installs a generation it had");
  node.generation = generation;
  if (!std::binary_search(members.begin(), members.end(), rank))
    wrong(rank, "installs a view without itself");
  for (const std::int32_t lost : install.lost) evicted_.insert(lost);
  for (const std::int32_t dead : node.agent->proven_dead())
    if (!ended(life(dead))) wrong(rank, fmt::format("holds that live rank {} has ended", dead));
  auto& values = installed_[generation];
  const bool fresh = !values.contains(members);
  values[members].insert(rank);
  for (const auto& [value, ranks] : values) {
    if (value == members) continue;
    // Nobody who installed or accepted it is left: it is as if it had never been (README).
    const std::optional<std::int32_t> witness = witness_of(generation, value);
    if (!witness)
      ++forgotten_;
    else
      wrong(rank, fmt::format("one generation, two values: [{}] here, [{}] known to {}",
                              fmt::join(members, " "), fmt::join(value, " "), *witness));
  }
  if (fresh) look_for_quorum(rank, install);
  voters_[generation] = members;
  look_for_two(rank);
}

std::optional<std::int32_t> AgentNetwork::witness_of(std::uint32_t generation,
                                                     const Value& value) const {
  for (const std::int32_t rank : installed_.at(generation).at(value))
    if (!ended(life(rank))) return rank;
  for (const auto& [key, record] : accepted_)
    if (key.first == generation - 1 && record.first == value)
      for (const std::int32_t rank : record.second)
        if (!ended(life(rank))) return rank;
  return std::nullopt;
}

/// The first to install a value is who proposed it; its own vote travels nowhere.
void AgentNetwork::look_for_quorum(std::int32_t rank, const Install& install) {
  const std::uint32_t generation = raw(install.view.generation);
  const auto before = voters_.find(generation - 1);
  if (before == voters_.end()) {
    wrong(rank, "installs what follows no view");
    return;
  }
  const Value& voters = before->second;
  const auto half_may = [&](const std::set<std::int32_t>& ranks) {
    if (!options_.claims) return ranks.contains(voters.front());
    const auto claim = claims_.find(generation);
    if (claim == claims_.end()) return false;
    const auto holders = decode_claim(claim->second, size());
    return holders &&
           std::ranges::all_of(holders->list(), [&](auto r) { return ranks.contains(r); });
  };
  for (const auto& [key, record] : accepted_) {
    if (key.first != generation - 1 || record.first != install.view.members) continue;
    std::set<std::int32_t> ranks = record.second;
    ranks.insert(key.second.proposer);
    if (2 * ranks.size() > voters.size()) return;
    if (2 * ranks.size() == voters.size() && half_may(ranks)) return;
    if (std::ranges::all_of(voters, [&](auto r) { return ranks.contains(r) || ended(life(r)); }))
      return;
  }
  // Alone: a ballot that needs no message leaves none to see.
  if (std::ranges::all_of(voters, [&](auto r) { return r == rank || ended(life(r)); })) return;
  if (2 * 1 == voters.size() && half_may({rank})) return;
  wrong(rank, fmt::format("view {} was accepted by no quorum", generation));
}

bool AgentNetwork::whole(const View& view) const {
  return std::ranges::all_of(view.members, [&](auto member) {
    return !ended(life(member)) && agent(member).view() == view;
  });
}

/// Two views that are each held by all of their members could both go on training.
void AgentNetwork::look_for_two(std::int32_t rank) {
  const View& here = agent(rank).view();
  if (!whole(here)) return;
  for (std::int32_t other = 0; other < size(); ++other)
    if (!ended(life(other)) && agent(other).view() != here && whole(agent(other).view()))
      wrong(rank, fmt::format("split brain: [{}] and [{}] both go on", fmt::join(here.members, " "),
                              fmt::join(agent(other).view().members, " ")));
}

}  // namespace elaswave::member
