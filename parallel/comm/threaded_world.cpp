#include "parallel/comm/threaded_world.h"

#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "io/base/log.h"
#include "parallel/comm/group.h"
#include "parallel/comm/live_ranks.h"
#include "parallel/comm/wait_watch.h"

namespace elaswave::comm {
namespace {

// How long the communication thread sleeps when nothing moved: an eighth of the time since
// something last did, so that a poll comes late by about that share of the wait and an idle rank
// costs next to nothing.
constexpr Nanoseconds kShortestNap = 10'000;
constexpr Nanoseconds kLongestNap = 200'000;
// With no request under way the transport still needs a call now and then: a "completed" small send
// may be queued inside.
constexpr Nanoseconds kIdleNap = 1'000'000;
// The kernel rounds sleeps up by this much; its default of 50 us would be most of a nap.
constexpr unsigned long kTimerSlackNs = 1'000;
// A communication thread that does not answer for so long is stuck inside the transport.
constexpr std::chrono::seconds kStuckAfter{30};
constexpr std::chrono::seconds kLeaveAfter{5};

struct SubmitCommand {
  TransferPtr transfer;
};
struct AbandonCommand {};
struct EnterCommand {
  Generation generation;
  std::vector<int> live;
};
struct CloseCommand {};
struct StopCommand {};
using Command =
    std::variant<SubmitCommand, AbandonCommand, EnterCommand, CloseCommand, StopCommand>;

/// What both threads share. Everything but the atomics, the clock and the recorder is guarded by
/// `mutex`.
struct Mailbox {
  explicit Mailbox(std::size_t flight_capacity) : recorder(flight_capacity) {}
  RealClock clock;
  FlightRecorder recorder;  // each thread writes its own lane
  std::mutex mutex;
  std::condition_variable for_communication;
  std::condition_variable for_compute;
  std::vector<Command> commands;
  std::uint64_t submitted = 0;        // commands ever put in
  std::uint64_t handled = 0;          // commands ever acted on
  bool napping = false;               // the communication thread waits for commands
  const Transfer* awaited = nullptr;  // what the compute thread waits for, if anything
  std::optional<Error> failure;       // why all transfers ended; cleared by EnterCommand
  std::optional<Result<void>> closed;
  bool opened = false;
  std::optional<Error> open_error;
  int world_rank = 0;
  int size = 0;
  bool exited = false;
  std::atomic<Generation> published{};
};

/// The communication thread's side. Owns the wire and the messenger; shares only the mailbox.
class CommunicationThread {
 public:
  CommunicationThread(std::shared_ptr<Mailbox> mailbox, MessengerOptions options)
      : mailbox_(std::move(mailbox)), options_(std::move(options)) {}

  void run(const OpenWire& open) {
    prctl(PR_SET_TIMERSLACK, kTimerSlackNs, 0, 0, 0);
    if (open_wire(open)) loop();
    std::lock_guard lock(mailbox_->mutex);
    mailbox_->exited = true;
    mailbox_->for_compute.notify_all();
  }

 private:
  enum class Next : std::uint8_t { go_on, stop };

  bool open_wire(const OpenWire& open) {
    auto opened = open();
    if (opened) {
      wire_ = std::move(*opened);
      messenger_.emplace(wire_.get(), wire_->world_rank(), std::move(options_));
    }
    std::lock_guard lock(mailbox_->mutex);
    mailbox_->opened = true;
    if (opened) {
      mailbox_->world_rank = wire_->world_rank();
      mailbox_->size = wire_->size();
    } else {
      mailbox_->open_error = std::move(opened).error();
    }
    mailbox_->for_compute.notify_all();
    return wire_ != nullptr;
  }

  void loop() {
    last_moved_ = clock_.now();
    std::vector<Command> commands;
    for (;;) {
      commands.clear();
      {
        std::lock_guard lock(mailbox_->mutex);
        commands.swap(mailbox_->commands);
      }
      for (Command& command : commands)
        if (handle(command) == Next::stop) return;
      // After its end the transport must not be called again.
      const bool moved = (!wire_closed_ && messenger_->progress()) || !commands.empty();
      if (closing_ && messenger_->idle() && messenger_->drained()) finish_close();
      if (moved) last_moved_ = clock_.now();
      report(commands.size(), moved);
      if (!wire_closed_) mailbox_->recorder.turns.fetch_add(1, std::memory_order_relaxed);
    }
  }

  Next handle(Command& command) {
    if (auto* submit = std::get_if<SubmitCommand>(&command)) messenger_->submit(submit->transfer);
    if (std::holds_alternative<AbandonCommand>(command)) messenger_->abandon_all();
    if (auto* enter = std::get_if<EnterCommand>(&command)) {
      messenger_->enter(enter->generation, enter->live);
      generation_ = enter->generation;
    }
    if (std::holds_alternative<CloseCommand>(command)) {
      messenger_->flush();
      closing_ = true;
    }
    return std::holds_alternative<StopCommand>(command) ? Next::stop : Next::go_on;
  }

