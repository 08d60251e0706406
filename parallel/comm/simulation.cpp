#include "parallel/comm/simulation.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <queue>
#include <string>
#include <utility>

#include "io/base/hash.h"
#include "parallel/comm/fiber.h"
#include "parallel/comm/group.h"
#include "parallel/comm/messenger.h"
#include "parallel/comm/wait_watch.h"
#include "parallel/comm/wire_sim.h"

namespace elaswave::comm {
namespace {

constexpr std::int64_t kStackBytes =
    1 << 20;  // mapped, not touched: only what a rank uses costs memory
constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
// What a poll that finds nothing costs, so that time passes for a rank that polls in a loop.
constexpr Nanoseconds kPollTime = 500;
// One in this many sends, receives and probes lets another rank run.
constexpr std::uint64_t kYieldOneIn = 8;
// How often a rank may swallow the end of the simulation before its stack is dropped as it is.
constexpr int kUnwindAttempts = 100;

/// Unwinds the ranks that are left when a simulation ends early. Not a std::exception: nobody may
/// handle it.
struct SimulationEnded {};

class SimWorld;

/// The scheduler: one rank runs at a time, on its own fiber, until it has to wait.
class Simulator final : public SimHost {
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

  Nanoseconds now() const override { return now_; }
  void schedule(Nanoseconds at, std::uint32_t event) override { push({at, 0, kNetwork, event}); }
  void wake(int world_rank) override;
  void trace(std::uint64_t event) override { trace_ = combine64(trace_, event); }
  SimRandom& random() override { return random_; }

 private:
  static constexpr std::int32_t kNetwork = -1;
  struct Event {
    Nanoseconds at = 0;
    std::uint64_t order = 0;
    std::int32_t rank = kNetwork;  // whose timer; kNetwork: the network's
    std::uint32_t network = 0;
    bool operator<(const Event& other) const {  // std::priority_queue keeps the largest on top
      return at != other.at ? at > other.at : order > other.order;
    }
  };
  enum class State : std::uint8_t { ready, running, blocked, finished };
  struct Rank {
    std::unique_ptr<SimWorld> world;
    std::unique_ptr<Fiber> fiber;
    State state = State::ready;
    Nanoseconds until = kNever;     // when a blocked rank runs again at the latest
    Nanoseconds timer_at = kNever;  // its earliest timer event in the queue
    std::optional<std::string> escaped;
  };

  void push(Event event);
  void make_ready(int world_rank);
  bool advance();
  bool timer(const Event& event);
  std::optional<Error> run_one();
  void unwind();
  Error escape_error(int world_rank) const;
  Error deadlock_error() const;
  Error livelock_error() const;
  Result<SimulationReport> report() const;
  Result<void> start(const std::function<void(World&)>& body);

  const SimulationOptions& options_;
  const std::function<void(World&)>& body_;
  SimRandom random_;
  SimNetwork network_;
  std::vector<Rank> ranks_;
  std::vector<int> ready_;
  std::priority_queue<Event> events_;
  std::uint64_t event_count_ = 0;
  Nanoseconds now_ = 0;
  std::uint64_t trace_ = 0;
  std::int64_t switches_ = 0;
  int unfinished_ = 0;
  bool ending_ = false;
};

class SimWorld final : public World, private Clock {
 public:
  SimWorld(Simulator& simulator, std::unique_ptr<Wire> wire, MessengerOptions options,
           ProbeHook hook, std::size_t flight_capacity)
      : simulator_(simulator),
        wire_(std::move(wire)),
        recorder_(flight_capacity),
        watch_(*this),
        messenger_(wire_.get(), wire_->world_rank(), recording(std::move(options))),
        hook_(std::move(hook)) {}

  int world_rank() const override { return wire_->world_rank(); }
  int size() const override { return wire_->size(); }
  Generation generation() const override { return generation_; }
  Clock& clock() override { return *this; }
  FlightRecorder& recorder() override { return recorder_; }
  void set_activity(const Activity& activity) override { watch_.set_activity(activity); }

  Work send(int to, Channel channel, ConstPieces pieces) override {
    EW_CHECK(to >= 0 && to < size(), "send to rank {} of {}", to, size());
    return submit(make_send(to, channel, generation_, std::move(pieces), watch_.step()));
  }
  Work receive(int from, Channel channel, Pieces pieces) override {
    EW_CHECK(from >= 0 && from < size(), "receive from rank {} of {}", from, size());
    return submit(make_receive(from, channel, generation_, std::move(pieces), watch_.step()));
  }
  Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) override;
  bool test(const Work& work) override;
  void publish_view(Generation generation) override {
    published_ = std::max(published_, generation);
    simulator_.wake(world_rank());
  }
  void adopt_view() override {
    EW_CHECK(published_ > generation_, "no view newer than {} was published", raw(generation_));
    generation_ = published_;
    messenger_.enter(generation_);
    watch_.reset();
  }
  void probe(Point point) override {
    elaswave::probe(hook_, point);
    simulator_.maybe_yield(world_rank());
  }
  Result<void> close(Deadline deadline) override;

