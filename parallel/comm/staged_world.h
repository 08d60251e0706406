// A World whose messages may lie in device memory that the host must not touch: they pass through
// page-locked host memory. For every transport that moves host memory (MPI, the simulation), and so
// for ranks that share a GPU.
//
//   send:     device -> staging, in order with the kernels issued so far; then the inner world's
//   receive:  the inner world's into staging; then staging -> device, before kernels issued later
//
// A receive is done when its copy is issued: whoever reads on the same stream finds the data.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "parallel/comm/world.h"
#include "parallel/device/buffer.h"
#include "parallel/device/stream.h"

namespace elaswave::comm {

/// THREADS and MEMORY: as World. A rank's device work must end by itself: a wait for a send that
/// the device has not passed yet waits for the device first.
class StagedWorld final : public World {
 public:
  /// `stream` is the one that all device memory of messages is written and read on. Both must
  /// outlive this world.
  StagedWorld(World& inner, device::Stream& stream) : inner_(inner), stream_(stream) {}
  ~StagedWorld() override;
  StagedWorld(const StagedWorld&) = delete;
  StagedWorld& operator=(const StagedWorld&) = delete;

  int world_rank() const override { return inner_.world_rank(); }
  int size() const override { return inner_.size(); }
  Generation generation() const override { return inner_.generation(); }
  std::span<const int> live() const override { return inner_.live(); }
  Clock& clock() override { return inner_.clock(); }
  FlightRecorder& recorder() override { return inner_.recorder(); }
  void set_activity(const Activity& activity) override { inner_.set_activity(activity); }
  void publish_view(Generation generation) override { inner_.publish_view(generation); }
  void probe(Point point) override { inner_.probe(point); }
  /// A message that was not expected allocates.
  void expect(std::span<const Expected> messages) override;

  [[nodiscard]] Work send(int to, Channel channel, ConstPieces pieces) override;
  [[nodiscard]] Work receive(int from, Channel channel, Pieces pieces) override;
  Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) override;
  bool test(const Work& work) override;
  void adopt_view(Generation generation, std::span<const int> live) override;
  Result<void> close(Deadline deadline) override;

  std::int64_t staging_bytes() const override;

 private:
  struct Staging {
    Channel channel = Channel::control;
    Direction direction = Direction::send;
    device::Buffer memory;
    bool taken = false;
    device::Mark free_at{};  // the stream's: no copy from or to it is under way then
  };
  /// A message on its way through staging memory. `outer` is what the caller waits for.
  struct Staged {
    std::shared_ptr<Work::State> outer;
    std::size_t staging = 0;
    device::Mark copied{};   // send: when the bytes are in the staging memory
    bool submitted = false;  // to the inner world
    Work inner;
  };

  template <typename AnyPieces>
  bool hidden(const AnyPieces& pieces) const;
  /// Waits for the stream where all that is large enough is still being copied from or to.
  std::size_t take_staging(const Work::State& message);
  void add_staging(Channel channel, Direction direction, std::int64_t bytes);
  std::span<std::byte> bytes_of(const Staged& staged);
  Staged* find(const Work& work);
  /// Hands sends that the stream has passed over to the inner world, in their order.
  void submit();
  /// The same for all of them: waits for the device.
  Result<void> submit_all(std::string_view operation, Deadline deadline);
  /// The inner world is done with it.
  void finish(Staged& staged);
  Result<void> wait_inside(const Work& work, std::string_view operation, Deadline deadline);
  void give_up();

  World& inner_;
  device::Stream& stream_;
  std::list<Staged> staged_;  // in the order of the calls
  std::vector<Staging> stagings_;
};

}  // namespace elaswave::comm
