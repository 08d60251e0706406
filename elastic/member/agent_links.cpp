// Links: who is linked to whom, who is there, and who has fallen silent.
#include <algorithm>
#include <utility>

#include "elastic/member/agent_state.h"

namespace elaswave::member {

void Agent::State::opened(std::int32_t peer) {
  if (peer < 0 || peer >= options.world_size || peer == self) return;
  Link& link = links[peer];
  // What was on its way over the link that this one replaces is lost.
  if (link.at == Link::At::open) drop_from_wave(peer);
  if (over()) return;
  const bool dialled = link.at == Link::At::dialing;
  link = Link{.at = Link::At::open, .dialled = dialled, .heard_at = now, .sent_at = now};
  send(peer,
       {.kind = Kind::hello, .run = options.run, .incarnation = options.incarnation, .rank = self});
}

void Agent::State::closed(std::int32_t peer) {
  const auto it = links.find(peer);
  if (it == links.end() || it->second.at != Link::At::open) return;
  Link& link = it->second;
  const bool agreed = std::exchange(link.unlinked, false);
  link.at = Link::At::none;
  link.greeted = false;
  if (members.has(peer) && !ended.has(peer) && !gone.has(peer)) {
    // Two dials that meet make two links: the higher rank lets the lower one go first.
    link.dial_at = now + (self < peer ? 0 : settle());
    if (!agreed && !waking) suspect(peer);
  }
  drop_from_wave(peer);
}

void Agent::State::refused(std::int32_t peer) {
  const auto it = links.find(peer);
  if (it == links.end() || it->second.at != Link::At::dialing) return;
  it->second.at = Link::At::none;
  if (!members.has(peer) || ended.has(peer) || gone.has(peer)) return;
  // Whoever slept does not know whether those who ended have decided without it: before it has
  // heard from the others again, their end is no ground for anything.
  if (waking)
    it->second.dial_at = now + 4 * options.heartbeat;
  else
    learn_end(peer);
}

void Agent::State::unreachable(std::int32_t peer) {
  const auto it = links.find(peer);
  if (it == links.end() || it->second.at != Link::At::dialing) return;
  it->second.at = Link::At::none;
  it->second.dial_at = now + 4 * options.heartbeat;
  if (!waking && !gone.has(peer) && !severed_from(peer)) suspect(peer);
}

void Agent::State::received(std::int32_t peer, std::span<const std::byte> bytes) {
  const auto it = links.find(peer);
  if (it == links.end() || it->second.at != Link::At::open) return;
  Link& link = it->second;
  const auto message = decode(bytes, options.world_size);
  if (!message ||
      (message->kind == Kind::hello) == link.greeted) {  // garbage, or hello out of place
    close(peer);
    if (wanted.has(peer)) link.dial_at = now + options.heartbeat;
    return;
  }
  link.heard_at = now;
  link.vouched = false;
  if (message->kind == Kind::hello) {
    on_hello(peer, *message);
    return;
  }
  if (same_generation(peer, *message)) dispatch(peer, *message);
}

void Agent::State::on_hello(std::int32_t peer, const Message& message) {
  Link& link = links[peer];
  auto& incarnation = incarnations[static_cast<std::size_t>(peer)];
  if (message.run != options.run || message.rank != peer) {
    // Another run's process listens where the peer did; one that dialled us proves nothing.
    const bool proof = link.dialled && members.has(peer) && !waking;
    close(peer);
    if (proof) learn_end(peer);
    return;
  }
  const bool other = incarnation && *incarnation != message.incarnation;
  if (other || !members.has(peer) || ended.has(peer) || gone.has(peer)) {
    send(peer, {.kind = Kind::stale, .ranks = members, .member = false});
    close(peer);
    if (other) learn_end(peer);
    return;
  }
  incarnation = message.incarnation;
  link.greeted = true;
  if (message.generation < raw(view.generation)) tell(peer);
  // A process that greets lives. It may not have heard of the doubt: this agent answers for it.
  if (suspected.has(peer)) learn_alive(peer, lives[static_cast<std::size_t>(peer)] + 1, peer);
  const std::vector<Doubt> known = doubts();
  if (!known.empty()) send(peer, {.kind = Kind::suspect, .doubts = known});
  if (!severed.empty()) send(peer, {.kind = Kind::severed, .severed = all_severed()});
  answered(peer);
  heard_awake(peer);
}

/// Brings whoever is behind up to the newer view. False: the message has no meaning here.
bool Agent::State::same_generation(std::int32_t peer, const Message& message) {
  const std::uint32_t mine_now = raw(view.generation);
  Link& link = links[peer];
  switch (message.kind) {
    case Kind::decide:
    case Kind::stale:
    case Kind::goodbye:
    case Kind::unlink:
      return true;
    default:
      break;
  }
  if (message.generation > mine_now && link.asked != message.generation) {
    link.asked = message.generation;
    send(peer, {.kind = Kind::heartbeat});  // its generation is what asks
  }
  const bool wave_of_old = message.kind == Kind::prepare || message.kind == Kind::accept;
  if (message.generation < mine_now && (link.told < mine_now || wave_of_old)) tell(peer);
  switch (message.kind) {
    case Kind::prepare:
    case Kind::accept:
    case Kind::echo:
      return message.generation == mine_now;
    default:
      return true;
  }
}

void Agent::State::dispatch(std::int32_t peer, const Message& message) {
  switch (message.kind) {
    case Kind::hello:
    case Kind::heartbeat:
      return;
    case Kind::ping:
      send(peer, {.kind = Kind::pong, .nonce = message.nonce});
      return;
    case Kind::pong:
      if (const auto it = questions.find(peer);
          it != questions.end() && message.nonce == static_cast<std::uint64_t>(it->second.since))
        answered(peer);
      if (waking && message.nonce == static_cast<std::uint64_t>(waking->since)) heard_awake(peer);
      return;
    case Kind::suspect:
      learn(message.doubts, peer);
      return;
    case Kind::alive:
      learn_alive(message.rank, message.life, peer);
      return;
    case Kind::severed:
      learn_severed(message.severed, peer);
      return;
    case Kind::prepare:
    case Kind::accept:
      on_wave(peer, message);
      return;
    case Kind::echo:
      on_echo(peer, message);
      return;
    case Kind::decide:
    case Kind::stale:
      on_view(peer, message);
      return;
    case Kind::goodbye:
      on_goodbye(peer, message.generation);
      return;
    case Kind::unlink:
      on_unlink(peer);
      return;
  }
}

void Agent::State::on_unlink(std::int32_t peer) {
  if (!wanted.has(peer)) close(peer);
}

void Agent::State::send(std::int32_t peer, Message message) {
  const auto it = links.find(peer);
  if (it == links.end() || it->second.at != Link::At::open) return;
  message.generation = raw(view.generation);
  it->second.sent_at = now;
  emit(Send{peer, encode(message)});
}

void Agent::State::flood(const Message& message, std::int32_t except) {
  for (const std::int32_t peer : peers())
    if (peer != except) send(peer, message);
}

void Agent::State::close(std::int32_t peer) {
  const auto it = links.find(peer);
  if (it == links.end()) return;
  if (it->second.at != Link::At::none) emit(Close{peer});
  it->second = Link{};
  drop_from_wave(peer);
}

std::vector<std::int32_t> Agent::State::peers() const {
  std::vector<std::int32_t> result;
  for (const auto& [peer, link] : links)
    if (link.at == Link::At::open && link.greeted && members.has(peer) && !ended.has(peer))
      result.push_back(peer);
  return result;
}

/// Whom this agent wants to be linked to follows from the view and the doubts alone, so that both
/// ends of an edge want it as soon as they have heard the same.
void Agent::State::refresh_overlay() {
  if (!std::exchange(overlay_stale, false)) return;
  wanted = neighbours(members - suspected, self);
  for (const std::int32_t peer : wanted.list()) {
    Link& link = links[peer];
    if (link.at != Link::At::none || link.dial_at != kNever || gone.has(peer)) continue;
    // The lower rank dials; the other one only when that has not happened for long.
    link.dial_at = now + (self < peer ? 0 : options.silence / 2);
  }
  end_waking_if_heard();
  keep_links();
}

void Agent::State::keep_links() {
  const bool quiet = suspected.empty() && !waking &&
                     now >= std::max(installed_at, news_at) + 4 * options.heartbeat;
  for (auto& [peer, link] : links) {
    if (link.at == Link::At::none && now >= link.dial_at) {
      link.dial_at = kNever;
      const bool needed = wanted.has(peer) || suspected.has(peer) || questions.contains(peer);
      if (!needed || ended.has(peer) || gone.has(peer)) continue;
      link.at = Link::At::dialing;
      emit(Dial{peer});
    } else if (link.at == Link::At::open && link.greeted) {
      if (quiet && !wanted.has(peer) && !link.unlinked && !questions.contains(peer)) {
        link.unlinked = true;
        send(peer, {.kind = Kind::unlink});
      }
      if (now >= link.sent_at + options.heartbeat) send(peer, {.kind = Kind::heartbeat});
    }
  }
}

void Agent::State::watch_silence() {
  if (waking) return;
  std::vector<std::int32_t> silent;
  for (const auto& [peer, link] : links)
    if (link.at == Link::At::open && now >= link.heard_at + limit() && members.has(peer) &&
        !suspected.has(peer) && !gone.has(peer))
      silent.push_back(peer);
  for (const std::int32_t peer : silent)
    if (!over()) suspect(peer);
}

Nanoseconds Agent::State::next_link_wake() const {
  Nanoseconds next = kNever;
  for (const auto& [peer, link] : links) {
    if (link.at == Link::At::none) next = std::min(next, link.dial_at);
    if (link.at != Link::At::open) continue;
    if (link.greeted) next = std::min(next, link.sent_at + options.heartbeat);
    if (!waking && !suspected.has(peer) && !gone.has(peer) && members.has(peer))
      next = std::min(next, link.heard_at + limit());
  }
  return next;
}

/// Others may have gone on without this process: it accuses and proposes nothing until it has heard
/// from most of its neighbours again.
void Agent::State::wake_late() {
  waking = Waking{now, RankSet(options.world_size)};
  if (pending_since != kNever) pending_since = now;
  if (mine) give_up();
  // An answer may be there already, unread. Who still waits in vain accuses again.
  std::erase_if(questions, [](const auto& entry) { return !entry.second.severed; });
  for (auto& [peer, link] : links) {
    link.heard_at = now;
    if (link.at == Link::At::open && link.greeted)
      send(peer, {.kind = Kind::ping, .nonce = static_cast<std::uint64_t>(now)});
  }
}

void Agent::State::heard_awake(std::int32_t peer) {
  if (!waking) return;
  waking->heard.add(peer);
  end_waking_if_heard();
}

void Agent::State::end_waking_if_heard() {
  if (!waking) return;
  const RankSet asked = wanted - gone;
  if (2 * (waking->heard & members).count() <= asked.count()) return;
  waking.reset();
  if (pending_since != kNever) pending_since = now;
  for (auto& [peer, link] : links) {
    link.heard_at = now;
    if (link.at == Link::At::none && link.dial_at != kNever) link.dial_at = now;
  }
}

}  // namespace elaswave::member
