// The faults of the simulated world, and what is said when a simulation ends.
#include <algorithm>
#include <utility>

#include "io/base/hash.h"
#include "parallel/comm/sim_world.h"
#include "parallel/comm/simulator.h"

namespace elaswave::comm {
namespace {

enum Fault : std::uint64_t { kKill = 1, kStop, kGoOn, kCut, kHeal };

}  // namespace

void Simulator::trace_fault(std::uint64_t fault, int one, int other) {
  trace(combine64(
      combine64(fault, static_cast<std::uint64_t>(one) << 32 | static_cast<std::uint32_t>(other)),
      static_cast<std::uint64_t>(now_)));
}

void Simulator::take_off(int world_rank) {
  const auto found = std::find(ready_.begin(), ready_.end(), world_rank);
  if (found != ready_.end()) ready_.erase(found);
}

void Simulator::kill(int world_rank) {
  Rank& rank = rank_at(world_rank);
  if (ending_ || !alive(world_rank)) return;
  trace_fault(kKill, world_rank, 0);
  ++kills_;
  --(rank.stopped ? stopped_count_ : running_count_);
  take_off(world_rank);
  rank.stopped = false;
  rank.state = State::killed;
  network_.killed(world_rank);
  links_.ended(world_rank);
  if (world_rank == running_) leave_running(world_rank);
}

void Simulator::stop(int world_rank) {
  Rank& rank = rank_at(world_rank);
  if (ending_ || rank.stopped || !alive(world_rank)) return;
  trace_fault(kStop, world_rank, 0);
  --running_count_;
  ++stopped_count_;
  take_off(world_rank);
  rank.stopped = true;
  network_.stopped(world_rank);
  links_.stopped(world_rank);
  if (world_rank != running_) return;
  rank.state = State::ready;
  leave_running(world_rank);
}

void Simulator::go_on(int world_rank) {
  Rank& rank = rank_at(world_rank);
  if (ending_ || !rank.stopped) return;
  trace_fault(kGoOn, world_rank, 0);
  ++running_count_;
  --stopped_count_;
  rank.stopped = false;
  if (rank.state == State::ready) ready_.push_back(world_rank);
  network_.went_on(world_rank);
  links_.went_on(world_rank);
}

void Simulator::cut(int one, int other) {
  if (ending_ || !cuts_.insert(std::minmax(one, other)).second) return;
  trace_fault(kCut, one, other);
  links_.cut(one, other);
}

void Simulator::heal(int one, int other) {
  if (ending_ || cuts_.erase(std::minmax(one, other)) == 0) return;
  trace_fault(kHeal, one, other);
  network_.healed(one, other);
}

void Simulator::at(Nanoseconds when, std::function<void()> what) {
  calls_.push_back(std::move(what));
  ++pending_calls_;
  push({std::max(when, now_), 0, kCall, static_cast<std::uint32_t>(calls_.size() - 1)});
}

bool Simulator::alive(int world_rank) const {
  const State state = rank_at(world_rank).state;
  return state != State::finished && state != State::killed;
}

std::string Simulator::state_text(int world_rank) const {
  const Rank& rank = rank_at(world_rank);
  switch (rank.state) {
    case State::finished:
      return fmt::format("rank {} has returned", world_rank);
    case State::killed:
      return fmt::format("rank {} was killed", world_rank);
    default:
      return rank.world->waiting_text() + (rank.stopped ? ", stopped" : "");
  }
}

Error Simulator::escape_error(int world_rank) const {
  const Rank& rank = rank_at(world_rank);
  return {.code = Code::bug,
          .what = fmt::format("an exception left simulated rank {}", world_rank),
          .where = fmt::format("seed {}, {} ns, last {}", options_.seed, now_,
                               rank.world->waiting_text()),
          .why = *rank.escaped,
          .fix = "only the step loop may let StepAborted pass, and it must catch it"};
}

Error Simulator::deadlock_error() const {
  std::string where = fmt::format("seed {}, {} ns", options_.seed, now_);
  for (int world_rank = 0; world_rank < options_.ranks; ++world_rank)
    where += "; " + state_text(world_rank);
  return {
      .code = Code::unrecoverable,
      .what =
          "deadlock: no simulated rank can run, nothing is in flight and no deadline is pending",
      .where = std::move(where),
      .why = fmt::format("{} of {} ranks wait for messages that nobody sends",
                         running_count_ + stopped_count_, options_.ranks),
      .fix = "follow who waits for whom in the list above"};
}

Error Simulator::livelock_error() const {
  return {.code = Code::unrecoverable,
          .what = "livelock: the simulation does not end",
          .where = fmt::format("seed {}, {} ns", options_.seed, now_),
          .why = fmt::format("{} switches and {} calls of agents, the limit (max_switches) is {}",
                             switches_, links_.calls(), options_.max_switches),
          .fix = "look for a rank that polls in a loop; raise max_switches for a long run"};
}

SimulationReport Simulator::report() const {
  SimulationReport report{
      .trace_hash = trace_, .switches = switches_, .kills = kills_, .virtual_time = now_};
  for (const Rank& rank : ranks_) {
    const Messenger& messenger = rank.world->messenger();
    report.messages += messenger.messages();
    report.chunks += messenger.chunks();
    if (rank.state != State::finished) continue;
    report.undrained += messenger.undrained();
    report.buried_requests += messenger.buried_requests();
    report.lent_bytes += messenger.lent_bytes();
  }
  return report;
}

}  // namespace elaswave::comm
