// Severed pairs: two live ranks that do not reach each other while the others reach both. Who the
// data plane waits for in vain is asked by this agent itself; what others say of it is no answer.
#include <algorithm>
#include <utility>

#include "elastic/member/agent_state.h"

namespace elaswave::member {
namespace {

bool stands(std::uint32_t number) {
  return number % 2 == 1;
}

}  // namespace

void Agent::State::accused(std::int32_t peer) {
  if (waking || peer == self || !members.has(peer) || ended.has(peer) || gone.has(peer)) return;
  questions.emplace(peer, Question{.since = now, .ask_at = now});
}

/// `peer` has answered this agent itself.
void Agent::State::answered(std::int32_t peer) {
  const auto it = questions.find(peer);
  if (it == questions.end()) return;
  const bool told = it->second.severed;
  questions.erase(it);
  if (told) say_severed(peer);  // no more
}

void Agent::State::ask() {
  std::erase_if(questions, [&](const auto& entry) {
    const std::int32_t peer = entry.first;
    return !members.has(peer) || ended.has(peer) || gone.has(peer);
  });
  if (waking) return;
  std::vector<std::int32_t> asked;
  for (const auto& [peer, question] : questions) asked.push_back(peer);
  for (const std::int32_t peer : asked) {
    if (over()) return;
    if (const auto it = questions.find(peer); it != questions.end()) ask(peer, it->second);
  }
}

void Agent::State::ask(std::int32_t peer, Question& question) {
  if (now >= question.ask_at) {
    question.ask_at = now + patience_with_answers() * (question.severed ? 2 : 1);
    Link& link = links[peer];
    if (link.at == Link::At::open && link.greeted)
      send(peer, {.kind = Kind::ping, .nonce = static_cast<std::uint64_t>(question.since)});
    else if (link.at == Link::At::none)
      link.dial_at = std::min(link.dial_at, now);
  }
  // It answers the doubt by way of others, unless it is stopped.
  if (!question.doubted && now >= question.since + patience_with_answers()) {
    question.doubted = true;
    suspect(peer);
    return;
  }
  const bool vouched_for = question.doubted && !suspected.has(peer);
  if (question.severed || !vouched_for || now < question.since + limit()) return;
  question.severed = true;
  say_severed(peer);
}

Nanoseconds Agent::State::next_question() const {
  Nanoseconds next = kNever;
  if (waking) return next;
  for (const auto& [peer, question] : questions) {
    next = std::min(next, question.ask_at);
    if (!question.doubted) next = std::min(next, question.since + patience_with_answers());
    // Later it hangs on an event: the end of the doubt.
    const Nanoseconds until = question.since + limit();
    if (!question.severed && until > now) next = std::min(next, until);
  }
  return next;
}

void Agent::State::say_severed(std::int32_t peer) {
  const auto known = severed.find({self, peer});
  const std::uint32_t number = known == severed.end() ? 0 : known->second.number;
  learn_severed({{self, peer, number + 1}}, -1);
}

/// Takes over what is new and passes exactly that on, as learn() does.
void Agent::State::learn_severed(const std::vector<Severed>& heard, std::int32_t from) {
  std::vector<Severed> fresh, newer;
  for (const Severed& one : heard) {
    if (!members.has(one.by) || !members.has(one.from)) continue;
    Cut& known = severed[{one.by, one.from}];
    if (one.number < known.number) newer.push_back({one.by, one.from, known.number});
    if (one.number <= known.number || (one.by == self && from >= 0)) continue;
    known = {one.number, now};
    fresh.push_back(one);
  }
  if (from >= 0 && !newer.empty()) send(from, {.kind = Kind::severed, .severed = std::move(newer)});
  if (fresh.empty()) return;
  flood({.kind = Kind::severed, .severed = fresh}, from);
  for (const Severed& one : fresh) {
    if (!stands(one.number)) continue;
    news_at = now;
    if (pending_since == kNever) pending_since = progress_at = now;
  }
  // Last, as in learn().
  for (const Severed& one : fresh) {
    if (over()) return;
    if (stands(one.number) && one.by == self) drop_from_wave(one.from);
    if (stands(one.number) && one.from == self) drop_from_wave(one.by);
  }
}

std::vector<Severed> Agent::State::all_severed() const {
  std::vector<Severed> result;
  for (const auto& [pair, cut] : severed) result.push_back({pair.first, pair.second, cut.number});
  return result;
}

/// The pairs of members without `lost` that have been severed for `least` or longer.
std::vector<RankPair> Agent::State::severed_pairs(const RankSet& lost, Nanoseconds least) const {
  const RankSet among = members - lost - gone;
  std::vector<RankPair> result;
  for (const auto& [pair, cut] : severed)
    if (stands(cut.number) && now - cut.since >= least && among.has(pair.first) &&
        among.has(pair.second))
      result.emplace_back(std::min(pair.first, pair.second), std::max(pair.first, pair.second));
  return result;
}

bool Agent::State::severed_from(std::int32_t peer) const {
  const auto told = [&](std::int32_t by, std::int32_t from) {
    const auto it = severed.find({by, from});
    return it != severed.end() && stands(it->second.number);
  };
  return told(self, peer) || told(peer, self);
}

bool Agent::State::mute(std::int32_t peer) const {
  const auto link = links.find(peer);
  return severed_from(peer) || (link != links.end() && link->second.vouched);
}

}  // namespace elaswave::member
