#include "elastic/member/tcp_connection.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>
#include <asio/read.hpp>
#include <asio/steady_timer.hpp>
#include <asio/write.hpp>
#include <chrono>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "io/base/error.h"

namespace elaswave::member {
namespace {

constexpr std::size_t kLengthBytes = 4;

// Little endian, whatever the machine.
void put_length(std::byte* to, std::size_t value) {
  for (std::size_t i = 0; i < kLengthBytes; ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}
std::uint32_t get_length(const std::array<std::byte, kLengthBytes>& from) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    value |= static_cast<std::uint32_t>(from[i]) << (8 * i);
  return value;
}

}  // namespace

struct TcpConnection::State {
  explicit State(asio::io_context& context) : io(context), socket(context), timer(context) {}

  asio::io_context& io;
  asio::ip::tcp::socket socket;
  asio::steady_timer timer;  // of a dial, then of a slow goodbye
  Events events;
  std::size_t largest_frame_bytes = 0;
  std::array<std::byte, kLengthBytes> length{};
  std::vector<std::byte> incoming;
  std::deque<std::vector<std::byte>> outgoing;  // the first is being written
  std::size_t outgoing_bytes = 0;
  bool connecting = false;
  bool expiring = false;
  bool ended = false;
  bool discarding = false;       // no callbacks any more
  bool shut_when_empty = false;  // finish(): the peer's end of file follows the last frame
};

TcpConnection::TcpConnection(asio::io_context& io) : state_(std::make_unique<State>(io)) {}
TcpConnection::~TcpConnection() = default;

void TcpConnection::connect(const TcpAddress& to, Nanoseconds timeout,
                            std::function<void(Dialled)> done) {
  State& s = *state_;
  s.connecting = true;
  auto finish_dial = [self = shared_from_this(), done = std::move(done)](Dialled outcome) {
    if (!std::exchange(self->state_->connecting, false)) return;  // timed out, or dropped
    self->state_->timer.cancel();
    if (outcome != Dialled::opened) self->drop();
    done(outcome);
  };
  // Made here and not by Asio: it has no close-on-exec, and setting that later leaves a gap in
  // which another thread's child inherits the socket.
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) {
    asio::post(s.io, [finish_dial] { finish_dial(Dialled::unreachable); });
    return;
  }
  adopt(descriptor);
  s.timer.expires_after(std::chrono::nanoseconds(timeout));
  s.timer.async_wait([finish_dial](const asio::error_code& error) {
    if (!error) finish_dial(Dialled::unreachable);
  });
  const asio::ip::tcp::endpoint target(asio::ip::address_v4(to.ipv4), to.port);
  s.socket.async_connect(target, [this, finish_dial](const asio::error_code& error) {
    if (error)
      return finish_dial(error == asio::error::connection_refused ? Dialled::refused
                                                                  : Dialled::unreachable);
    // On one host a dial to a port that nobody has may be given that very port as its own and so
    // reach itself. That a listener is gone is exactly what it shows. An end that cannot be named
    // shows nothing: the connection is over already and will say so.
    asio::error_code near_error, far_error;
    const auto near_end = state_->socket.local_endpoint(near_error);
    const auto far_end = state_->socket.remote_endpoint(far_error);
    const bool itself = !near_error && !far_error && near_end == far_end;
    finish_dial(itself ? Dialled::refused : Dialled::opened);
  });
}

void TcpConnection::adopt(int descriptor) {
  asio::error_code error;
  state_->socket.assign(asio::ip::tcp::v4(), descriptor, error);
  if (error) {
    ::close(descriptor);
    return;  // every later operation on the socket reports an error
  }
  // A message is one packet; waiting for more to fill it would cost a round trip each hop.
  state_->socket.set_option(asio::ip::tcp::no_delay(true), error);
}

void TcpConnection::open(Events events, std::size_t largest_frame_bytes) {
  hand_over(std::move(events), largest_frame_bytes);
  read_length();
}

