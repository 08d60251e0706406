// The books of the drain (README): what was sent and received in generations that are over, peer by
// peer, until nothing of them is left between two live ranks. Pure. Internal to parallel/comm.
//
// When a rank enters a view it tells every live peer, for each older generation that peer has not
// reported as settled, how many chunks and acknowledgements it started on each channel. The peer
// then knows, by exact tag, what it has not received, and receives it into the void.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/chunk.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

/// A sequence of chunks or of acknowledgements, from one rank to another.
struct Stream {
  Generation generation{};
  Channel channel = Channel::control;
  ChunkKind kind = ChunkKind::data;
  auto operator<=>(const Stream&) const = default;
};

/// A line of what a rank tells: so many were started on this stream. Sent as it lies in memory.
struct StreamCount {
  std::uint32_t generation = 0;
  std::uint8_t channel = 0;
  std::uint8_t kind = 0;
  std::uint16_t zero = 0;
  std::uint64_t count = 0;
};
static_assert(sizeof(StreamCount) == 16);

struct StrayChunk {
  Stream stream;
  std::uint64_t sequence = 0;
};

class Drain {
 public:
  // A generation is over: what this rank had started to send to the peer on a stream, ...
  void left_sent(int peer, const Stream& stream, std::uint64_t count);
  // ... and up to where it had posted receives.
  void left_posted(int peer, const Stream& stream, std::uint64_t count);

  // A receive that was given up, or one into the void, and how it ended.
  void given_up(int peer, const Stream& stream);
  void ended(int peer, const StrayChunk& chunk, bool received);

  /// What to tell the peer.
  std::vector<StreamCount> to_tell(int peer) const;
  /// Everything the peer sent in generations below this one has been received.
  Generation settled_below(int peer) const;

  /// The peer has told, on entering `generation`. Returns what is wrong with it, if anything.
  std::optional<std::string> told(int peer, Generation generation, Generation settled_below,
                                  const std::vector<StreamCount>& counts);

  /// The next chunk to be received into the void; it counts as posted.
  std::optional<StrayChunk> next_stray(int peer);

  /// Streams of the peer older than `generation` that may still bring something, and one more while
  /// it has not told.
  std::int64_t open_streams(int peer, Generation generation) const;
  /// The oldest generation whose tags may still meet a message between this rank and the peer.
  Generation oldest_open(int peer) const;

 private:
  struct Incoming {
    std::uint64_t posted = 0;           // receives below this one were posted
    std::vector<std::uint64_t> missed;  // of those: cancelled, nothing came
    std::int64_t undecided = 0;  // of those: given up and not ended, or under way to the void
    std::optional<std::uint64_t> sent;  // as told
  };
  struct Peer {
    std::map<Stream, std::uint64_t> sent;
    std::map<Stream, Incoming> incoming;
    Generation told_at{};  // everything below was told
  };

  static void forget_settled(Peer& peer);

  std::map<int, Peer> peers_;
};

}  // namespace elaswave::comm
