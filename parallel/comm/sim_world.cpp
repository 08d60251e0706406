#include "parallel/comm/sim_world.h"

#include <algorithm>
#include <utility>

#include "parallel/comm/group.h"
#include "parallel/comm/live_ranks.h"

namespace elaswave::comm {
namespace {

// What a poll that finds nothing costs, so that time passes for a rank that polls in a loop.
constexpr Nanoseconds kPollTime = 500;

}  // namespace

SimWorld::SimWorld(Simulator& simulator, std::unique_ptr<Wire> wire, MessengerOptions options,
                   ProbeHook hook, std::size_t flight_capacity)
    : simulator_(simulator),
      wire_(std::move(wire)),
      recorder_(flight_capacity),
      live_(all_ranks(wire_->size())),
      watch_(*this),
      messenger_(wire_.get(), wire_->world_rank(), recording(std::move(options))),
      hook_(std::move(hook)) {}

MessengerOptions SimWorld::recording(MessengerOptions options) {
  options.flight = &recorder_.communication;
  options.clock = this;
  return options;
}

Work SimWorld::send(int to, Channel channel, ConstPieces pieces) {
  check_peer(*this, "send to", to);
  return submit(make_send(to, channel, generation_, std::move(pieces), watch_.step()));
}

Work SimWorld::receive(int from, Channel channel, Pieces pieces) {
  check_peer(*this, "receive from", from);
  return submit(make_receive(from, channel, generation_, std::move(pieces), watch_.step()));
}

Work SimWorld::submit(TransferPtr transfer) {
  if (!simulator_.ending()) {
    messenger_.submit(transfer);
    simulator_.maybe_yield(world_rank());
  }
  return Work(std::move(transfer));
}

// Until nothing moves: what completes starts more, and only what happens later wakes the rank
// again.
void SimWorld::poll() {
  while (!simulator_.ending() && messenger_.progress()) {
  }
}

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

void SimWorld::publish_view(Generation generation) {
  published_ = std::max(published_, generation);
  simulator_.wake(world_rank());
}

void SimWorld::adopt_view(Generation generation, std::span<const int> live) {
  check_view(*this, generation, published_, live);
  generation_ = generation;
  live_.assign(live.begin(), live.end());
  watch_.reset();
  messenger_.enter(generation_, live_);
}

void SimWorld::probe(Point point) {
  elaswave::probe(hook_, point);
  simulator_.maybe_yield(world_rank());
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
    if (messenger_.idle() && messenger_.drained()) return {};
    // A peer died on the way out, after all had come this far: nobody owes anybody anything.
    if (published_ > generation_) return {};
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

}  // namespace elaswave::comm
