#include "tests/support/agent_network.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/base/hash.h"

namespace elaswave::member {

AgentNetwork::AgentNetwork(const Options& options)
    : options_(options), dice_(options.seed), nodes_(at(options.world_size)), by_kind_(32) {
  Value all;
  for (std::int32_t rank = 0; rank < options.world_size; ++rank) {
    all.push_back(rank);
    nodes_[at(rank)].agent =
        std::make_unique<Agent>(AgentOptions{.world_rank = rank,
                                             .world_size = options.world_size,
                                             .run = 7,
                                             .incarnation = 1000 + static_cast<std::uint64_t>(rank),
                                             .silence = options.silence,
                                             .patience = options.patience,
                                             .claims = options.claims});
  }
  voters_[0] = all;
  for (std::int32_t rank = 0; rank < options.world_size; ++rank) hand(rank, {Started{}, {}});
}

Nanoseconds AgentNetwork::latency() {
  return options_.latency_least + dice_.below(options_.latency_most - options_.latency_least + 1);
}

void AgentNetwork::plan(Nanoseconds time, Do what, std::int32_t a, std::int32_t b,
                        std::uint64_t id) {
  queue_.push({time, ++sequence_, what, a, b, id});
}

void AgentNetwork::run_for(Nanoseconds time) {
  const Nanoseconds end = now_ + time;
  while (!queue_.empty() && queue_.top().time <= end && fault_.empty()) {
    const Planned planned = queue_.top();
    queue_.pop();
    now_ = std::max(now_, planned.time);
    perform(planned);
  }
  now_ = end;
}

void AgentNetwork::perform(const Planned& planned) {
  Node& node = nodes_[at(planned.a)];
  switch (planned.what) {
    case Do::pump:
      pump(planned.a, planned.b, planned.id);
      return;
    case Do::wake:
      if (node.wake_id != planned.id) return;
      node.wake_at = -1;
      hand(planned.a, {TimerFired{}, {}});
      return;
    case Do::dial: {
      if (node.life == Life::dead) return;
      const Node& peer = nodes_[at(planned.b)];
      if (peer.silent_death || cut_.contains(ordered(planned.a, planned.b)))
        plan(now_ + options_.dial_timeout, Do::unreachable, planned.a, planned.b);
      else if (peer.life == Life::dead || peer.life == Life::left)
        plan(now_ + latency(), Do::refused, planned.a, planned.b);
      else
        connect(planned.a, planned.b);
      return;
    }
    case Do::refused:
      if (node.dialing.erase(planned.b) > 0) hand(planned.a, {DialRefused{planned.b}, {}});
      return;
    case Do::unreachable:
      if (node.dialing.erase(planned.b) > 0) hand(planned.a, {DialUnreachable{planned.b}, {}});
      return;
    case Do::claim: {
      const auto it = asked_.find({planned.a, planned.id});
      const auto generation = raw(it->second.generation);
      ClaimHeld held{it->second.generation, std::nullopt};
      // The store lies with the lower half when the network is cut and it is asked for at all.
      if (node.store && node.life != Life::dead)
        held.value = claims_.emplace(generation, it->second.value).first->second;
      asked_.erase(it);
      hand(planned.a, {held, {}});
      return;
    }
    case Do::exit:
      if (node.life == Life::fenced) kill(planned.a);
      return;
  }
}

void AgentNetwork::connect(std::int32_t from, std::int32_t to) {
  Connection& link = links_[ordered(from, to)];
  link = Connection{};
  link.id = ++connections_;
  nodes_[at(from)].dialing.erase(to);
  for (Way& way : link.ways) way.open = true;
  push(from, to, {0, Item::What::open, {}});
  push(to, from, {0, Item::What::open, {}});
}

void AgentNetwork::push(std::int32_t from, std::int32_t to, Item item) {
  const auto it = links_.find(ordered(from, to));
  if (it == links_.end()) return;
  Way& way = it->second.ways[from < to ? 0 : 1];
  if (!way.open) return;
  way.last_ready =
      std::max(way.last_ready, now_ + latency() + nodes_[at(to)].delay * dice_.below(1000) / 1000);
  item.ready_at = way.last_ready;
  if (item.what == Item::What::end) way.open = false;
  plan(item.ready_at, Do::pump, from, to, it->second.id);
  way.items.push_back(std::move(item));
}

void AgentNetwork::pump(std::int32_t from, std::int32_t to, std::uint64_t id) {
  const Pair pair = ordered(from, to);
  while (fault_.empty()) {
    const auto it = links_.find(pair);
    if (it == links_.end() || it->second.id != id || cut_.contains(pair)) return;
    Way& way = it->second.ways[from < to ? 0 : 1];
    if (way.items.empty() || way.items.front().ready_at > now_) return;
    Item item = std::move(way.items.front());
    way.items.pop_front();
    trace_ = combine64(trace_, hash_bytes(item.bytes, combine64(static_cast<std::uint64_t>(now_),
                                                                static_cast<std::uint64_t>(to))));
    switch (item.what) {
      case Item::What::open:
        way.opened = true;
        hand(to, {LinkOpened{from}, {}});
        break;
      case Item::What::bytes:
        hand(to, {Received{from, {}}, std::move(item.bytes)});
        break;
      case Item::What::end:
        links_.erase(it);
        hand(to, {LinkClosed{from}, {}});
        break;
    }
  }
}

/// The peer reads what was sent before, then the end; nothing reaches `rank` any more.
void AgentNetwork::close(std::int32_t rank, std::int32_t peer) {
  nodes_[at(rank)].dialing.erase(peer);
  const auto it = links_.find(ordered(rank, peer));
  if (it == links_.end()) return;
  Way& in = it->second.ways[peer < rank ? 0 : 1];
  in.open = false;
  in.items.clear();
  push(rank, peer, {0, Item::What::end, {}});
}

void AgentNetwork::end_links(std::int32_t rank) {
  std::vector<std::int32_t> others;
  for (const auto& [pair, link] : links_)
    if (pair.first == rank || pair.second == rank)
      others.push_back(pair.first == rank ? pair.second : pair.first);
  for (const std::int32_t peer : others) close(rank, peer);
}

void AgentNetwork::kill(std::int32_t rank) {
  if (life(rank) == Life::dead) return;
  nodes_[at(rank)].life = Life::dead;
  nodes_[at(rank)].inbox.clear();
  end_links(rank);
}

void AgentNetwork::unplug(std::int32_t rank) {
  nodes_[at(rank)].life = Life::dead;
  nodes_[at(rank)].silent_death = true;
}

void AgentNetwork::stop(std::int32_t rank) {
  if (life(rank) == Life::running) nodes_[at(rank)].life = Life::stopped;
}

void AgentNetwork::go_on(std::int32_t rank) {
  Node& node = nodes_[at(rank)];
  if (node.life != Life::stopped) return;
  node.life = Life::running;
  while (node.life == Life::running && !node.inbox.empty() && fault_.empty()) {
    const Waiting waiting = std::move(node.inbox.front());
    node.inbox.pop_front();
    step(rank, waiting);
  }
}

void AgentNetwork::cut(std::int32_t a, std::int32_t b) {
  if (a != b) cut_.insert(ordered(a, b));
}

void AgentNetwork::heal(std::int32_t a, std::int32_t b) {
  if (cut_.erase(ordered(a, b)) == 0) return;
  const auto it = links_.find(ordered(a, b));
  if (it == links_.end()) return;
  plan(now_ + latency(), Do::pump, a, b, it->second.id);
  plan(now_ + latency(), Do::pump, b, a, it->second.id);
}

void AgentNetwork::reset(std::int32_t a, std::int32_t b) {
  const auto it = links_.find(ordered(a, b));
  if (it == links_.end() || !it->second.ways[0].opened || !it->second.ways[1].opened) return;
  links_.erase(it);
  hand(a, {LinkClosed{b}, {}});
  hand(b, {LinkClosed{a}, {}});
}

void AgentNetwork::leave(std::int32_t rank) {
  if (life(rank) != Life::running) return;
  hand(rank, {Leaving{}, {}});
  nodes_[at(rank)].life = Life::left;
}

void AgentNetwork::accuse(std::int32_t by, std::int32_t whom) {
  hand(by, {Accused{whom}, {}});
}

void AgentNetwork::garble(std::int32_t from, std::int32_t to, std::vector<std::byte> bytes) {
  push(from, to, {0, Item::What::bytes, std::move(bytes)});
}

std::vector<std::int32_t> AgentNetwork::live_ranks() const {
  std::vector<std::int32_t> result;
  for (std::int32_t rank = 0; rank < size(); ++rank)
    if (live(rank)) result.push_back(rank);
  return result;
}

bool AgentNetwork::settled() const {
  const auto ranks = live_ranks();
  return std::ranges::all_of(ranks, [&](auto rank) { return agent(rank).view().members == ranks; });
}

void AgentNetwork::hand(std::int32_t rank, Waiting waiting) {
  Node& node = nodes_[at(rank)];
  if (node.life == Life::dead || node.life == Life::left) return;
  if (node.life == Life::stopped) {
    node.inbox.push_back(std::move(waiting));
    return;
  }
  step(rank, waiting);
}

void AgentNetwork::step(std::int32_t rank, const Waiting& waiting) {
  Node& node = nodes_[at(rank)];
  Event event = waiting.event;
  if (auto* received = std::get_if<Received>(&event)) {
    received->bytes = waiting.bytes;
    const auto message = decode(waiting.bytes, size());
    if (message && fires(*message, true)) {
      kill(rank);
      return;
    }
  }
  ++events_;
  const bool was_over = node.life == Life::fenced;
  const std::vector<Effect> effects = node.agent->step(event, now_);
  if (was_over) {
    if (!effects.empty()) wrong(rank, "acts after it has fenced itself");
    return;
  }
  carry_out(rank, effects);
}

void AgentNetwork::carry_out(std::int32_t rank, const std::vector<Effect>& effects) {
  Node& node = nodes_[at(rank)];
  for (const Effect& effect : effects) {
    if (node.life == Life::dead || !fault_.empty()) return;
    if (node.life == Life::fenced) wrong(rank, "an effect follows Fence");
    if (const auto* to = std::get_if<Dial>(&effect)) {
      if (links_.contains(ordered(rank, to->peer))) {
        const Way& in = links_[ordered(rank, to->peer)].ways[to->peer < rank ? 0 : 1];
        if (in.open) continue;  // as ControlLinks: nothing while there is a link
      }
      if (node.dialing.insert(to->peer).second) plan(now_ + latency(), Do::dial, rank, to->peer);
    } else if (const auto* closed = std::get_if<Close>(&effect)) {
      close(rank, closed->peer);
    } else if (const auto* message = std::get_if<Send>(&effect)) {
      send(rank, *message);
    } else if (const auto* wake = std::get_if<WakeAt>(&effect)) {
      node.wake_at = wake->at;
      plan(std::max(now_, wake->at) + node.delay * dice_.below(1000) / 1000, Do::wake, rank, 0,
           ++node.wake_id);
    } else if (const auto* claim = std::get_if<Claim>(&effect)) {
      const std::uint64_t id = ++sequence_;
      asked_[{rank, id}] = *claim;
      plan(now_ + 5 * latency(), Do::claim, rank, 0, id);
    } else if (const auto* install = std::get_if<Install>(&effect)) {
      look_at_install(rank, *install);
    } else {
      node.life = Life::fenced;
      ++fences_;
      plan(now_ + dice_.below(options_.exit_most + 1), Do::exit, rank);
    }
  }
}

void AgentNetwork::send(std::int32_t rank, const Send& effect) {
  const auto message = decode(effect.bytes, size());
  if (!message) {
    wrong(rank, "sends what nobody can read");
    return;
  }
  ++messages_;
  ++by_kind_[static_cast<std::size_t>(message->kind)];
  look_at_message(rank, *message);
  const bool cuts = trigger_ && trigger_->cut_off;
  const bool fired = fires(*message, false);
  if (fired && cuts) cut_off(rank);
  push(rank, effect.peer, {0, Item::What::bytes, effect.bytes});
  // After this message: the rest of what it wanted to say is lost with it.
  if (fired && !cuts) kill(rank);
}

void AgentNetwork::cut_off(std::int32_t rank) {
  for (std::int32_t peer = 0; peer < size(); ++peer) cut(rank, peer);
}

bool AgentNetwork::fires(const Message& message, bool receiver) {
  if (!trigger_ || trigger_->receiver != receiver || trigger_->kind != message.kind) return false;
  if (--trigger_->count > 0) return false;
  trigger_.reset();
  triggered_ = true;
  return true;
}

}  // namespace elaswave::member
