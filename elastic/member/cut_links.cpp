#include "elastic/member/cut_links.h"

#include <algorithm>

namespace elaswave::member {

bool CutLinks::holds(int peer) {
  return sides_.contains(peer) || !parts_.reachable(peer);
}

void CutLinks::tell(int peer, Nanoseconds now, Told told) {
  now_ = now;
  if (!holds(peer)) return told(now);
  sides_[peer].coming.push_back(std::move(told));
  wake();
}

void CutLinks::start(Nanoseconds now) {
  now_ = now;
  above_->start(now);
}

void CutLinks::opened(int peer, Nanoseconds now) {
  tell(peer, now, [this, peer](Nanoseconds at) { above_->opened(peer, at); });
}

void CutLinks::message(int peer, std::span<const std::byte> bytes, Nanoseconds now) {
  tell(peer, now, [this, peer, copy = std::vector(bytes.begin(), bytes.end())](Nanoseconds at) {
    above_->message(peer, copy, at);
  });
}

void CutLinks::closed(int peer, Nanoseconds now) {
  tell(peer, now, [this, peer](Nanoseconds at) { above_->closed(peer, at); });
}

void CutLinks::refused(int peer, Nanoseconds now) {
  tell(peer, now, [this, peer](Nanoseconds at) { above_->refused(peer, at); });
}

void CutLinks::unreachable(int peer, Nanoseconds now) {
  tell(peer, now, [this, peer](Nanoseconds at) { above_->unreachable(peer, at); });
}

void CutLinks::timer(Nanoseconds now) {
  now_ = now;
  mend(now);
  if (now >= wish_) {
    wish_ = kNoWish;
    above_->timer(now);
  }
  wake();
}

/// What waited at cuts that have healed goes on, and dials into the void come to their end.
void CutLinks::mend(Nanoseconds now) {
  std::vector<int> peers;
  for (const auto& [peer, side] : sides_) peers.push_back(peer);
  for (const int peer : peers) {
    const auto found = sides_.find(peer);
    if (found == sides_.end()) continue;
    if (parts_.reachable(peer)) {
      const Side side = std::move(found->second);
      sides_.erase(found);  // first: the handler may send while it is told
      if (side.dialled) parts_.below.dial(peer);
      for (const auto& bytes : side.leaving) parts_.below.send(peer, bytes);
      for (const Told& told : side.coming) told(now);
    } else if (found->second.dialled && now >= found->second.dial_ends) {
      found->second.dialled = false;
      above_->unreachable(peer, now);
    }
  }
}

void CutLinks::wake() {
  const Nanoseconds next = sides_.empty() ? wish_ : std::min(wish_, now_ + parts_.tick);
  if (next != kNoWish) parts_.below.wake_at(next);
}

void CutLinks::dial(int peer) {
  if (!holds(peer)) return parts_.below.dial(peer);
  Side& side = sides_[peer];
  if (std::exchange(side.dialled, true)) return;
  side.dial_ends = now_ + parts_.dial_timeout;
  wake();
}

void CutLinks::send(int peer, std::span<const std::byte> bytes) {
  if (!holds(peer)) return parts_.below.send(peer, bytes);
  sides_[peer].leaving.emplace_back(bytes.begin(), bytes.end());
  wake();
}

void CutLinks::close(int peer) {
  sides_.erase(peer);
  parts_.below.close(peer);
}

void CutLinks::wake_at(Nanoseconds at) {
  wish_ = at;
  wake();
}

}  // namespace elaswave::member
