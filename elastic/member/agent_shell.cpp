#include "elastic/member/agent_shell.h"

#include <type_traits>
#include <utility>
#include <variant>

#include "io/base/error.h"

namespace elaswave::member {

AgentShell::AgentShell(const Parts& parts) : parts_(parts), agent_(parts.agent) {
  EW_CHECK(!parts_.agent.claims || parts_.claims != nullptr,
           "the agent of rank {} may claim and has no store", parts_.agent.world_rank);
}

void AgentShell::start(Nanoseconds now) {
  step(Started{}, now);
}
void AgentShell::opened(int peer, Nanoseconds now) {
  step(LinkOpened{peer}, now);
}
void AgentShell::message(int peer, std::span<const std::byte> bytes, Nanoseconds now) {
  step(Received{peer, bytes}, now);
}
void AgentShell::closed(int peer, Nanoseconds now) {
  step(LinkClosed{peer}, now);
}
void AgentShell::refused(int peer, Nanoseconds now) {
  step(DialRefused{peer}, now);
}
void AgentShell::unreachable(int peer, Nanoseconds now) {
  step(DialUnreachable{peer}, now);
}
void AgentShell::timer(Nanoseconds now) {
  step(TimerFired{}, now);
}
void AgentShell::leave(Nanoseconds now) {
  step(Leaving{}, now);
}
void AgentShell::accuse(int peer, Nanoseconds now) {
  step(Accused{peer}, now);
}

void AgentShell::forget_world() {
  const std::lock_guard lock(world_mutex_);
  world_known_ = false;
}

void AgentShell::step(const Event& event, Nanoseconds now) {
  Answers answers;
  for (const Effect& effect : agent_.step(event, now)) carry_out(effect, now, answers);
  // The store answers at once, the agent hears it after all effects of the step that asked: an
  // agent is never entered from inside its own effects. Fence ends the list, so nothing is asked
  // after it.
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const Event held = std::move(answers[i]);  // moved out: the list grows below
    for (const Effect& effect : agent_.step(held, now)) carry_out(effect, now, answers);
  }
}

void AgentShell::carry_out(const Effect& effect, Nanoseconds now, Answers& answers) {
  std::visit(
      [&](const auto& what) {
        using What = std::decay_t<decltype(what)>;
        if constexpr (std::is_same_v<What, Dial>) {
          parts_.links.dial(what.peer);
        } else if constexpr (std::is_same_v<What, Close>) {
          parts_.links.close(what.peer);
        } else if constexpr (std::is_same_v<What, Send>) {
          parts_.links.send(what.peer, what.bytes);
        } else if constexpr (std::is_same_v<What, WakeAt>) {
          parts_.links.wake_at(what.at);
        } else if constexpr (std::is_same_v<What, Claim>) {
          EW_CHECK(parts_.claims != nullptr, "a claim without a store");
          answers.push_back({what.generation, parts_.claims->claim(what.generation, what.value)});
        } else if constexpr (std::is_same_v<What, Install>) {
          // The board first: a step loop that is woken must find the view it was woken for.
          parts_.board.post({what.view, what.lost, what.suspected_at, now});
          publish(what.view.generation);
        } else {
          static_assert(std::is_same_v<What, Fence>);
          parts_.board.fence(what.why);
          // Ends the waits of this rank, nothing more: the number may be a generation that others
          // decide and use at this moment, but publishing is local and a fenced rank never adopts,
          // so no message of it ever carries that number. The step loop finds fenced() set.
          publish(Generation{raw(agent_.view().generation) + 1});
        }
      },
      effect);
}

void AgentShell::publish(Generation generation) {
  const std::lock_guard lock(world_mutex_);
  if (world_known_) parts_.world.publish_view(generation);
}

}  // namespace elaswave::member
