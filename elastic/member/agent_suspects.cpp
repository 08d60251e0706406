// Suspects: doubts, proofs, and the answers of the doubted.
#include <algorithm>
#include <utility>

#include "elastic/member/agent_state.h"

namespace elaswave::member {

void Agent::State::suspect(std::int32_t rank) {
  if (!members.has(rank) || rank == self || suspected.has(rank)) return;
  learn({{rank, lives[static_cast<std::size_t>(rank)], false}}, -1);
}

void Agent::State::learn_ended(const RankSet& ranks, std::int32_t from) {
  const RankSet fresh = ranks - ended;
  if (fresh.empty()) return;
  std::vector<Doubt> list;
  for (const std::int32_t rank : fresh.list()) list.push_back({rank, 0, true});
  learn(list, from);
}

/// Takes over what is new and passes exactly that on. `from`: who said it; -1: this agent itself.
void Agent::State::learn(const std::vector<Doubt>& doubts_heard, std::int32_t from) {
  std::vector<Doubt> fresh;
  RankSet doubted(options.world_size);
  for (const Doubt& doubt : doubts_heard) {
    if (doubt.rank == self) {
      on_doubted(doubt);
      if (over()) return;
    } else if (learn_one(doubt, from)) {
      fresh.push_back(doubt);
      doubted.add(doubt.rank);
    }
  }
  if (fresh.empty()) return;
  flood({.kind = Kind::suspect, .doubts = std::move(fresh)}, from);
  if (!(doubted & members).empty()) {
    news_at = now;
    if (pending_since == kNever) pending_since = progress_at = now;
  }
  overlay_stale = true;
  // Last: a wave that ends may decide, and then everything above is of the view before.
  for (const std::int32_t rank : doubted.list()) {
    if (over()) return;
    // What a process known to have ended had still on its way could bring back what those who voted
    // since then have not known: nothing is heard of it any more (README, safety).
    if (ended.has(rank))
      close(rank);
    else
      drop_from_wave(rank);
  }
}

/// True: it is new.
bool Agent::State::learn_one(const Doubt& doubt, std::int32_t from) {
  const std::int32_t rank = doubt.rank;
  auto& life = lives[static_cast<std::size_t>(rank)];
  if (ended.has(rank)) return false;
  if (!doubt.ended && !members.has(rank)) return false;
  if (doubt.ended) {
    ended.add(rank);
  } else if (doubt.life < life) {
    // Answered long ago: whoever still says so has not heard the answer.
    if (from >= 0) send(from, {.kind = Kind::alive, .rank = rank, .life = life});
    return false;
  } else {
    const bool known = suspected.has(rank) && doubt.life == life;
    life = doubt.life;
    if (known) return false;
  }
  if (members.has(rank)) {
    suspected.add(rank);
    doubted_at.emplace(rank, now);
  }
  return true;
}

void Agent::State::on_doubted(const Doubt& doubt) {
  if (doubt.ended) {
    fence("the others hold that this process has ended");
    return;
  }
  auto& life = lives[static_cast<std::size_t>(self)];
  if (doubt.life >= life) life = doubt.life + 1;
  flood({.kind = Kind::alive, .rank = self, .life = life}, -1);
}

/// An answer to doubts about `rank` that `from` has brought.
void Agent::State::learn_alive(std::int32_t rank, std::uint32_t answer, std::int32_t from) {
  auto& life = lives[static_cast<std::size_t>(rank)];
  if (answer <= life || rank == self) return;
  life = answer;
  if (suspected.has(rank) && !ended.has(rank)) {
    suspected.remove(rank);
    doubted_at.erase(rank);
    overlay_stale = true;
    if (const auto it = links.find(rank); it != links.end()) {
      it->second.vouched = from != rank && now >= it->second.heard_at + 2 * options.heartbeat;
      it->second.heard_at = now;
    }
  }
  flood({.kind = Kind::alive, .rank = rank, .life = life}, from);
}

std::vector<Doubt> Agent::State::doubts() const {
  std::vector<Doubt> result;
  for (const std::int32_t rank : suspected.list())
    result.push_back({rank, lives[static_cast<std::size_t>(rank)], ended.has(rank)});
  return result;
}

}  // namespace elaswave::member
