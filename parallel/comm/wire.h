// Wire: what the messenger needs of a transport: raw non-blocking sends and receives by exact
// (peer, tag). Internal to parallel/comm. Implementations: wire_mpi.cpp (real) and wire_sim.cpp
// (simulated). THREADS: one, the messenger's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/base/error.h"

namespace elaswave::comm {

/// At most 30 bits are used (see chunk.h).
using Tag = std::int32_t;

/// Names a request; chosen by the messenger, unique among the requests under way.
using Token = std::uint32_t;

enum class Outcome : std::uint8_t { done, cancelled };

struct Completion {
  Token token = 0;
  Outcome outcome = Outcome::done;
  std::int64_t bytes = 0;  // received; of a send: sent
};

class Wire {
 public:
  virtual ~Wire() = default;

  virtual int world_rank() const = 0;
  virtual int size() const = 0;

  /// Starts a send. `bytes` must stay unchanged and allocated until its completion was polled.
  virtual Result<void> start_send(int to, Tag tag, std::span<const std::byte> bytes,
                                  Token token) = 0;

  /// Starts a receive. REQUIRES: no message that can match is longer than `buffer`: a transport may
  /// write past its end.
  virtual Result<void> start_receive(int from, Tag tag, std::span<std::byte> buffer,
                                     Token token) = 0;

  /// Moves data without blocking and appends what has completed since the last call.
  virtual Result<void> poll(std::vector<Completion>& completed) = 0;

  /// The messenger has lost interest: an unmatched receive is cancelled, anything else completes
  /// when and if it can. Either way the buffer stays the transport's until a completion is polled,
  /// possibly never (a dead peer).
  virtual void abandon(Token token) = 0;

  /// Ends the transport in good order; may block. REQUIRES: nothing under way.
  virtual Result<void> close() = 0;
};

}  // namespace elaswave::comm