  /// Tells the compute thread what happened and, when nothing did, naps.
  void report(std::size_t handled, bool moved) {
    std::unique_lock lock(mailbox_->mutex);
    mailbox_->handled += handled;
    mailbox_->failure = messenger_->failure();
    const bool awaited_ended =
        mailbox_->awaited != nullptr && (!mailbox_->awaited->pending() || mailbox_->failure);
    if (handled > 0 || awaited_ended) mailbox_->for_compute.notify_all();
    if (moved || !mailbox_->commands.empty()) return;
    const Nanoseconds longest = messenger_->watching() ? kLongestNap : kIdleNap;
    const Nanoseconds nap = std::clamp((clock_.now() - last_moved_) / 8, kShortestNap, longest);
    mailbox_->napping = true;
    mailbox_->for_communication.wait_for(lock, std::chrono::nanoseconds(nap));
    mailbox_->napping = false;
  }

  void finish_close() {
    closing_ = false;
    // After a failure the transport's own end would wait for the dead (facts in README): leave it
    // as it is.
    const bool whole = generation_ == Generation{} && !messenger_->failure();
    mailbox_->recorder.turns = 0;  // in there it waits for its peers
    Result<void> closed = whole ? wire_->close() : Result<void>{};
    wire_closed_ = whole;
    std::lock_guard lock(mailbox_->mutex);
    mailbox_->closed = std::move(closed);
    mailbox_->for_compute.notify_all();
  }

  std::shared_ptr<Mailbox> mailbox_;
  MessengerOptions options_;
  RealClock clock_;
  std::unique_ptr<Wire> wire_;
  std::optional<Messenger> messenger_;
  Generation generation_{};
  Nanoseconds last_moved_ = 0;
  bool closing_ = false;
  bool wire_closed_ = false;
};

class ThreadedWorld final : public World {
 public:
  ThreadedWorld(OpenWire open, MessengerOptions options, std::size_t flight_capacity)
      : mailbox_(std::make_shared<Mailbox>(flight_capacity)), hook_(options.probe) {
    options.flight = &mailbox_->recorder.communication;
    options.clock = &mailbox_->clock;
    auto communication = std::make_shared<CommunicationThread>(mailbox_, std::move(options));
    thread_ = std::thread([communication, open = std::move(open)] { communication->run(open); });
  }
  ThreadedWorld(const ThreadedWorld&) = delete;
  ThreadedWorld& operator=(const ThreadedWorld&) = delete;
  ~ThreadedWorld() override;

  Result<void> wait_until_open();

  int world_rank() const override { return world_rank_; }
  int size() const override { return size_; }
  Generation generation() const override { return generation_; }
  std::span<const int> live() const override { return live_; }
  Clock& clock() override { return mailbox_->clock; }
  FlightRecorder& recorder() override { return mailbox_->recorder; }
  void set_activity(const Activity& activity) override { watch_.set_activity(activity); }
  Work send(int to, Channel channel, ConstPieces pieces) override;
  Work receive(int from, Channel channel, Pieces pieces) override;
  Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) override;
  bool test(const Work& work) override { return !work.state() || !work.state()->pending(); }
  void publish_view(Generation generation) override;
  void adopt_view(Generation generation, std::span<const int> live) override;
  void probe(Point point) override { elaswave::probe(hook_, point); }
  Result<void> close(Deadline deadline) override;

 private:
  void put(Command command);
  void put_and_wait(Command command);
  Error end_all(Error error);
  std::chrono::steady_clock::time_point wake_time(Deadline deadline) const;

