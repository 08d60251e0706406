#include "elastic/member/tcp_links.h"

#include <sys/socket.h>

#include <algorithm>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "io/base/file.h"

namespace elaswave::member {
namespace {

/// The first frame in each direction. All fields fixed, no padding; hosts of one run are alike.
struct Greeting {
  std::uint64_t magic = kMagic;
  std::uint64_t run = 0;
  std::uint64_t incarnation = 0;
  std::int32_t from = 0;
  std::int32_t to = 0;
  std::uint32_t dial = 0;  // the dialler's how-many-th to this peer, from 1; 0 in the answer
  std::uint32_t seen = 0;  // the highest dial of the other that the sender had accepted
  static constexpr std::uint64_t kMagic = 0x31544E4547415745;  // "EWAGENT1"
};
static_assert(sizeof(Greeting) == 40);

std::optional<Greeting> read_greeting(std::span<const std::byte> bytes) {
  Greeting greeting;
  if (bytes.size() != sizeof greeting) return std::nullopt;
  std::memcpy(&greeting, bytes.data(), sizeof greeting);
  if (greeting.magic != Greeting::kMagic) return std::nullopt;
  return greeting;
}

Error socket_error(std::string what, int error_number) {
  return system_error(std::move(what), "TCP", error_number);
}

using ConnectionPtr = std::shared_ptr<TcpConnection>;

struct Peer {
  TcpPeer known;
  ConnectionPtr link;
  ConnectionPtr dialling;
  ConnectionPtr crossed;       // lost against the link; the peer closes it
  bool dialled_by_me = false;  // the link
  bool answered = false;       // its greeting has come
  bool replaced = false;       // another process answers at its address: it has ended
  std::uint32_t dials = 0;
  std::uint32_t seen = 0;  // highest dial of the peer that was accepted
};

}  // namespace

struct TcpLinks::State : std::enable_shared_from_this<TcpLinks::State> {
  State() : acceptor(io), timer(io), breather(io), busy(io.get_executor()) {}

  asio::io_context io{1};  // one thread runs it
  asio::ip::tcp::acceptor acceptor;
  asio::steady_timer timer;     // the agent's
  asio::steady_timer breather;  // accept again after the process ran out of descriptors
  asio::executor_work_guard<asio::io_context::executor_type> busy;
  RealClock clock;
  TcpOptions options;
  std::vector<Peer> peers;
  std::vector<ConnectionPtr> strangers;  // accepted, not greeted yet; oldest first
  comm::ControlHandler* handler = nullptr;
  std::uint64_t wishes = 0;  // calls of wake_at()
  std::uint16_t port = 0;
  bool shut = false;
  bool stopping = false;

  std::thread thread;
  std::mutex mutex;
  std::condition_variable changed;
  bool exited = false;  // guarded by mutex

