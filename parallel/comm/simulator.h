// The scheduler of the simulated world: one rank runs at a time, on its own fiber, until it has to
// wait; virtual time moves only when nobody can run. Also the faults it is told to commit. Internal
// to parallel/comm. THREADS: one.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "parallel/comm/fiber.h"
#include "parallel/comm/sim_links.h"
#include "parallel/comm/simulation.h"
#include "parallel/comm/wire_sim.h"

namespace elaswave::comm {

class SimWorld;

/// Unwinds the ranks that are left when a simulation ends. Not a std::exception: nobody may handle
/// it.
struct SimulationEnded {};

class Simulator final : public SimHost, public SimulationControl {
 public:
  Simulator(const SimulationOptions& options, const std::function<void(World&)>& body);
  ~Simulator() override;
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  Result<SimulationReport> run();

  // For the ranks, from inside their fibers.
  /// Suspends the rank until it is woken or virtual time reaches `until`.
  void block(int world_rank, Nanoseconds until);
  /// Lets other ranks run now and then.
  void maybe_yield(int world_rank);
  bool ending() const { return ending_; }

  // For the networks, and all of them faults.
  Nanoseconds now() const override { return now_; }
  void schedule(Nanoseconds at, std::uint32_t event) override { push({at, 0, kNetwork, event}); }
  void schedule_link(Nanoseconds at, std::uint32_t event) override { push({at, 0, kLink, event}); }
  bool is_cut(int one, int other) const override {
    return !cuts_.empty() && cuts_.contains(std::minmax(one, other));
  }
  void wake(int world_rank) override;
  void trace(std::uint64_t event) override { trace_ = combine_trace(trace_, event); }
  SimRandom& random() override { return random_; }
  void kill(int world_rank) override;
  void stop(int world_rank) override;
  void go_on(int world_rank) override;
  void cut(int one, int other) override;
  void heal(int one, int other) override;
  void at(Nanoseconds when, std::function<void()> what) override;
  bool alive(int world_rank) const override;

 private:
  static constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
  static constexpr std::int32_t kNetwork = -1, kLink = -2, kCall = -3;
  struct Event {
    Nanoseconds at = 0;
    std::uint64_t order = 0;
    std::int32_t rank = kNetwork;               // whose timer; negative: what else
    std::uint32_t index = 0;                    // the network's, the links' or a call's
    bool operator<(const Event& other) const {  // std::priority_queue keeps the largest on top
      return at != other.at ? at > other.at : order > other.order;
    }
  };
  enum class State : std::uint8_t { ready, running, blocked, finished, killed };
  struct Rank {
    std::unique_ptr<SimWorld> world;
    std::unique_ptr<Fiber> fiber;
    State state = State::ready;
    bool stopped = false;           // not in ready_, whatever its state
    Nanoseconds until = kNever;     // when a blocked rank runs again at the latest
    Nanoseconds timer_at = kNever;  // its earliest timer event in the queue
    std::optional<std::string> escaped;
  };

  static std::uint64_t combine_trace(std::uint64_t trace, std::uint64_t event);
  Rank& rank_at(int world_rank);
  const Rank& rank_at(int world_rank) const;
  Result<void> start();
  Result<void> start_rank(int world_rank);
  void push(Event event);
  void make_ready(int world_rank);
  bool held() const;
  bool advance();
  bool hopeless(const Event& event) const;
  void happen(const Event& event);
  bool timer(const Event& event);
  std::optional<Error> run_one();
  void take_off(int world_rank);
  void trace_fault(std::uint64_t fault, int one, int other);
  void leave_running(int world_rank);
  void unwind();
  Error escape_error(int world_rank) const;
  Error deadlock_error() const;
  Error livelock_error() const;
  std::string state_text(int world_rank) const;
  SimulationReport report() const;

  const SimulationOptions& options_;
  const std::function<void(World&)>& body_;
  SimRandom random_;
  SimNetwork network_;
  std::vector<Rank> ranks_;
  SimLinks links_;  // after the worlds that its handlers name
  std::vector<int> ready_;
  std::priority_queue<Event> events_;
  std::vector<std::function<void()>> calls_;  // by event
  std::set<std::pair<int, int>> cuts_;        // the lower rank first
  std::uint64_t event_count_ = 0;
  Nanoseconds now_ = 0;
  Nanoseconds moved_at_ = 0;  // when a rank ran or data moved last
  std::uint64_t trace_ = 0;
  std::int64_t switches_ = 0;
  std::int64_t kills_ = 0;
  std::int64_t pending_calls_ = 0;
  int running_ = -1;       // the rank on whose fiber we are
  int running_count_ = 0;  // ranks that are neither finished, killed nor stopped
  int stopped_count_ = 0;  // of those that are not finished
  bool ending_ = false;
};

}  // namespace elaswave::comm
