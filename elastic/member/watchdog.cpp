#include "elastic/member/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "parallel/comm/world.h"
#include "parallel/layout/action.h"

namespace elaswave::member {
namespace {

constexpr Nanoseconds kFactor = 8;  // as for silence (agent.cpp)
constexpr std::size_t kShown = 4;

double seconds(Nanoseconds time) {
  return static_cast<double>(time) / static_cast<double>(kSecond);
}

std::string what_of(const FlightEvent& event) {
  switch (event.kind) {
    case FlightKind::action:
      return layout::to_text(
          {static_cast<layout::Op>(event.detail), event.chunk, event.micro_batch});
    case FlightKind::phase:
      return std::string(name(static_cast<FlightPhase>(event.detail)));
    case FlightKind::wait:
    case FlightKind::send:
    case FlightKind::receive:
      break;
  }
  constexpr std::string_view words[] = {"", "", "wait for", "send to", "receive from"};
  return fmt::format("{} rank {} ({})", words[static_cast<std::size_t>(event.kind)], event.peer,
                     comm::name(static_cast<comm::Channel>(event.detail)));
}

std::string lane_text(const FlightLane& lane, Nanoseconds now) {
  std::vector<FlightEvent> events = lane.snapshot();
  if (events.empty()) return "nothing";
  std::string text;
  const std::size_t shown = std::min(kShown, events.size());
  for (auto event = events.rbegin(); event != events.rbegin() + static_cast<std::ptrdiff_t>(shown);
       ++event)
    text +=
        fmt::format("{}{} in step {} begun {:.3f} s ago, {}", text.empty() ? "" : "; ",
                    what_of(*event), raw(event->step), seconds(now - event->begin),
                    event->end == 0 ? std::string("not ended")
                                    : fmt::format("ended {:.3f} s ago", seconds(now - event->end)));
  return text;
}

}  // namespace

Sight look_at(const FlightRecorder& recorder, std::int32_t world_rank) {
  Sight sight{.turns = recorder.turns.load(std::memory_order_relaxed)};
  const std::uint64_t count = recorder.compute.count();
  const std::optional<FlightEvent> newest = recorder.compute.newest();
  if (!newest) return sight;
  sight.sign = 2 * count + (newest->end == 0 ? 0 : 1);
  if (newest->end != 0) return sight;
  if (newest->kind == FlightKind::wait && newest->peer != world_rank) {
    sight.doing = Sight::Doing::waiting;
    sight.peer = newest->peer;
  } else if (newest->kind == FlightKind::phase &&
             newest->detail == static_cast<std::uint8_t>(FlightPhase::outside)) {
    sight.doing = Sight::Doing::outside;
  }
  return sight;
}

std::string text_of(const WaitVerdict& verdict, const FlightRecorder& recorder, Nanoseconds now) {
  const std::string limit = fmt::format("for {:.1f} s, the limit is {:.1f} s (elastic.hang_ms)",
                                        seconds(verdict.lasted), seconds(verdict.limit));
  if (verdict.kind == WaitVerdict::Kind::in_vain)
    return fmt::format("waiting for rank {} {}; asking its agent", verdict.peer, limit);
  if (verdict.kind == WaitVerdict::Kind::hung)
    return fmt::format(
        "this process hangs: its compute thread waits for no rank and has done nothing {}; newest "
        "first it did: {}; the process ends, the others go on without it",
        limit, lane_text(recorder.compute, now));
  return fmt::format(
      "this process hangs: its communication thread is stuck inside the transport {}; newest first "
      "its messages: {}; the process ends, the others go on without it",
      limit, lane_text(recorder.communication, now));
}

/// `longest`: of all that have ended.
void Watchdog::Stillness::look(std::uint64_t seen, Nanoseconds passed, Nanoseconds& longest) {
  if (seen == sign) {
    lasted += passed;
    return;
  }
  longest = std::max(longest, lasted);
  sign = seen;
  lasted = 0;
}

Nanoseconds Watchdog::limit() const {
  const Nanoseconds late = std::min(std::max(late_now_, late_before_), least_);
  return std::max(least_, kFactor * std::max(longest_, late));
}

void Watchdog::measure_lateness(Nanoseconds late, Nanoseconds now) {
  if (now >= late_period_end_) {
    late_before_ = std::exchange(late_now_, 0);
    late_period_end_ = now + 10 * least_;
  }
  late_now_ = std::max(late_now_, late);
}

std::optional<WaitVerdict> Watchdog::look(const Sight& sight, Nanoseconds now) {
  if (looked_at_ < 0) {
    looked_at_ = now;
    work_ = {.sign = sight.sign};
    turns_ = {.sign = sight.turns};
    waited_ = 0;
    return std::nullopt;
  }
  const Nanoseconds since = now - std::exchange(looked_at_, now);
  measure_lateness(std::max<Nanoseconds>(since - interval_, 0), now);
  const Nanoseconds passed = std::min(since, interval_);

  const bool same_wait = sight.doing == Sight::Doing::waiting && sight.sign == work_.sign;
  waited_ = same_wait ? waited_ + passed : 0;
  work_.look(sight.sign, passed, longest_);
  if (sight.doing != Sight::Doing::working) work_.lasted = 0;
  turns_.look(sight.turns, passed, longest_);
  if (sight.turns == 0) turns_.lasted = 0;

  const Nanoseconds most = limit();
  if (turns_.lasted > most)
    return WaitVerdict{.kind = WaitVerdict::Kind::stuck, .lasted = turns_.lasted, .limit = most};
  if (work_.lasted > most)
    return WaitVerdict{.kind = WaitVerdict::Kind::hung, .lasted = work_.lasted, .limit = most};
  // Whoever hangs ends itself first: then there is nobody to ask about.
  if (waited_ <= 2 * most) return std::nullopt;
  const WaitVerdict verdict{
      .kind = WaitVerdict::Kind::in_vain, .lasted = waited_, .limit = most, .peer = sight.peer};
  waited_ = most;
  return verdict;
}

}  // namespace elaswave::member
