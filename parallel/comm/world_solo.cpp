// The world of one rank without a launcher. Messages to oneself are matched by the messenger; there
// is no wire.
#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "parallel/comm/live_ranks.h"
#include "parallel/comm/messenger.h"
#include "parallel/comm/simulation.h"

namespace elaswave::comm {
namespace {

class SoloWorld final : public World {
 public:
  SoloWorld(ProbeHook hook, std::size_t flight_capacity)
      : recorder_(flight_capacity),
        messenger_(nullptr, 0, messenger_options()),
        hook_(std::move(hook)) {}

  int world_rank() const override { return 0; }
  int size() const override { return 1; }
  Generation generation() const override { return generation_; }
  std::span<const int> live() const override { return kAlone; }
  Clock& clock() override { return clock_; }
  FlightRecorder& recorder() override { return recorder_; }
  void set_activity(const Activity& activity) override { activity_ = activity; }

  Work send(int to, Channel channel, ConstPieces pieces) override {
    EW_CHECK(to == 0, "send to rank {} of 1", to);
    return submit(make_send(to, channel, generation_, std::move(pieces), activity_.step));
  }
  Work receive(int from, Channel channel, Pieces pieces) override {
    EW_CHECK(from == 0, "receive from rank {} of 1", from);
    return submit(make_receive(from, channel, generation_, std::move(pieces), activity_.step));
  }
  Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) override;
  bool test(const Work& work) override { return !work.state() || !work.state()->pending(); }
  void publish_view(Generation generation) override {
    Generation seen = published_.load();
    while (seen < generation && !published_.compare_exchange_weak(seen, generation)) {
    }
  }
  void adopt_view(Generation generation, std::span<const int> live) override {
    check_view(*this, generation, published_.load(), live);
    generation_ = generation;
    messenger_.enter(generation_, live);
  }
  void probe(Point point) override { elaswave::probe(hook_, point); }
  Result<void> close(Deadline) override { return {}; }

 private:
  static constexpr std::array<int, 1> kAlone{0};

  Work submit(TransferPtr transfer) {
    messenger_.submit(transfer);
    return Work(std::move(transfer));
  }

  MessengerOptions messenger_options() {
    MessengerOptions options;
    options.flight = &recorder_.communication;
    options.clock = &clock_;
    return options;
  }

  RealClock clock_;
  FlightRecorder recorder_;
  Messenger messenger_;
  Activity activity_;
  ProbeHook hook_;
  Generation generation_{};
  std::atomic<Generation> published_{};
};

Result<void> SoloWorld::wait(const Work& work, std::string_view operation, Deadline) {
  const Generation published = published_.load();
  if (published > generation_) {
    messenger_.abandon_all();
    throw StepAborted(published);
  }
  if (messenger_.failure()) return fail(*messenger_.failure());
  if (!work.state() || work.state()->phase == Phase::done) return {};
  if (work.state()->phase == Phase::abandoned)
    return fail(abandoned_error(*work.state(), 0, operation));
  // Nobody else can complete it: waiting out the deadline would change nothing.
  Error error = deadline_error(*work.state(), 0, operation, 0);
  if (activity_.text[0] != 0)
    error.where += fmt::format(", step {}, {}", raw(activity_.step), activity_.text.data());
  error.why = "this rank is alone and the other half of the transfer was not started";
  error.fix = "start the receive before waiting for the send, and the other way round";
  messenger_.fail_all(error);
  return fail(std::move(error));
}

}  // namespace

std::unique_ptr<World> make_solo_world(ProbeHook probe, std::size_t flight_capacity) {
  return std::make_unique<SoloWorld>(std::move(probe), flight_capacity);
}

}  // namespace elaswave::comm