  Peer& at(int peer) {
    EW_CHECK(peer >= 0 && peer < static_cast<int>(peers.size()) && peer != options.world_rank,
             "a link to rank {} of {}", peer, peers.size());
    return peers[static_cast<std::size_t>(peer)];
  }
  void run();
  void accept();
  void take_connections();
  void stranger(int descriptor);
  void forget_stranger(const TcpConnection* connection);
  void greeted(const ConnectionPtr& connection, std::span<const std::byte> bytes);
  void accepted(const ConnectionPtr& connection, const Greeting& greeting);
  void dialled(int peer, const TcpConnection* connection, Dialled outcome);
  void answered(int peer, std::span<const std::byte> bytes);
  void frame(int peer, std::span<const std::byte> bytes);
  void ended(int peer, const TcpConnection* connection);
  void greet(int to, const Peer& peer, std::uint32_t dial) const;
  TcpConnection::Events events_of(int peer, const TcpConnection* connection);
  void close_all();
};

void TcpLinks::State::run() {
  try {
    handler->start(clock.now());
    io.run();
  } catch (const std::exception& error) {
    EW_CHECK(false, "the agent's thread: {}", error.what());
  }
  const std::lock_guard lock(mutex);
  exited = true;
  changed.notify_all();
}

void TcpLinks::State::accept() {
  if (shut) return;
  acceptor.async_wait(asio::ip::tcp::acceptor::wait_read, [this](const asio::error_code& error) {
    if (error || shut) return;
    take_connections();
  });
}

void TcpLinks::State::take_connections() {
  // accept4 and not Asio's: close-on-exec from the first moment.
  for (;;) {
    const int descriptor =
        ::accept4(acceptor.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (descriptor >= 0) {
      stranger(descriptor);
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return accept();
    // Out of descriptors or memory: the connection stays in the backlog, and waiting for it to be
    // readable would return at once, for ever.
    breather.expires_after(std::chrono::milliseconds(100));
    breather.async_wait([this](const asio::error_code& error) {
      if (!error && !shut) take_connections();
    });
    return;
  }
}

void TcpLinks::State::stranger(int descriptor) {
  // Each rank dials a peer at most once at a time; more than this is somebody else's doing, and the
  // oldest has had its chance.
  if (strangers.size() >= 2 * peers.size() + 64) {
    const ConnectionPtr oldest = strangers.front();
    strangers.erase(strangers.begin());
    oldest->drop();
  }
  const auto connection = std::make_shared<TcpConnection>(io);
  connection->adopt(descriptor);
  strangers.push_back(connection);
  const std::weak_ptr<TcpConnection> weak = connection;  // events must not keep their own owner
  connection->open({.frame =
                        [this, weak](std::span<const std::byte> bytes) {
                          if (const auto known = weak.lock()) greeted(known, bytes);
                        },
                    .ended = [this, raw = connection.get()] { forget_stranger(raw); }},
                   sizeof(Greeting));
  connection->expire(options.greeting_timeout);
}

void TcpLinks::State::forget_stranger(const TcpConnection* connection) {
  std::erase_if(strangers, [&](const ConnectionPtr& one) { return one.get() == connection; });
}

void TcpLinks::State::greeted(const ConnectionPtr& connection, std::span<const std::byte> bytes) {
  forget_stranger(connection.get());
  const auto greeting = read_greeting(bytes);
  const bool ours = greeting && greeting->run == options.run && greeting->dial > 0 &&
                    greeting->to == options.world_rank && greeting->from >= 0 &&
                    greeting->from < static_cast<std::int32_t>(peers.size()) &&
                    greeting->from != options.world_rank;
  if (!ours) return connection->drop();
  accepted(connection, *greeting);
}

/// The peer has dialled. It does so only without a link of its own, so its connection replaces
/// whatever stands here, with one exception: both dialled at once, both greeted, and the peer had
/// not seen mine when it greeted. Then the dial of the lower rank is the one that both keep; the
/// higher end drops its own as soon as it sees mine, so this end leaves that to it.
void TcpLinks::State::accepted(const ConnectionPtr& connection, const Greeting& greeting) {
  const int from = greeting.from;
  Peer& peer = at(from);
  peer.seen = std::max(peer.seen, greeting.dial);
  const bool crossed = peer.link && peer.dialled_by_me && greeting.seen < peer.dials;
  if (crossed && options.world_rank < from) {
    if (const auto old = std::exchange(peer.crossed, connection)) old->drop();
    return connection->outlive();
  }
  // A dial under way has not greeted, so the peer never took it for a link.
  if (const auto dialling = std::exchange(peer.dialling, nullptr)) dialling->drop();
  if (const auto old = std::exchange(peer.link, connection)) old->drop();
  peer.dialled_by_me = false;
  peer.answered = true;
  connection->hand_over(events_of(from, connection.get()), TcpConnection::kLargestFrameBytes);
  greet(from, peer, 0);
  handler->opened(from, clock.now());
}

TcpConnection::Events TcpLinks::State::events_of(int peer, const TcpConnection* connection) {
  return {.frame = [this, peer](std::span<const std::byte> bytes) { frame(peer, bytes); },
          .ended = [this, peer, connection] { ended(peer, connection); }};
}

void TcpLinks::State::greet(int to, const Peer& peer, std::uint32_t dial) const {
  const Greeting greeting{.run = options.run,
                          .incarnation = options.incarnation,
                          .from = options.world_rank,
                          .to = to,
                          .dial = dial,
                          .seen = peer.seen};
  peer.link->send(std::as_bytes(std::span(&greeting, 1)));
}

void TcpLinks::State::dialled(int to, const TcpConnection* connection, Dialled outcome) {
  Peer& peer = at(to);
  if (peer.dialling.get() != connection) return;
  const ConnectionPtr made = std::exchange(peer.dialling, nullptr);
  if (outcome == Dialled::refused) return handler->refused(to, clock.now());
  if (outcome == Dialled::unreachable) return handler->unreachable(to, clock.now());
  peer.link = made;
  peer.dialled_by_me = true;
  peer.answered = false;
  greet(to, peer, ++peer.dials);
  made->open(events_of(to, made.get()), TcpConnection::kLargestFrameBytes);
  handler->opened(to, clock.now());
}

void TcpLinks::State::frame(int peer, std::span<const std::byte> bytes) {
  if (!at(peer).answered) return answered(peer, bytes);
  handler->message(peer, bytes, clock.now());
}

/// The other end's greeting on a link dialled from here. Another run's or another process's agent
/// holds the port of the peer, which held it for its whole life: a later dial is as good as
/// refused. Anything else at that port proves nothing.
void TcpLinks::State::answered(int from, std::span<const std::byte> bytes) {
  Peer& peer = at(from);
  const auto greeting = read_greeting(bytes);
  peer.answered = greeting && greeting->run == options.run && greeting->from == from &&
                  greeting->incarnation == peer.known.incarnation;
  if (peer.answered) return;
  peer.replaced = peer.replaced || greeting.has_value();
  std::exchange(peer.link, nullptr)->drop();
  handler->closed(from, clock.now());
}

void TcpLinks::State::ended(int from, const TcpConnection* connection) {
  Peer& peer = at(from);
  if (peer.link.get() != connection) return;  // replaced meanwhile
  peer.link = nullptr;
  handler->closed(from, clock.now());
}

void TcpLinks::State::close_all() {
  shut = true;
  asio::error_code ignored;
  acceptor.close(ignored);
  breather.cancel();
  for (const ConnectionPtr& connection : std::exchange(strangers, {})) connection->drop();
  for (Peer& peer : peers) {
    if (const auto dialling = std::exchange(peer.dialling, nullptr)) dialling->drop();
    if (const auto crossed = std::exchange(peer.crossed, nullptr)) crossed->drop();
    if (const auto link = std::exchange(peer.link, nullptr)) link->finish();
  }
}

TcpLinks::TcpLinks(std::shared_ptr<State> state) : state_(std::move(state)) {}
TcpLinks::~TcpLinks() {
  (void)stop(kSecond);
}

Result<std::unique_ptr<TcpLinks>> TcpLinks::listen(std::uint32_t listen_ipv4) {
  auto state = std::shared_ptr<State>();
  try {
    state = std::make_shared<State>();
  } catch (const std::exception& error) {
    return fail(Error{.code = Code::io,
                      .what = "the agent cannot start",
                      .where = "TCP",
                      .why = error.what(),
                      .fix = "raise the limit of open files"});
  }
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return fail(socket_error("the agent cannot make a socket", errno));
  asio::error_code error;
  asio::ip::tcp::acceptor& acceptor = state->acceptor;
  acceptor.assign(asio::ip::tcp::v4(), descriptor, error);
  if (!error) acceptor.set_option(asio::ip::tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind({asio::ip::address_v4(listen_ipv4), 0}, error);
  // All peers may come at once after a death; a full backlog costs them a second each.
  if (!error) acceptor.listen(4096, error);
  if (!error) state->port = acceptor.local_endpoint(error).port();
  if (error) return fail(socket_error("the agent cannot listen", error.value()));
  return std::unique_ptr<TcpLinks>(new TcpLinks(std::move(state)));
}

std::uint16_t TcpLinks::port() const {
  return state_->port;
}

Result<void> TcpLinks::start(const TcpOptions& options, const std::vector<TcpPeer>& peers,
                             comm::ControlHandler& handler) {
  State& s = *state_;
  EW_CHECK(s.handler == nullptr, "the agent's thread is started twice");
  s.options = options;
  s.handler = &handler;
  for (const TcpPeer& peer : peers) s.peers.emplace_back().known = peer;
  s.accept();
  try {
    s.thread = std::thread([state = state_] { state->run(); });
  } catch (const std::exception& error) {
    return fail(Error{.code = Code::io,
                      .what = "the agent's thread cannot start",
                      .where = "TCP",
                      .why = error.what(),
                      .fix = "raise the limit of processes"});
  }
  return {};
}

void TcpLinks::post(std::function<void(Nanoseconds)> work) {
  asio::post(state_->io,
             [state = state_.get(), work = std::move(work)] { work(state->clock.now()); });
}

bool TcpLinks::stop(Nanoseconds patience) {
  State& s = *state_;
  if (!s.thread.joinable()) return true;
  asio::post(s.io, [&s] {
    s.close_all();
    s.stopping = true;
    s.timer.cancel();
    s.busy.reset();  // run() returns when the last link is closed
  });
  std::unique_lock lock(s.mutex);
  const bool exited =
      s.changed.wait_for(lock, std::chrono::nanoseconds(patience), [&s] { return s.exited; });
  lock.unlock();
  if (exited) {
    s.thread.join();
  } else {
    s.thread.detach();
  }
  return exited;
}

void TcpLinks::dial(int to) {
  State& s = *state_;
  Peer& peer = s.at(to);
  if (peer.link || peer.dialling || s.shut) return;
  if (peer.replaced) {
    asio::post(s.io, [&s, to] { s.handler->refused(to, s.clock.now()); });
    return;
  }
  peer.dialling = std::make_shared<TcpConnection>(s.io);
  peer.dialling->connect(
      peer.known.address, s.options.dial_timeout,
      [&s, to, raw = peer.dialling.get()](Dialled outcome) { s.dialled(to, raw, outcome); });
}

void TcpLinks::send(int peer, std::span<const std::byte> bytes) {
  if (const ConnectionPtr& link = state_->at(peer).link) link->send(bytes);
}

void TcpLinks::close(int to) {
  Peer& peer = state_->at(to);
  if (const auto dialling = std::exchange(peer.dialling, nullptr)) dialling->drop();
  if (const auto link = std::exchange(peer.link, nullptr)) link->finish();
}

void TcpLinks::wake_at(Nanoseconds at) {
  State& s = *state_;
  // A timer that had fired before it could be cancelled must not keep the thread for ever.
  if (s.stopping) return;
  s.timer.expires_after(std::chrono::nanoseconds(std::max<Nanoseconds>(at - s.clock.now(), 0)));
  // Counted: a timer that has fired already cannot be cancelled.
  s.timer.async_wait([&s, wish = ++s.wishes](const asio::error_code& error) {
    if (!error && wish == s.wishes) s.handler->timer(s.clock.now());
  });
}

void TcpLinks::shut() {
  state_->close_all();
}

}  // namespace elaswave::member
