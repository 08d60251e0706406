#include "elastic/member/agent.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "elastic/member/agent_state.h"
#include "io/base/error.h"

namespace elaswave::member {
namespace {

template <typename... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <typename... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

/// How many times its own largest lateness an agent allows its peers to be silent.
constexpr Nanoseconds kLatenessFactor = 8;

}  // namespace

Agent::State::State(const AgentOptions& given)
    : options(given),
      self(given.world_rank),
      members(given.world_size),
      suspected(given.world_size),
      ended(given.world_size),
      gone(given.world_size),
      lives(static_cast<std::size_t>(given.world_size)),
      incarnations(static_cast<std::size_t>(given.world_size)),
      wanted(given.world_size) {
  EW_CHECK(self >= 0 && self < given.world_size, "rank {} of {}", self, given.world_size);
  EW_CHECK(given.heartbeat > 0 && given.silence > given.heartbeat && given.patience > given.silence,
           "heartbeat {} < silence {} < patience {} does not hold", given.heartbeat, given.silence,
           given.patience);
  for (std::int32_t rank = 0; rank < given.world_size; ++rank) members.add(rank);
  view.members = members.list();
}

std::vector<Effect> Agent::State::step(const Event& event, Nanoseconds at) {
  if (over()) return {};
  now = std::max(now, at);
  measure_lateness();
  handle(event);
  if (!over()) tick();
  if (!over()) refresh_overlay();
  if (!over()) {
    // Never in the past: what is due was done above, so a wish in the past would never end.
    const Nanoseconds next = std::max(next_wake(), now + 1);
    if (next != wake_at && next != kNever) emit(WakeAt{next});
    wake_at = next;
  }
  return std::exchange(effects, {});
}

void Agent::State::handle(const Event& event) {
  std::visit(Overloaded{
                 [&](const Started&) {},
                 [&](const LinkOpened& e) { opened(e.peer); },
                 [&](const LinkClosed& e) { closed(e.peer); },
                 [&](const DialRefused& e) { refused(e.peer); },
                 [&](const DialUnreachable& e) { unreachable(e.peer); },
                 [&](const Received& e) { received(e.peer, e.bytes); },
                 [&](const TimerFired&) {},
                 [&](const ClaimHeld& e) { on_claim(e); },
                 [&](const Accused& e) { accused(e.peer); },
                 [&](const Leaving&) { leave(); },
             },
             event);
}

void Agent::State::measure_lateness() {
  if (now >= late_period_end) {
    late_before = std::exchange(late_now, 0);
    late_period_end = now + 10 * options.silence;
  }
  if (now < wake_at) return;
  const Nanoseconds late = wake_at == kNever ? 0 : now - wake_at;
  wake_at = kNever;
  const bool too_late = late > limit() / 2;
  late_now = std::max(late_now, late);
  if (too_late && members.count() > 1) wake_late();
}

Nanoseconds Agent::State::limit() const {
  const Nanoseconds late = std::max(late_now, late_before);
  // A stop of an hour must not let the dead be members for hours.
  const Nanoseconds most = std::max(options.silence, options.patience / 2);
  return std::clamp(std::min(late, most) * kLatenessFactor, options.silence, most);
}

Nanoseconds Agent::State::settle() const {
  return options.heartbeat / 20;
}

void Agent::State::tick() {
  if (!pending()) {
    pending_since = kNever;
  } else {
    if (pending_since == kNever) pending_since = now;
    // Who left in good order cannot vote any more; that matters only now.
    learn_ended(gone & members, -1);
  }
  if (over()) return;
  if (pending_since != kNever && now - pending_since >= options.patience) {
    fence(fmt::format("no view after {} was decided for {} ms: {}", raw(view.generation),
                      (now - pending_since) / 1'000'000, text()));
    return;
  }
  if (waking && now - waking->since >= options.patience) {
    fence("this process was stopped and finds no majority of its neighbours again");
    return;
  }
  watch_silence();
  if (!over()) ask();
  if (over()) return;
  keep_links();
  if (attempt_at() <= now) attempt();
}

Nanoseconds Agent::State::next_wake() const {
  Nanoseconds next = std::min({next_link_wake(), next_question(), attempt_at()});
  if (pending())
    next = std::min(next, (pending_since == kNever ? now : pending_since) + options.patience);
  if (waking) next = std::min(next, waking->since + options.patience);
  return next;
}

std::string Agent::State::text() const {
  std::string pairs;
  for (const auto& [low, high] : severed_pairs(ended, 0)) pairs += fmt::format(" {}-{}", low, high);
  return fmt::format("rank {} in view {} of {}, doubts [{}], ended [{}],{}{} ballot {}.{}{}{}",
                     self, raw(view.generation), view.members.size(),
                     fmt::join(suspected.list(), " "), fmt::join(ended.list(), " "),
                     pairs.empty() ? "" : " severed", pairs, promised.round, promised.proposer,
                     accepted ? ", accepted" : "", waking ? ", waking" : "");
}

Agent::Agent(const AgentOptions& options) : state_(std::make_unique<State>(options)) {}
Agent::~Agent() = default;

std::vector<Effect> Agent::step(const Event& event, Nanoseconds now) {
  return state_->step(event, now);
}
const View& Agent::view() const {
  return state_->view;
}
bool Agent::fenced() const {
  return state_->fenced;
}
std::vector<std::int32_t> Agent::proven_dead() const {
  return state_->ended.list();
}
std::string Agent::text() const {
  return state_->text();
}

}  // namespace elaswave::member
