// Views: the next one, older ones of others, and the ends of membership.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "elastic/member/agent_state.h"

namespace elaswave::member {

/// `from`: who said so, -1: this agent's own ballot.
void Agent::State::install(std::uint32_t generation, const RankSet& next, std::int32_t from) {
  const std::vector<std::int32_t> told = peers();
  std::vector<std::int32_t> lost = (members - next).list();
  Nanoseconds suspected_at = now;
  for (const std::int32_t rank : lost)
    if (const auto it = doubted_at.find(rank); it != doubted_at.end())
      suspected_at = std::min(suspected_at, it->second);
  start_generation(generation, next);
  // Those left out are told as well: it is how they learn it first.
  for (const std::int32_t peer : told) {
    if (peer == from) continue;
    links[peer].told = generation;
    send(peer, {.kind = Kind::decide, .ranks = next});
  }
  if (!next.has(self)) {
    fence(fmt::format("this rank is not in view {}", generation));
    return;
  }
  emit(Install{view, std::move(lost), suspected_at});
  for (const std::int32_t rank : told)
    if (!next.has(rank)) close(rank);
}

void Agent::State::start_generation(std::uint32_t generation, const RankSet& next) {
  members = next;
  view = View{Generation{generation}, next.list()};
  suspected = (suspected | ended) & members;
  std::erase_if(doubted_at, [&](const auto& doubt) { return !suspected.has(doubt.first); });
  for (const std::int32_t rank : suspected.list()) doubted_at.emplace(rank, now);
  std::erase_if(severed, [&](const auto& cut) {
    return !members.has(cut.first.first) || !members.has(cut.first.second);
  });
  promised = {};
  accepted.reset();
  wave.reset();
  mine.reset();
  claim.reset();
  highest_round = 0;
  attempted_at = -1;
  installed_at = progress_at = now;
  pending_since = pending() ? now : kNever;
  overlay_stale = true;
}

void Agent::State::on_view(std::int32_t peer, const Message& message) {
  if (message.kind == Kind::stale && !message.member) {
    fence(fmt::format("rank {} holds in view {} that this process is no member", peer,
                      message.generation));
    return;
  }
  if (message.generation > raw(view.generation) && !members.contains(message.ranks))
    close(peer);  // views only shrink: no agent says this
  else if (message.generation > raw(view.generation))
    install(message.generation, message.ranks, peer);
  else if (message.generation < raw(view.generation) && links[peer].told < raw(view.generation))
    tell(peer);
}

void Agent::State::tell(std::int32_t peer) {
  links[peer].told = raw(view.generation);
  send(peer,
       {.kind = Kind::stale, .ranks = members, .member = members.has(peer) && !ended.has(peer)});
}

void Agent::State::fence(const std::string& why) {
  if (over()) return;
  for (auto& [peer, link] : links)
    if (link.at != Link::At::none) emit(Close{peer});
  emit(Fence{why});
  fenced = true;
}

void Agent::State::leave() {
  for (auto& [peer, link] : links) {
    send(peer, {.kind = Kind::goodbye});
    if (link.at != Link::At::none) emit(Close{peer});
  }
  left = true;
}

void Agent::State::on_goodbye(std::int32_t peer, std::uint32_t generation) {
  gone.add(peer);
  drop_from_wave(peer);
  // It came to its end in a view that this process has not heard of, and cannot be asked any more.
  if (generation > raw(view.generation) && members.has(peer)) learn_ended(gone & members, -1);
}

}  // namespace elaswave::member