  Nanoseconds now() const override { return simulator_.now(); }
  void sleep(Nanoseconds duration) override;

  /// What the rank waits for, for reports.
  std::string waiting_text() const;
  const Messenger& messenger() const { return messenger_; }

 private:
  Work submit(TransferPtr transfer) {
    if (!simulator_.ending()) {
      messenger_.submit(transfer);
      simulator_.maybe_yield(world_rank());
    }
    return Work(std::move(transfer));
  }
  // Until nothing moves: what completes starts more, and only what happens later wakes the rank
  // again.
  void poll() {
    while (messenger_.progress()) {
    }
  }
  void block(std::string_view operation, const Transfer* transfer, Nanoseconds until);
  MessengerOptions recording(MessengerOptions options) {
    options.flight = &recorder_.communication;
    options.clock = this;
    return options;
  }

  Simulator& simulator_;
  std::unique_ptr<Wire> wire_;
  FlightRecorder recorder_;
  WaitWatch watch_;
  Messenger messenger_;
  ProbeHook hook_;
  Generation generation_{};
  Generation published_{};
  std::string_view operation_ = "its first instruction";
  const Transfer* waiting_for_ = nullptr;
};

void SimWorld::block(std::string_view operation, const Transfer* transfer, Nanoseconds until) {
  operation_ = operation;
  waiting_for_ = transfer;
  simulator_.block(world_rank(), until);
  waiting_for_ = nullptr;
}

Result<void> SimWorld::wait(const Work& work, std::string_view operation, Deadline deadline) {
  const WaitWatch::Scope scope(watch_);
  const Nanoseconds begin = now();
  for (;;) {
    if (published_ > generation_) {
      messenger_.abandon_all();  // before anybody unwinds: the transport must not touch their
                                 // memory any more
      throw StepAborted(published_);
    }
    poll();
    if (messenger_.failure()) return fail(*messenger_.failure());
    const Transfer* transfer = work.state().get();
    if (transfer == nullptr || transfer->phase == Phase::done) {
      watch_.resumed();
      return {};
    }
    if (transfer->phase == Phase::abandoned)
      return fail(abandoned_error(*transfer, world_rank(), operation));
    if (deadline.passed(*this)) {
      messenger_.fail_all(watch_.deadline_error(*transfer, operation, now() - begin));
      return fail(*messenger_.failure());
    }
    if (watch_.due()) {
      watch_.attend();
      continue;  // other ranks may have run
    }
    watch_.begin(*transfer, operation, deadline);
    block(operation, transfer, watch_.wake_at());
  }
}

bool SimWorld::test(const Work& work) {
  const Transfer* transfer = work.state().get();
  if (transfer == nullptr) return true;
  poll();
  if (!transfer->pending()) return true;
  block("a poll", transfer, now() + kPollTime);
  poll();
  return !transfer->pending();
}

void SimWorld::sleep(Nanoseconds duration) {
  const Nanoseconds until = now() + std::max<Nanoseconds>(duration, 0);
  do block("a sleep", nullptr, until);
  while (now() < until);
}

Result<void> SimWorld::close(Deadline deadline) {
  std::int64_t present = 1;
  EW_TRY(all_reduce_sum(*this, everyone(*this), {&present, 1}, "close", deadline));
  messenger_.flush();
  for (;;) {
    poll();
    if (messenger_.failure()) return fail(*messenger_.failure());
    if (messenger_.idle()) return {};
    if (deadline.passed(*this))
      return fail(
          Error{.code = Code::deadline,
                .what = fmt::format("rank {} cannot close: messages are left over", world_rank()),
                .where = "close" + watch_.place(),
                .why = "a message was sent and never received, or the other way round",
                .fix = "wait for every transfer before close"});
    block("close", nullptr, deadline.at);
  }
}

std::string SimWorld::waiting_text() const {
  std::string text = fmt::format("rank {} in '{}'", world_rank(), operation_);
  if (waiting_for_ != nullptr) text += fmt::format(" ({})", describe(*waiting_for_));
  return text;
}

Simulator::Simulator(const SimulationOptions& options, const std::function<void(World&)>& body)
    : options_(options),
      body_(body),
      random_(options.seed),
      network_(*this, {.ranks = options.ranks,
                       .latency_min = options.latency_min,
                       .latency_max = options.latency_max,
                       .eager_bytes = options.eager_bytes}),
      ranks_(static_cast<std::size_t>(options.ranks)) {}

Simulator::~Simulator() = default;

Result<void> Simulator::start(const std::function<void(World&)>& body) {
  for (int world_rank = 0; world_rank < options_.ranks; ++world_rank) {
    Rank& rank = ranks_[static_cast<std::size_t>(world_rank)];
    const ProbeHook hook = options_.probe ? options_.probe(world_rank) : ProbeHook{};
    MessengerOptions messenger;
    messenger.payload_bytes = options_.chunk_bytes;
    messenger.control_payload_bytes =
        std::min(messenger.control_payload_bytes, options_.chunk_bytes);
    messenger.probe = hook;
    rank.world = std::make_unique<SimWorld>(*this, network_.wire(world_rank), std::move(messenger),
                                            hook, options_.flight_capacity);
    auto run_body = [this, &rank, &body] {
      try {
        if (!ending_) body(*rank.world);
      } catch (const SimulationEnded&) {
        rank.escaped.reset();
      } catch (const std::exception& exception) {
        rank.escaped = exception.what();
      } catch (...) {
        rank.escaped = "an exception that is not a std::exception";
      }
    };
    EW_ASSIGN(rank.fiber, Fiber::make(kStackBytes, std::move(run_body)));
    ready_.push_back(world_rank);
  }
  unfinished_ = options_.ranks;
  return {};
}

Result<SimulationReport> Simulator::run() {
  EW_TRY(start(body_));
  std::optional<Error> error;
  while (unfinished_ > 0 && !error) {
    if (ready_.empty() && !advance())
      error = deadlock_error();
    else if (switches_ >= options_.max_switches)
      error = livelock_error();
    else
      error = run_one();
  }
  unwind();
  if (error) return fail(std::move(*error));
  return report();
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
  trace(static_cast<std::uint64_t>(world_rank) << 48 ^ static_cast<std::uint64_t>(now_));
  rank.fiber->resume();
  if (!rank.fiber->finished()) return std::nullopt;
  rank.state = State::finished;
  --unfinished_;
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
  ranks_[static_cast<std::size_t>(world_rank)].fiber->suspend();
  if (ending_ && std::uncaught_exceptions() == 0) throw SimulationEnded{};
}

void Simulator::push(Event event) {
  event.order = event_count_++;
  events_.push(event);
}

void Simulator::make_ready(int world_rank) {
  ranks_[static_cast<std::size_t>(world_rank)].state = State::ready;
  ready_.push_back(world_rank);
}

void Simulator::wake(int world_rank) {
  if (ranks_[static_cast<std::size_t>(world_rank)].state == State::blocked) make_ready(world_rank);
}

bool Simulator::advance() {
  while (ready_.empty() && !events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    if (event.rank == kNetwork) {
      now_ = std::max(now_, event.at);
      network_.due(event.network);
    } else if (timer(event)) {
      now_ = std::max(now_, event.at);
      make_ready(event.rank);
    }
  }
  return !ready_.empty();
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

Error Simulator::escape_error(int world_rank) const {
  const Rank& rank = ranks_[static_cast<std::size_t>(world_rank)];
  return {.code = Code::bug,
          .what = fmt::format("an exception left simulated rank {}", world_rank),
          .where = fmt::format("seed {}, {} ns, last {}", options_.seed, now_,
                               rank.world->waiting_text()),
          .why = *rank.escaped,
          .fix = "only the step loop may let StepAborted pass, and it must catch it"};
}

Error Simulator::deadlock_error() const {
  std::string where = fmt::format("seed {}, {} ns", options_.seed, now_);
  for (const Rank& rank : ranks_)
    where += "; " + (rank.state == State::finished
                         ? fmt::format("rank {} has returned", rank.world->world_rank())
                         : rank.world->waiting_text());
  return {
      .code = Code::unrecoverable,
      .what =
          "deadlock: no simulated rank can run, nothing is in flight and no deadline is pending",
      .where = std::move(where),
      .why = fmt::format("{} of {} ranks wait for messages that nobody sends", unfinished_,
                         options_.ranks),
      .fix = "follow who waits for whom in the list above"};
}

Error Simulator::livelock_error() const {
  return {.code = Code::unrecoverable,
          .what = "livelock: the simulation does not end",
          .where = fmt::format("seed {}, {} ns", options_.seed, now_),
          .why = fmt::format("{} switches, the limit (max_switches)", switches_),
          .fix = "look for a rank that polls in a loop; raise max_switches for a long run"};
}

Result<SimulationReport> Simulator::report() const {
  SimulationReport report{.trace_hash = trace_,
                          .switches = switches_,
                          .messages = 0,
                          .chunks = 0,
                          .virtual_time = now_};
  for (const Rank& rank : ranks_) {
    report.messages += rank.world->messenger().messages();
    report.chunks += rank.world->messenger().chunks();
  }
  return report;
}

}  // namespace

Result<SimulationReport> simulate(const SimulationOptions& options,
                                  const std::function<void(World&)>& body) {
  EW_CHECK(options.ranks >= 1 && options.chunk_bytes >= 1, "{} ranks, chunks of {} bytes",
           options.ranks, options.chunk_bytes);
  EW_CHECK(0 <= options.latency_min && options.latency_min <= options.latency_max,
           "latency from {} to {} ns", options.latency_min, options.latency_max);
  return Simulator(options, body).run();
}

}  // namespace elaswave::comm
