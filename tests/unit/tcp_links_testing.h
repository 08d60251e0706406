// A node with control links over TCP whose handler notes what it is told, and plain sockets that
// play peers and strangers.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "elastic/member/host_address.h"
#include "elastic/member/tcp_links.h"

namespace elaswave::member::test {

inline constexpr std::uint64_t kRun = 77;
inline constexpr auto kPatience = std::chrono::seconds(20);

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Notes what it is told: "opened 1", "message 1 text".
class Recorder final : public comm::ControlHandler {
 public:
  void start(Nanoseconds) override { note("start"); }
  void opened(int peer, Nanoseconds) override { note(fmt::format("opened {}", peer)); }
  void message(int peer, std::span<const std::byte> bytes, Nanoseconds) override {
    // Long ones by their length: nobody wants to read a mebibyte.
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    note(bytes.size() <= 32 ? fmt::format("message {} {}", peer, text)
                            : fmt::format("message {} of {} bytes", peer, bytes.size()));
  }
  void closed(int peer, Nanoseconds) override { note(fmt::format("closed {}", peer)); }
  void refused(int peer, Nanoseconds) override { note(fmt::format("refused {}", peer)); }
  void unreachable(int peer, Nanoseconds) override { note(fmt::format("unreachable {}", peer)); }
  void timer(Nanoseconds now) override { note(fmt::format("timer {}", now)); }

  void note(std::string text) {
    const std::lock_guard lock(mutex_);
    notes_.push_back(std::move(text));
    changed_.notify_all();
  }
  /// All notes so far.
  std::vector<std::string> notes() const {
    const std::lock_guard lock(mutex_);
    return notes_;
  }
  /// The next note that nobody took, "" when none comes in time.
  std::string next(std::chrono::milliseconds patience = kPatience) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, patience, [this] { return taken_ < notes_.size(); })) return "";
    return notes_[taken_++];
  }
  /// Takes notes until one matches.
  bool await(std::string_view text) {
    for (std::string one = next(); !one.empty(); one = next())
      if (one == text) return true;
    return false;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> notes_;
  std::size_t taken_ = 0;
};

struct Node {
  explicit Node(int world_rank, std::uint64_t incarnation = 0) : rank(world_rank) {
    own.incarnation = incarnation == 0 ? 1000 + static_cast<std::uint64_t>(rank) : incarnation;
    auto made = TcpLinks::listen(kLoopbackIpv4);
    EXPECT_TRUE(made) << made.error().text();
    links = std::move(*made);
    own.address = {kLoopbackIpv4, links->port()};
  }
  void start(const std::vector<TcpPeer>& peers, Nanoseconds timeout = 20 * kSecond) {
    const auto started = links->start({.world_rank = rank,
                                       .run = kRun,
                                       .incarnation = own.incarnation,
                                       .dial_timeout = timeout,
                                       .greeting_timeout = 300 * kMillisecond},
                                      peers, seen);
    ASSERT_TRUE(started) << started.error().text();
    EXPECT_EQ(seen.next(), "start");
  }
  /// On the agent's thread, and waited for.
  template <typename Call>
  void call(Call what) {
    std::promise<void> done;
    links->post([&](Nanoseconds) {
      what(*links);
      done.set_value();
    });
    done.get_future().wait();
  }
  void dial(int peer) {
    call([&](TcpLinks& to) { to.dial(peer); });
  }
  void send(int peer, std::string_view text) {
    call([&](TcpLinks& to) { to.send(peer, bytes_of(text)); });
  }
  void close(int peer) {
    call([&](TcpLinks& to) { to.close(peer); });
  }

  int rank;
  TcpPeer own;
  Recorder seen;
  std::unique_ptr<TcpLinks> links;
};

struct Two {
  explicit Two(Nanoseconds timeout = 20 * kSecond) {
    a.start({a.own, b.own}, timeout);
    b.start({a.own, b.own}, timeout);
  }
  Node a{0}, b{1};
};

/// A plain listening socket on the loopback interface.
class Listener {
 public:
  explicit Listener(int backlog) : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    at_.sin_family = AF_INET;
    at_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at_;
    EXPECT_EQ(::bind(descriptor_, address(), sizeof at_), 0);
    EXPECT_EQ(::listen(descriptor_, backlog), 0);
    EXPECT_EQ(::getsockname(descriptor_, address(), &length), 0);
  }
  ~Listener() { ::close(descriptor_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  sockaddr* address() { return reinterpret_cast<sockaddr*>(&at_); }
  TcpPeer peer() const { return {.address = {kLoopbackIpv4, ntohs(at_.sin_port)}}; }
  /// The next connection; -1 when none comes in time.
  int accept() {
    pollfd one{descriptor_, POLLIN, 0};
    return ::poll(&one, 1, 20'000) == 1 ? ::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC)
                                        : -1;
  }

 private:
  int descriptor_;
  sockaddr_in at_{};
};

/// A plain socket, as any program has it. As the wire is documented in tcp_links: length, bytes.
class Stranger {
 public:
  explicit Stranger(std::uint16_t port) : descriptor_(::socket(AF_INET, SOCK_STREAM, 0)) {
    ::fcntl(descriptor_, F_SETFD, FD_CLOEXEC);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(descriptor_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  }
  ~Stranger() { ::close(descriptor_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  bool connected() const { return connected_; }
  void write(std::string_view text) {
    (void)!::send(descriptor_, text.data(), text.size(), MSG_NOSIGNAL);
  }
  void greet(std::int32_t from, std::int32_t to, std::uint64_t run, std::uint32_t saw = 0) {
    struct {
      std::uint32_t length = 40;
      char magic[8] = {'E', 'W', 'A', 'G', 'E', 'N', 'T', '1'};
      std::uint64_t run = 0, incarnation = 5;
      std::int32_t from = 0, to = 0;
      std::uint32_t dial = 1, seen = 0;
    } __attribute__((packed)) greeting;
    greeting.run = run;
    greeting.from = from;
    greeting.to = to;
    greeting.seen = saw;
    write({reinterpret_cast<const char*>(&greeting), sizeof greeting});
  }
  /// True when the other side ends the connection in time.
  bool sees_end() {
    char bytes[4096];
    for (pollfd one{descriptor_, POLLIN, 0}; ::poll(&one, 1, 20'000) == 1;)
      if (::recv(descriptor_, bytes, sizeof bytes, 0) <= 0) return true;
    return false;
  }

 private:
  int descriptor_;
  bool connected_ = false;
};

}  // namespace elaswave::member::test