  std::shared_ptr<Mailbox> mailbox_;
  std::thread thread_;
  ProbeHook hook_;
  int world_rank_ = 0;
  int size_ = 0;
  std::vector<int> live_;
  Generation generation_{};
  std::optional<Error> failure_;  // this side's reason for having ended all transfers (a deadline)
  WaitWatch watch_{*this};
};

ThreadedWorld::~ThreadedWorld() {
  put(StopCommand{});
  std::unique_lock lock(mailbox_->mutex);
  const bool exited =
      mailbox_->for_compute.wait_for(lock, kLeaveAfter, [this] { return mailbox_->exited; });
  lock.unlock();
  if (exited) {
    thread_.join();
  } else {
    log_warn("the communication thread is stuck inside the transport; leaving it behind");
    thread_.detach();
  }
}

Result<void> ThreadedWorld::wait_until_open() {
  std::unique_lock lock(mailbox_->mutex);
  // No deadline of ours: how long ranks may take to start is the launcher's business, which also
  // ends the attempt.
  mailbox_->for_compute.wait(lock, [this] { return mailbox_->opened; });
  if (mailbox_->open_error) return fail(*mailbox_->open_error);
  world_rank_ = mailbox_->world_rank;
  size_ = mailbox_->size;
  live_ = all_ranks(size_);
  return {};
}

void ThreadedWorld::put(Command command) {
  std::lock_guard lock(mailbox_->mutex);
  mailbox_->commands.push_back(std::move(command));
  ++mailbox_->submitted;
  if (mailbox_->napping) mailbox_->for_communication.notify_one();
}

void ThreadedWorld::put_and_wait(Command command) {
  put(std::move(command));
  std::unique_lock lock(mailbox_->mutex);
  const bool answered = mailbox_->for_compute.wait_for(lock, kStuckAfter, [this] {
    return mailbox_->handled == mailbox_->submitted || mailbox_->exited;
  });
  EW_CHECK(answered, "the communication thread of rank {} is stuck inside the transport",
           world_rank_);
}

Work ThreadedWorld::send(int to, Channel channel, ConstPieces pieces) {
  check_peer(*this, "send to", to);
  auto transfer = make_send(to, channel, generation_, std::move(pieces), watch_.step());
  put(SubmitCommand{transfer});
  return Work(std::move(transfer));
}

Work ThreadedWorld::receive(int from, Channel channel, Pieces pieces) {
  check_peer(*this, "receive from", from);
  auto transfer = make_receive(from, channel, generation_, std::move(pieces), watch_.step());
  put(SubmitCommand{transfer});
  return Work(std::move(transfer));
}

std::chrono::steady_clock::time_point ThreadedWorld::wake_time(Deadline deadline) const {
  // At most a minute at a time: a deadline that means "never" must not overflow.
  const Nanoseconds left =
      std::clamp<Nanoseconds>(deadline.at - mailbox_->clock.now(), 0, 60 * kSecond);
  return std::chrono::steady_clock::now() + std::chrono::nanoseconds(left);
}

Error ThreadedWorld::end_all(Error error) {
  if (!failure_) failure_ = std::move(error);
  put_and_wait(AbandonCommand{});
  return *failure_;
}

Result<void> ThreadedWorld::wait(const Work& work, std::string_view operation, Deadline deadline) {
  const WaitWatch::Scope scope(watch_);
  const Transfer* transfer = work.state().get();
  const Nanoseconds begin = mailbox_->clock.now();
  for (;;) {
    const Generation published = mailbox_->published.load();
    if (published > generation_) {
      put_and_wait(
          AbandonCommand{});  // before anybody unwinds: the transport must let go of their memory
      throw StepAborted(published);
    }
    if (failure_) return fail(*failure_);
    if (transfer == nullptr || transfer->phase.load(std::memory_order_acquire) == Phase::done) {
      watch_.resumed();
      return {};
    }
    if (watch_.due()) watch_.attend();
    std::unique_lock lock(mailbox_->mutex);
    if (mailbox_->failure) return fail(*mailbox_->failure);
    if (transfer->phase.load(std::memory_order_acquire) == Phase::abandoned)
      return fail(abandoned_error(*transfer, world_rank_, operation));
    if (deadline.passed(mailbox_->clock)) {
      lock.unlock();
      return fail(
          end_all(watch_.deadline_error(*transfer, operation, mailbox_->clock.now() - begin)));
    }
    watch_.begin(*transfer, operation, deadline);
    mailbox_->awaited = transfer;
    if (transfer->pending() && mailbox_->published.load() == published)
      mailbox_->for_compute.wait_until(lock, wake_time({watch_.wake_at()}));
    mailbox_->awaited = nullptr;
  }
}

void ThreadedWorld::publish_view(Generation generation) {
  std::lock_guard lock(mailbox_->mutex);  // so that a wait cannot look and fall asleep in between
  if (mailbox_->published.load() < generation) mailbox_->published.store(generation);
  mailbox_->for_compute.notify_all();
}

void ThreadedWorld::adopt_view(Generation generation, std::span<const int> live) {
  check_view(*this, generation, mailbox_->published.load(), live);
  put_and_wait(EnterCommand{generation, {live.begin(), live.end()}});
  generation_ = generation;
  live_.assign(live.begin(), live.end());
  failure_.reset();
  watch_.reset();
}

Result<void> ThreadedWorld::close(Deadline deadline) {
  std::int64_t present = 1;
  EW_TRY(all_reduce_sum(*this, everyone(*this), {&present, 1}, "close", deadline));
  put(CloseCommand{});
  std::unique_lock lock(mailbox_->mutex);
  // All have come this far, so nobody owes anybody anything. Should a peer die in the transport's
  // own end, there is no end to wait for.
  const bool over = mailbox_->for_compute.wait_until(lock, wake_time(deadline), [this] {
    return mailbox_->closed.has_value() || mailbox_->published.load() > generation_;
  });
  if (mailbox_->closed) return *mailbox_->closed;
  if (over) return {};
  return fail(Error{.code = Code::deadline,
                    .what = fmt::format("rank {} cannot close its transport", world_rank_),
                    .where = fmt::format("rank {}, close{}", world_rank_, watch_.place()),
                    .why = "messages were sent and never received, or a peer does not end",
                    .fix = "see the errors of the other ranks"});
}

}  // namespace

Result<std::unique_ptr<World>> make_threaded_world(OpenWire open, MessengerOptions options,
                                                   std::size_t flight_capacity) {
  auto world =
      std::make_unique<ThreadedWorld>(std::move(open), std::move(options), flight_capacity);
  EW_TRY(world->wait_until_open());
  return world;
}

}  // namespace elaswave::comm
