#include "elastic/chaos/injector.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

namespace elaswave::chaos {
namespace {

constexpr auto kPoints = static_cast<std::size_t>(Point::count);

bool has_a_point(Kind kind) {
  return kind == Kind::kill || kind == Kind::stop || kind == Kind::exit || kind == Kind::hang;
}

}  // namespace

struct Injector::State {
  struct Armed {
    Fault fault;
    bool done = false;
    std::int64_t asked = 0;  // corrupt: things of the kind seen in its step
  };

  struct Cut {
    Fault fault;
    std::optional<Nanoseconds> since;
  };

  Faults faults;
  Self self;
  Effects effects;
  std::vector<Armed> armed;  // those that are meant for this rank and happen once

  std::vector<Cut> cuts;  // those with this rank on one side

  mutable std::mutex mutex;  // chunks come and go on another thread
  Step applied{};            // the state there is
  Step begun{};              // the step begun last
  std::array<std::int64_t, kPoints> in_step{}, in_run{};
  Step drawn_in{};  // the step of the last random fault: run again, it has none

  /// What is due at this hit. The lock is held.
  std::optional<Fault> due(Point point);
  /// Cuts that begin with this step. The lock is held.
  void begin_cuts();
  Nanoseconds now() const { return effects.now ? effects.now() : 0; }
  void say(const std::string& text) const {
    if (effects.say) effects.say(text);
  }
  void hit(Point point);
  void act(const Fault& fault, Point point) const;
};

std::optional<Fault> Injector::State::due(Point point) {
  const auto index = static_cast<std::size_t>(point);
  if (point == Point::step_begin) {
    begun = next(applied);
    in_step = {};
    begin_cuts();
  }
  ++in_step[index];
  ++in_run[index];
  // Only now: whatever is due at these two points belongs to the step that they end.
  if (point == Point::after_apply || point == Point::recover_roll_forward) applied = begun;

  for (Armed& one : armed) {
    if (one.done || !has_a_point(one.fault.kind) || one.fault.point != point) continue;
    const std::int64_t hits = one.fault.step ? in_step[index] : in_run[index];
    if ((one.fault.step && *one.fault.step != begun) || hits != one.fault.at) continue;
    one.done = true;
    return one.fault;
  }
  if (!faults.random || drawn_in == begun) return std::nullopt;
  const std::optional<Drawn> random = drawn(*faults.random, self.world_rank, begun);
  if (!random || random->point != point) return std::nullopt;
  drawn_in = begun;
  return Fault{.kind = random->kind, .text = "drawn at random"};
}

void Injector::State::begin_cuts() {
  for (Cut& cut : cuts) {
    if (cut.since || !cut_at(cut.fault, self.world_rank, begun)) continue;
    cut.since = now();
    say(fmt::format("chaos.cut={}: at rank {} from step {} on", cut.fault.text, self.world_rank,
                    raw(begun)));
  }
}

void Injector::State::act(const Fault& fault, Point point) const {
  say(fmt::format("chaos.{}={}: rank {} at {}", name(fault.kind), fault.text, self.world_rank,
                  name(point)));
  if (fault.kind == Kind::kill) effects.kill();
  if (fault.kind == Kind::stop) effects.stop();
  if (fault.kind == Kind::exit) effects.exit(fault.code);
  if (fault.kind == Kind::hang) effects.hang();
}

void Injector::State::hit(Point point) {
  std::optional<Fault> fault;
  {
    const std::lock_guard lock(mutex);
    fault = due(point);
  }
  if (fault) act(*fault, point);
}

Effects process_effects() {
  return {.kill =
              [] {
                ::kill(::getpid(), SIGKILL);
                for (;;) ::pause();  // the signal may reach another thread first
              },
          .stop = [] { ::kill(::getpid(), SIGSTOP); },
          .exit = [](int code) { ::_exit(code); },
          .hang =
              [] {
                for (;;) ::pause();
              },
          .say = {},
          .now = [] { return RealClock().now(); }};
}

Injector::Injector(Faults faults, Self self, Effects effects, Step resumed)
    : state_(std::make_shared<State>()) {
  for (const Fault& fault : faults.list)
    if (fault.kind != Kind::cut && fault.kind != Kind::slow && meant(fault.who, self))
      state_->armed.push_back({fault});
    else if (fault.kind == Kind::cut)
      state_->cuts.push_back({fault, std::nullopt});
  state_->faults = std::move(faults);
  state_->self = std::move(self);
  state_->effects = std::move(effects);
  state_->applied = state_->begun = resumed;
}

ProbeHook Injector::hook() const {
  if (state_->faults.empty()) return {};
  return [state = state_](Point point) { state->hit(point); };
}

void Injector::at_step(Step step) {
  const std::lock_guard lock(state_->mutex);
  state_->applied = step;
}

Step Injector::step() const {
  const std::lock_guard lock(state_->mutex);
  return state_->begun;
}

double Injector::slow_factor() const {
  return chaos::slow_factor(state_->faults, state_->self, step());
}

bool Injector::cut(std::int32_t peer) const {
  const State& s = *state_;
  const std::lock_guard lock(s.mutex);
  return std::any_of(s.cuts.begin(), s.cuts.end(), [&](const State::Cut& one) {
    const auto& lasts = one.fault.lasts_ms;
    const bool over = lasts && s.now() - one.since.value_or(0) >= *lasts * kMillisecond;
    return one.since && !over && chaos::cut(one.fault, s.self.world_rank, peer, s.begun);
  });
}

bool Injector::corrupts(Target target) {
  const std::lock_guard lock(state_->mutex);
  for (State::Armed& one : state_->armed) {
    const Fault& fault = one.fault;
    if (one.done || fault.kind != Kind::corrupt || fault.target != target) continue;
    if (fault.step && *fault.step != state_->begun) continue;
    if (++one.asked < fault.at) continue;
    one.done = true;
    state_->say(fmt::format("chaos.corrupt={}: rank {} spoils a {} in step {}", fault.text,
                            state_->self.world_rank, target == Target::copy ? "copy" : "message",
                            raw(state_->begun)));
    return true;
  }
  return false;
}

}  // namespace elaswave::chaos
