// World: the transport between world ranks behind one interface. Messages of any length, tagged by
// channel, delivered in order within (peer, channel). No collective, no wildcard, no communicator.
// Implementations: world_mpi (host memory over MPI point-to-point) and simulation (all ranks in one
// process under a seeded scheduler and a virtual clock). Nothing outside parallel/comm knows which
// of them it runs in.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "io/base/clock.h"
#include "io/base/error.h"
#include "io/base/flight_recorder.h"
#include "io/base/probe.h"
#include "io/base/types.h"

namespace elaswave::comm {

/// Independent message sequences between two ranks. A channel also fixes the size class of its
/// chunks.
enum class Channel : std::uint8_t {
  control,   // commit point, barriers, inventories: small messages
  reduce,    // integer gradient sums to their owners
  gather,    // working weights from their owners
  pipeline,  // activations and their gradients
  state,     // master weights and moments on the move
  tensor,    // rows of activations between the slices of a replica
  watch,     // who waits for whom, told when a wait takes long: the worlds' own
  drain,     // what was sent in older generations: the messenger's own
  count,
};

constexpr std::string_view name(Channel channel) {
  constexpr std::string_view names[] = {"control", "reduce", "gather", "pipeline",
                                        "state",   "tensor", "watch",  "drain"};
  static_assert(std::size(names) == static_cast<std::size_t>(Channel::count));
  return names[static_cast<std::size_t>(channel)];
}

using ConstPieces = std::vector<std::span<const std::byte>>;
using Pieces = std::vector<std::span<std::byte>>;

enum class Direction : std::uint8_t { send, receive };

/// Messages of one kind that may be under way at once, from the call of send() or receive() until
/// the work is known to be done.
struct Expected {
  Channel channel = Channel::control;
  Direction direction = Direction::send;
  std::int64_t bytes = 0;  // of the largest
  std::int64_t count = 0;
};

/// A transfer under way. Cheap to copy; all copies name the same transfer. A default Work is done.
class Work {
 public:
  struct State;
  Work() = default;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

/// What a rank is at: goes into hang reports and recorded messages.
struct Activity {
  Step step{};
  std::array<char, 32> text{};  // "2F13", "reduce layer 5", "commit"; ends with a zero

  constexpr Activity() = default;
  /// Text beyond 31 characters is cut.
  constexpr Activity(Step at, std::string_view what) : step(at) {
    std::copy_n(what.begin(), std::min(what.size(), text.size() - 1), text.begin());
  }
};

/// The one exception type: thrown out of waits when a newer view than the caller's was published.
/// Caught in one place, the step loop. Nothing waits inside a catch block or a destructor.
class StepAborted final : public std::exception {
 public:
  explicit StepAborted(Generation generation) : generation_(generation) {}
  Generation generation() const { return generation_; }
  const char* what() const noexcept override { return "step aborted: a new view was published"; }

 private:
  Generation generation_;
};

/// THREADS: one caller (the rank's compute thread); publish_view() alone may come from any thread.
/// The probe points send_chunk and receive_chunk are called on the thread that moves data, all
/// others on the caller's. MEMORY: once wait() has returned an error or thrown, the transport
/// touches no memory of any transfer any more: all of them were given up, and every later wait
/// returns the same error (or throws) until adopt_view(). So frames may unwind past the buffers of
/// other transfers without waiting for them. A rank may send to itself; such a send is done when it
/// was received.
class World {
 public:
  virtual ~World() = default;

  virtual int world_rank() const = 0;
  virtual int size() const = 0;  // of the start: world ranks are never renumbered
  virtual Generation generation() const = 0;
  /// World ranks of the view entered last, ascending; all of them at the start.
  virtual std::span<const int> live() const = 0;
  virtual Clock& clock() = 0;
  /// Holds the waits of the caller (lane `compute`) and the messages of the transport (lane
  /// `communication`); the caller adds what it does. A transfer that was given up keeps end 0.
  virtual FlightRecorder& recorder() = 0;

  /// Says what this rank does from now on. Cheap: call it for every action and phase.
  virtual void set_activity(const Activity& activity) = 0;

  /// Says which messages of memory that the host cannot read will be under way, in place of what
  /// was said before: a transport that passes them through memory of its own allocates it now and
  /// no more later. REQUIRES: no such message is under way. Throws device::OutOfMemory.
  virtual void expect(std::span<const Expected> messages) { (void)messages; }
  /// That memory, bytes.
  virtual std::int64_t staging_bytes() const { return 0; }

  /// Starts sending the concatenation of `pieces`. The memory must stay unchanged until the work is
  /// done or the step was aborted. Done means handed to the transport: it proves nothing about the
  /// peer.
  [[nodiscard]] virtual Work send(int to, Channel channel, ConstPieces pieces) = 0;

  /// Starts receiving the next message of (from, channel) into the concatenation of `pieces`, whose
  /// total length must equal the message's. Data reach `pieces` only after headers were checked;
  /// the transport never writes there after an abort.
  [[nodiscard]] virtual Work receive(int from, Channel channel, Pieces pieces) = 0;

  /// Returns when the work is done; Code::deadline when the time is over: the error names rank,
  /// peer, channel, length, `operation` and activity, who else waits for whom, and the ranks that
  /// others wait for and nobody has heard of (README, "Hangs"). Code::unrecoverable when headers
  /// disagree, Code::corrupt when a checksum does. Throws StepAborted once a newer view is there.
  virtual Result<void> wait(const Work& work, std::string_view operation, Deadline deadline) = 0;

  /// True when done. Never blocks; gives the transport a chance to move data.
  virtual bool test(const Work& work) = 0;

  /// Makes every current and later wait of an older generation throw StepAborted, until
  /// adopt_view().
  virtual void publish_view(Generation generation) = 0;
  /// Enters `generation`, whose members are `live` (ascending, this rank among them): abandons what
  /// was in flight and restarts the message sequences. What live peers sent in older generations is
  /// received and thrown away in the background (README, "Drain"). REQUIRES: it was published; a
  /// newer one may have been since, then the next wait throws.
  virtual void adopt_view(Generation generation, std::span<const int> live) = 0;

  /// Calls the probe hook of this rank, if any.
  virtual void probe(Point point) = 0;

  /// Ends the rank's use of the transport in good order. Collective over all live ranks; after a
  /// failure it is not called.
  virtual Result<void> close(Deadline deadline) = 0;
};

}  // namespace elaswave::comm