void TcpConnection::expire(Nanoseconds after) {
  State& s = *state_;
  s.expiring = true;
  s.timer.expires_after(std::chrono::nanoseconds(after));
  s.timer.async_wait([self = shared_from_this()](const asio::error_code& error) {
    // Looked at again: a timer that has fired already cannot be cancelled.
    if (!error && self->state_->expiring) self->end();
  });
}

void TcpConnection::hand_over(Events events, std::size_t largest_frame_bytes) {
  State& s = *state_;
  if (std::exchange(s.expiring, false)) s.timer.cancel();
  s.events = std::move(events);
  s.largest_frame_bytes = largest_frame_bytes;
}

void TcpConnection::read_length() {
  asio::async_read(state_->socket, asio::buffer(state_->length),
                   [self = shared_from_this()](const asio::error_code& error, std::size_t) {
                     if (error) return self->end();
                     self->read_frame(get_length(self->state_->length));
                   });
}

void TcpConnection::read_frame(std::uint32_t bytes) {
  State& s = *state_;
  if (bytes > s.largest_frame_bytes) return end();  // no agent sends that
  s.incoming.resize(bytes);
  asio::async_read(s.socket, asio::buffer(s.incoming),
                   [self = shared_from_this()](const asio::error_code& error, std::size_t) {
                     State& now = *self->state_;
                     if (error) return self->end();
                     // A copy: the call may hand the connection over or end it.
                     const auto frame = now.events.frame;
                     if (!now.discarding && frame) frame(now.incoming);
                     if (!now.ended) self->read_length();
                   });
}

void TcpConnection::send(std::span<const std::byte> bytes) {
  State& s = *state_;
  EW_CHECK(bytes.size() <= kLargestFrameBytes, "a control message of {} bytes", bytes.size());
  if (s.ended || s.discarding) return;
  if (s.outgoing_bytes + bytes.size() > kLargestQueueBytes) {
    asio::post(s.io, [self = shared_from_this()] { self->end(); });
    return;
  }
  std::vector<std::byte> frame(kLengthBytes + bytes.size());
  put_length(frame.data(), bytes.size());
  if (!bytes.empty()) std::memcpy(frame.data() + kLengthBytes, bytes.data(), bytes.size());
  s.outgoing_bytes += frame.size();
  s.outgoing.push_back(std::move(frame));
  if (s.outgoing.size() == 1) write_next();
}

void TcpConnection::write_next() {
  // Asio writes with MSG_NOSIGNAL: a peer that is gone is an error here, never a signal.
  asio::async_write(state_->socket, asio::buffer(state_->outgoing.front()),
                    [self = shared_from_this()](const asio::error_code& error, std::size_t) {
                      State& s = *self->state_;
                      if (error) return self->end();
                      s.outgoing_bytes -= s.outgoing.front().size();
                      s.outgoing.pop_front();
                      if (!s.outgoing.empty()) return self->write_next();
                      asio::error_code ignored;
                      if (s.shut_when_empty)
                        s.socket.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
                    });
}

void TcpConnection::end() {
  State& s = *state_;
  if (s.ended) return;
  const auto ended = std::move(s.events.ended);
  const bool tell = !s.discarding;
  drop();
  if (tell && ended) ended();
}

void TcpConnection::drop() {
  State& s = *state_;
  s.ended = s.discarding = true;
  s.connecting = false;
  s.events = {};
  s.timer.cancel();
  asio::error_code ignored;
  s.socket.close(ignored);
}

void TcpConnection::discard(Nanoseconds patience) {
  State& s = *state_;
  s.discarding = true;
  s.expiring = false;
  s.events = {};
  s.timer.expires_after(std::chrono::nanoseconds(patience));
  s.timer.async_wait([self = shared_from_this()](const asio::error_code& error) {
    if (!error) self->drop();
  });
}

void TcpConnection::finish() {
  State& s = *state_;
  if (s.ended) return;
  discard(500 * kMillisecond);
  s.shut_when_empty = true;
  asio::error_code ignored;
  // Not closed yet: a close with unread bytes inside resets the connection, and a reset may
  // overtake what was sent last.
  if (s.outgoing.empty()) s.socket.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

void TcpConnection::outlive() {
  if (!state_->ended) discard(kSecond);
}

}  // namespace elaswave::member
