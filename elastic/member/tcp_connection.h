// One TCP connection that carries frames (u32 length, bytes) both ways. Internal to elastic/member:
// tcp_links.cpp owns them. THREADS: the thread that runs the io_context. Nothing blocks and nothing
// throws; callbacks are never called from inside a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "io/base/clock.h"

namespace asio {
class io_context;
}

namespace elaswave::member {

struct TcpAddress {
  std::uint32_t ipv4 = 0;  // host order
  std::uint16_t port = 0;
  bool operator==(const TcpAddress&) const = default;
};

enum class Dialled : std::uint8_t { opened, refused, unreachable };

class TcpConnection final : public std::enable_shared_from_this<TcpConnection> {
 public:
  /// The largest frame either end may send.
  static constexpr std::size_t kLargestFrameBytes = std::size_t{1} << 20;
  /// What may wait to be sent: a peer that reads nothing loses the connection.
  static constexpr std::size_t kLargestQueueBytes = std::size_t{4} << 20;

  struct Events {
    std::function<void(std::span<const std::byte>)> frame;
    std::function<void()> ended;  // by the peer, by garbage, by a full queue; never by this end
  };

  explicit TcpConnection(asio::io_context& io);
  ~TcpConnection();
  TcpConnection(const TcpConnection&) = delete;
  TcpConnection& operator=(const TcpConnection&) = delete;

  /// Calls `done` once, unless drop() comes before. Refused: the host answered that nobody listens.
  void connect(const TcpAddress& to, Nanoseconds timeout, std::function<void(Dialled)> done);
  /// Takes a connected socket.
  void adopt(int descriptor);

  /// Starts reading. REQUIRES: connected. A frame longer than `largest_frame_bytes` ends it.
  void open(Events events, std::size_t largest_frame_bytes);
  /// Ends the connection unless hand_over() comes first.
  void expire(Nanoseconds after);
  /// To another owner; the limit holds from the next frame.
  void hand_over(Events events, std::size_t largest_frame_bytes);
  /// REQUIRES: at most kLargestFrameBytes.
  void send(std::span<const std::byte> bytes);

  // Three ends; after each there are no callbacks.
  /// Now.
  void drop();
  /// What is queued is sent, then the peer sees the end; a peer that does not answer with its own
  /// end is left after half a second.
  void finish();
  /// Keeps the socket for a second, throwing away what comes: the peer ends it, having another.
  void outlive();

 private:
  struct State;
  void read_length();
  void read_frame(std::uint32_t bytes);
  void write_next();
  void end();
  void discard(Nanoseconds patience);

  std::unique_ptr<State> state_;
};

}  // namespace elaswave::member
