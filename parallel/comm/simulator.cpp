#include "parallel/comm/simulator.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "io/base/hash.h"
#include "parallel/comm/messenger.h"
#include "parallel/comm/sim_world.h"

namespace elaswave::comm {
namespace {

// One in this many sends, receives and probes lets another rank run.
constexpr std::uint64_t kYieldOneIn = 8;
// How often a rank may swallow the end of the simulation before its stack is dropped as it is.
constexpr int kUnwindAttempts = 100;
// Agents may talk for ever while all ranks wait for one another: after so long without anything of
// the ranks' own that is a deadlock. Far beyond any time in which agents decide something.
constexpr Nanoseconds kTalkOnly = 600 * kSecond;

SimNetworkOptions network_options(const SimulationOptions& options) {
  return {.ranks = options.ranks,
          .latency_min = options.latency_min,
          .latency_max = options.latency_max,
          .eager_bytes = options.eager_bytes};
}

}  // namespace

Simulator::Simulator(const SimulationOptions& options, const std::function<void(World&)>& body)
    : options_(options),
      body_(body),
      random_(options.seed),
      network_(*this, network_options(options)),
      ranks_(static_cast<std::size_t>(options.ranks)),
      links_(*this, network_options(options)) {}

Simulator::~Simulator() = default;

std::uint64_t Simulator::combine_trace(std::uint64_t trace, std::uint64_t event) {
  return combine64(trace, event);
}

Simulator::Rank& Simulator::rank_at(int world_rank) {
  EW_CHECK(world_rank >= 0 && world_rank < options_.ranks, "rank {} of {}", world_rank,
           options_.ranks);
  return ranks_[static_cast<std::size_t>(world_rank)];
}

const Simulator::Rank& Simulator::rank_at(int world_rank) const {
  EW_CHECK(world_rank >= 0 && world_rank < options_.ranks, "rank {} of {}", world_rank,
           options_.ranks);
  return ranks_[static_cast<std::size_t>(world_rank)];
}

Result<void> Simulator::start_rank(int world_rank) {
  Rank& rank = rank_at(world_rank);
  const ProbeHook hook = options_.probe ? options_.probe(world_rank) : ProbeHook{};
  MessengerOptions messenger;
  messenger.payload_bytes = options_.chunk_bytes;
  messenger.control_payload_bytes = std::min(messenger.control_payload_bytes, options_.chunk_bytes);
  messenger.probe = hook;
  rank.world = std::make_unique<SimWorld>(*this, network_.wire(world_rank), std::move(messenger),
                                          hook, options_.flight_capacity);
  auto run_body = [this, &rank] {
    try {
      if (!ending_) body_(*rank.world);
    } catch (const SimulationEnded&) {
      rank.escaped.reset();
    } catch (const std::exception& exception) {
      rank.escaped = exception.what();
    } catch (...) {
      rank.escaped = "an exception that is not a std::exception";
    }
  };
  EW_ASSIGN(rank.fiber, Fiber::make(options_.stack_bytes, std::move(run_body)));
  ready_.push_back(world_rank);
  ++running_count_;
  return {};
}

Result<void> Simulator::start() {
  for (int world_rank = 0; world_rank < options_.ranks; ++world_rank)
    EW_TRY(start_rank(world_rank));
  if (options_.control) options_.control(*this);
  if (options_.agent)
    for (int world_rank = 0; world_rank < options_.ranks; ++world_rank)
      links_.attach(world_rank, options_.agent(*rank_at(world_rank).world, links_.of(world_rank)));
  links_.start();
  return {};
}

Result<SimulationReport> Simulator::run() {
  EW_TRY(start());
  std::optional<Error> error;
  while (held() && !error) {
    if (switches_ + links_.calls() >= options_.max_switches)
      error = livelock_error();
    else if (!ready_.empty())
      error = run_one();
    else if (!advance())
      error = deadlock_error();
  }
  unwind();
  if (error) return fail(std::move(*error));
  return report();
}

/// Whether somebody keeps the simulation going.
bool Simulator::held() const {
  return running_count_ > 0 || (stopped_count_ > 0 && pending_calls_ > 0);
}

std::optional<Error> Simulator::run_one() {
  const std::size_t pick = ready_.size() == 1 ? 0 : random_.below(ready_.size());
  const int world_rank = ready_[pick];
  ready_[pick] = ready_.back();
  ready_.pop_back();
  Rank& rank = ranks_[static_cast<std::size_t>(world_rank)];
  rank.state = State::running;
  rank.until = kNever;
  ++switches_;
  moved_at_ = now_;
  trace(static_cast<std::uint64_t>(world_rank) << 48 ^ static_cast<std::uint64_t>(now_));
  running_ = world_rank;
  rank.fiber->resume();
  running_ = -1;
  if (!rank.fiber->finished()) return std::nullopt;
  rank.state = State::finished;
  --running_count_;
  links_.ended(world_rank);
  if (rank.escaped) return escape_error(world_rank);
  return std::nullopt;
}

void Simulator::unwind() {
  // Stacks that still hold objects are unwound so that nothing leaks. The outcome is settled
  // already: what runs now can neither send nor wait.
  ending_ = true;
  for (Rank& rank : ranks_)
    for (int i = 0; i < kUnwindAttempts && rank.fiber && !rank.fiber->finished(); ++i)
      rank.fiber->resume();
}

void Simulator::block(int world_rank, Nanoseconds until) {
  Rank& rank = ranks_[static_cast<std::size_t>(world_rank)];
  if (!ending_) {
    rank.state = State::blocked;
    rank.until = until;
    if (until < rank.timer_at) {
      rank.timer_at = until;
      push({until, 0, world_rank, 0});
    }
    rank.fiber->suspend();
  }
  // Thrown again in a destructor of the unwinding it would end the process: there the wait just
  // returns.
  if (ending_ && std::uncaught_exceptions() == 0) throw SimulationEnded{};
  if (ending_) rank.fiber->suspend();
}

void Simulator::maybe_yield(int world_rank) {
  if (ending_ || random_.below(kYieldOneIn) != 0) return;
  make_ready(world_rank);
  leave_running(world_rank);
}

/// Off the processor in the middle of something, to come back when it is picked again.
void Simulator::leave_running(int world_rank) {
  ranks_[static_cast<std::size_t>(world_rank)].fiber->suspend();
  if (ending_ && std::uncaught_exceptions() == 0) throw SimulationEnded{};
}

void Simulator::push(Event event) {
  event.order = event_count_++;
  events_.push(event);
}

void Simulator::make_ready(int world_rank) {
  Rank& rank = ranks_[static_cast<std::size_t>(world_rank)];
  rank.state = State::ready;
  if (!rank.stopped) ready_.push_back(world_rank);
}

void Simulator::wake(int world_rank) {
  if (ranks_[static_cast<std::size_t>(world_rank)].state == State::blocked) make_ready(world_rank);
}

/// Moves time to what happens next until a rank can run. False: that will never be.
bool Simulator::advance() {
  while (ready_.empty() && held()) {
    if (events_.empty()) return false;
    const Event event = events_.top();
    if (event.rank == kLink && hopeless(event)) return false;
    if (links_.calls() >= options_.max_switches) return true;  // a livelock of agents
    events_.pop();
    happen(event);
  }
  return true;
}

/// Agents talk and nothing else will ever happen.
bool Simulator::hopeless(const Event& event) const {
  if (event.at - moved_at_ <= kTalkOnly || pending_calls_ > 0) return false;
  return std::none_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
    return rank.state == State::blocked && !rank.stopped && rank.until != kNever;
  });
}

void Simulator::happen(const Event& event) {
  if (event.rank >= 0) {
    if (!timer(event)) return;
    now_ = std::max(now_, event.at);
    make_ready(event.rank);
    return;
  }
  now_ = std::max(now_, event.at);
  if (event.rank == kNetwork) {
    moved_at_ = now_;
    network_.due(event.index);
  } else if (event.rank == kLink) {
    links_.due(event.index);
  } else {
    --pending_calls_;
    std::exchange(calls_[event.index], {})();
  }
}

/// True when the timer is what its rank waits for. Timers are not taken back when a wait ends
/// otherwise: a rank has at most a few in the queue, and one that comes early is set anew.
bool Simulator::timer(const Event& event) {
  Rank& rank = ranks_[static_cast<std::size_t>(event.rank)];
  if (event.at != rank.timer_at) return false;
  rank.timer_at = kNever;
  if (rank.state != State::blocked) return false;
  if (rank.until <= event.at) return true;
  if (rank.until != kNever) {
    rank.timer_at = rank.until;
    push({rank.until, 0, event.rank, 0});
  }
  return false;
}

}  // namespace elaswave::comm
