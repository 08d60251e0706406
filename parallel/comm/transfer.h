// What a Work stands for: one message on its way, shared by the world's caller and its messenger.
// Internal to parallel/comm. THREADS: the caller fills a transfer before it submits it and
// afterwards reads only the atomics; everything else then belongs to the messenger (in world_mpi:
// to the communication thread).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "parallel/comm/world.h"

namespace elaswave::comm {

enum class Phase : std::uint8_t {
  pending,
  done,
  abandoned,  // given up with its generation, or after an error: the transport no longer touches
              // the pieces
};

/// Where a walk over pieces stands, so that chunks taken in order cost nothing to find.
struct PieceCursor {
  std::size_t piece = 0;
  std::int64_t begin_bytes = 0;  // offset of that piece in the message
};

struct Work::State {
  Direction direction = Direction::send;
  Channel channel = Channel::control;
  int peer = 0;
  Generation generation{};
  std::int64_t bytes = 0;
  Step step{};          // in which it was handed over
  ConstPieces sources;  // of a send
  Pieces targets;       // of a receive

  std::int64_t chunk_count = 0;
  std::int64_t chunks_started = 0;
  std::int64_t chunks_done = 0;
  PieceCursor cursor;
  std::uint64_t flight = 0;     // its event in the flight recorder
  std::shared_ptr<State> next;  // in the queue of its lane

  std::atomic<std::int64_t> message{
      -1};  // number within (peer, channel) and generation; -1 until submitted
  std::atomic<std::int64_t> bytes_done{0};
  std::atomic<Phase> phase{Phase::pending};

  bool pending() const { return phase.load(std::memory_order_acquire) == Phase::pending; }
};

using Transfer = Work::State;
using TransferPtr = std::shared_ptr<Transfer>;

/// The last word on a transfer: what it wrote is seen by who sees the phase.
inline void settle(Transfer& transfer, Phase phase) {
  transfer.phase.store(phase, std::memory_order_release);
}

TransferPtr make_send(int to, Channel channel, Generation generation, ConstPieces pieces,
                      Step step = {});
TransferPtr make_receive(int from, Channel channel, Generation generation, Pieces pieces,
                         Step step = {});

/// Copies bytes [offset, offset + out.size()) of the message into `out`.
void gather_bytes(Transfer& send, std::int64_t offset_bytes, std::span<std::byte> out);
/// Copies `in` to bytes [offset, offset + in.size()) of the message.
void scatter_bytes(Transfer& receive, std::int64_t offset_bytes, std::span<const std::byte> in);

/// "receive from rank 3, channel reduce, message 17, 4096 bytes (0 arrived), generation 0".
std::string describe(const Transfer& transfer);

/// The error of a wait whose time is over.
Error deadline_error(const Transfer& transfer, int world_rank, std::string_view operation,
                     Nanoseconds waited);
/// The error of a wait for a transfer that was given up earlier.
Error abandoned_error(const Transfer& transfer, int world_rank, std::string_view operation);

/// First in, first out, linked through Transfer::next: no allocation.
class TransferQueue {
 public:
  TransferQueue() = default;
  TransferQueue(const TransferQueue&) = delete;
  TransferQueue& operator=(const TransferQueue&) = delete;
  ~TransferQueue() { clear(); }

  bool empty() const { return head_ == nullptr; }
  const TransferPtr& front() const { return head_; }
  void push(TransferPtr transfer);
  TransferPtr pop();
  void clear() {  // one by one: the chain must not be freed recursively
    while (!empty()) pop();
  }

 private:
  TransferPtr head_;
  Transfer* tail_ = nullptr;
};

}  // namespace elaswave::comm
