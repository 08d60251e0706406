// A rank of the simulated world: the message protocol on the simulated network, waits that hand
// over to the scheduler. Internal to parallel/comm. THREADS: one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/messenger.h"
#include "parallel/comm/simulator.h"
#include "parallel/comm/wait_watch.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

class SimWorld final : public World, private Clock {
 public:
  SimWorld(Simulator& simulator, std::unique_ptr<Wire> wire, MessengerOptions options,
           ProbeHook hook, std::size_t flight_capacity);

  int world_rank() const override { return wire_->world_rank(); }
  int size() const override { return wire_->size(); }
  Generation generation() const override { return generation_; }
  std::span<const int> live() const override { return live_; }
  Clock& clock() override { return *this; }
  FlightRecorder& recorder() override { return recorder_; }
  void set_activity(const Activity& activity) override { watch_.set_activity(activity); }

  Work send(int to, Channel channel, ConstPieces pieces) override;
  Work receive(int from, Channel channel, Pieces pieces) override;
  Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) override;
  bool test(const Work& work) override;
  void publish_view(Generation generation) override;
  void adopt_view(Generation generation, std::span<const int> live) override;
  void probe(Point point) override;
  Result<void> close(Deadline deadline) override;

  Nanoseconds now() const override { return simulator_.now(); }
  void sleep(Nanoseconds duration) override;

  /// What the rank waits for, for reports.
  std::string waiting_text() const;
  const Messenger& messenger() const { return messenger_; }

 private:
  Work submit(TransferPtr transfer);
  void poll();
  void block(std::string_view operation, const Transfer* transfer, Nanoseconds until);
  MessengerOptions recording(MessengerOptions options);

  Simulator& simulator_;
  std::unique_ptr<Wire> wire_;
  FlightRecorder recorder_;
  std::vector<int> live_;
  WaitWatch watch_;
  Messenger messenger_;
  ProbeHook hook_;
  Generation generation_{};
  Generation published_{};
  std::string_view operation_ = "its first instruction";
  const Transfer* waiting_for_ = nullptr;
};

}  // namespace elaswave::comm
