// Control links over real TCP on the loopback interface: what the handler is told, in which order,
// whatever peers and strangers do.
#include "elastic/member/tcp_links.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "tests/unit/tcp_links_testing.h"

namespace elaswave::member::test {
namespace {

TEST(TcpLinks, BothEndsSeeALinkItsMessagesInOrderAndItsEnd) {
  Two two;
  two.a.dial(1);
  EXPECT_EQ(two.a.seen.next(), "opened 1");
  EXPECT_EQ(two.b.seen.next(), "opened 0");
  const std::string large(TcpConnection::kLargestFrameBytes, 'x');
  two.a.call([&](TcpLinks& links) {
    for (int i = 0; i < 500; ++i) links.send(1, bytes_of(std::to_string(i)));
    links.send(1, {});
    links.send(1, bytes_of(large));
    links.close(1);  // what was sent before still arrives
  });
  two.b.send(0, "hello");
  for (int i = 0; i < 500; ++i) EXPECT_EQ(two.b.seen.next(), fmt::format("message 0 {}", i));
  EXPECT_EQ(two.b.seen.next(), "message 0 ");
  EXPECT_EQ(two.b.seen.next(), "message 0 of 1048576 bytes");
  EXPECT_EQ(two.b.seen.next(), "closed 0");
  two.b.send(0, "to nobody");
  two.b.dial(0);  // and again, from the other side
  EXPECT_EQ(two.b.seen.next(), "opened 0");
  two.b.send(0, "again");
  EXPECT_TRUE(two.a.seen.await("message 1 again"));
  for (const std::string& note : two.a.seen.notes()) EXPECT_NE(note, "closed 1");
}

TEST(TcpLinks, ADialEndsInOneAnswerAndASecondDialInNone) {
  Two two;
  two.a.call([](TcpLinks& links) {
    links.dial(1);
    links.dial(1);
  });
  EXPECT_EQ(two.a.seen.next(), "opened 1");
  two.a.dial(1);
  two.a.send(1, "mark");
  EXPECT_TRUE(two.b.seen.await("message 0 mark"));
  EXPECT_EQ(two.a.seen.next(std::chrono::milliseconds(50)), "");
}

TEST(TcpLinks, AProcessThatHasEndedRefuses) {
  Two two;
  two.a.dial(1);
  EXPECT_EQ(two.a.seen.next(), "opened 1");
  EXPECT_TRUE(two.b.links->stop(10 * kSecond));
  EXPECT_EQ(two.a.seen.next(), "closed 1");
  two.a.dial(1);
  EXPECT_EQ(two.a.seen.next(), "refused 1");
}

TEST(TcpLinks, AShutAgentRefusesAndItsTimersGoOn) {
  Two two;
  two.b.dial(0);
  EXPECT_EQ(two.a.seen.next(), "opened 1");
  EXPECT_EQ(two.b.seen.next(), "opened 0");
  two.b.call([](TcpLinks& links) {
    links.send(0, bytes_of("last words"));
    links.shut();
    links.wake_at(0);
  });
  EXPECT_EQ(two.a.seen.next(), "message 1 last words");
  EXPECT_EQ(two.a.seen.next(), "closed 1");
  two.a.dial(1);
  EXPECT_EQ(two.a.seen.next(), "refused 1");
  EXPECT_EQ(two.b.seen.next().substr(0, 5), "timer");
}

/// A listener whose backlog is full: the kernel drops further attempts, as a dead host would.
TEST(TcpLinks, NoAnswerInTimeIsUnreachable) {
  Listener listener(0);
  std::vector<int> fillers;
  for (int i = 0; i < 8; ++i) {
    fillers.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    (void)::connect(fillers.back(), listener.address(), sizeof(sockaddr_in));
  }
  Node a{0};
  a.start({a.own, listener.peer()}, 200 * kMillisecond);
  a.dial(1);
  EXPECT_EQ(a.seen.next(), "unreachable 1");
  a.dial(1);
  a.close(1);  // a dial that was given up ends in nothing
  EXPECT_EQ(a.seen.next(std::chrono::milliseconds(400)), "");
  for (const int one : fillers) ::close(one);
}

TEST(TcpLinks, StrangersAreDroppedAndDisturbNobody) {
  Two two;
  two.a.dial(1);
  EXPECT_TRUE(two.b.seen.await("opened 0"));
  const std::uint16_t port = two.b.own.address.port;
  Stranger http(port), silent(port), half(port), huge(port), other_run(port), wrong_rank(port),
      impostor(port), not_me(port);
  http.write("GET / HTTP/1.0\r\n\r\n");
  half.write(std::string("\x28\0\0\0EWAG", 8));
  huge.write("\xff\xff\xff\xff");
  other_run.greet(0, 1, kRun + 1);
  wrong_rank.greet(2, 1, kRun);
  impostor.greet(1, 1, kRun);
  not_me.greet(0, 7, kRun);
  for (Stranger* one :
       {&http, &silent, &half, &huge, &other_run, &wrong_rank, &impostor, &not_me}) {
    EXPECT_TRUE(one->connected());
    EXPECT_TRUE(one->sees_end());
  }
  std::vector<std::unique_ptr<Stranger>> crowd;
  for (int i = 0; i < 300; ++i) crowd.push_back(std::make_unique<Stranger>(port));
  EXPECT_TRUE(crowd.front()->sees_end());  // pushed out by those that came later, or timed out
  two.a.send(1, "still here");
  EXPECT_EQ(two.b.seen.next(), "message 0 still here");
}

TEST(TcpLinks, AFrameThatNoAgentSendsEndsTheLink) {
  Node a{1};
  a.start({{}, a.own});
  Stranger peer(a.own.address.port);
  peer.greet(0, 1, kRun);
  EXPECT_EQ(a.seen.next(), "opened 0");
  peer.write(std::string("\x02\0\0\0ok\1\0\x10\0", 10));  // then 1 MiB and one byte
  EXPECT_EQ(a.seen.next(), "message 0 ok");
  EXPECT_EQ(a.seen.next(), "closed 0");
  EXPECT_TRUE(peer.sees_end());
}

TEST(TcpLinks, APeerThatReadsNothingLosesItsLink) {
  Node a{1};
  a.start({{}, a.own});
  Stranger peer(a.own.address.port);
  peer.greet(0, 1, kRun);
  EXPECT_EQ(a.seen.next(), "opened 0");
  const std::string large(TcpConnection::kLargestFrameBytes, 'x');
  int sent = 0;
  while (a.seen.notes().back() != "closed 0" && sent < 1000) {
    a.send(0, large);
    ++sent;
  }
  EXPECT_EQ(a.seen.notes().back(), "closed 0");
  EXPECT_GE(sent, 4);
  EXPECT_LT(sent, 100);  // queue plus what the kernel takes
}

TEST(TcpLinks, AnotherProcessAtThePortIsProofThatThePeerHasEnded) {
  Node a{0}, b{1, 4711};
  TcpPeer before = b.own;
  before.incarnation = 4710;
  a.start({a.own, before});
  b.start({a.own, b.own});
  a.dial(1);
  EXPECT_EQ(a.seen.next(), "opened 1");
  EXPECT_EQ(a.seen.next(), "closed 1");
  a.dial(1);
  EXPECT_EQ(a.seen.next(), "refused 1");
}

TEST(TcpLinks, AnAnswerThatIsNoGreetingProvesNothing) {
  Listener other(8);
  Node a{0};
  a.start({a.own, other.peer()});
  for (int i = 0; i < 3; ++i) {
    a.dial(1);
    const int accepted = other.accept();
    EXPECT_EQ(a.seen.next(), "opened 1");
    const std::string answer("\5\0\0\0hello", 9);
    EXPECT_EQ(::send(accepted, answer.data(), answer.size(), MSG_NOSIGNAL), 9);
    EXPECT_EQ(a.seen.next(), "closed 1");
    ::close(accepted);
  }
}

/// The peer knew the link and dials again: it has lost it, which this end has not seen yet.
TEST(TcpLinks, ARedialReplacesALinkWhoseEndWasNotSeen) {
  Listener peer(8);
  Node a{0};
  a.start({a.own, peer.peer()});
  a.dial(1);
  const int accepted = peer.accept();
  EXPECT_EQ(a.seen.next(), "opened 1");
  Stranger again(a.own.address.port);
  again.greet(1, 0, kRun, 1);
  again.write(std::string("\3\0\0\0new", 7));
  EXPECT_EQ(a.seen.next(), "opened 1");
  EXPECT_EQ(a.seen.next(), "message 1 new");
  ::close(accepted);
  EXPECT_EQ(a.seen.next(std::chrono::milliseconds(100)), "");  // the old end is of no interest
}

/// Both dial at once, again and again: one link must remain, the same at both ends.
TEST(TcpLinks, CrossingDialsEndInOneLink) {
  Two two;
  for (int round = 0; round < 300; ++round) {
    std::promise<void> go;
    const std::shared_future<void> gate = go.get_future().share();
    for (Node* one : {&two.a, &two.b})
      one->links->post([one, gate](Nanoseconds) {
        gate.wait();
        one->links->dial(1 - one->rank);
      });
    go.set_value();
    ASSERT_TRUE(two.a.seen.await("opened 1"));
    ASSERT_TRUE(two.b.seen.await("opened 0"));
    // A message may be lost with the link that loses; the later of repeated ones arrives.
    const std::string mark = fmt::format("{}", round);
    for (Node* one : {&two.a, &two.b}) {
      Node& other = one == &two.a ? two.b : two.a;
      bool arrived = false;
      for (int i = 0; i < 200 && !arrived; ++i) {
        one->send(other.rank, mark);
        for (std::string note = other.seen.next(std::chrono::milliseconds(20)); !note.empty();
             note = other.seen.next(std::chrono::milliseconds(1)))
          arrived = arrived || note == fmt::format("message {} {}", one->rank, mark);
      }
      ASSERT_TRUE(arrived) << "round " << round;
    }
    two.a.close(1);
    ASSERT_TRUE(two.b.seen.await("closed 0"));
  }
  // Nobody saw an end that was none.
  for (const std::string& note : two.a.seen.notes()) ASSERT_NE(note, "closed 1");
  const auto notes = two.b.seen.notes();
  EXPECT_EQ(std::count(notes.begin(), notes.end(), "closed 0"), 300);
}

TEST(TcpLinks, TheLastWishOfATimerCounts) {
  Node a{0};
  a.start({a.own});
  RealClock clock;
  const Nanoseconds begin = clock.now();
  a.call([&](TcpLinks& links) {
    links.wake_at(begin + 10 * kMillisecond);
    links.wake_at(begin + 200 * kMillisecond);
  });
  const std::string note = a.seen.next();
  ASSERT_EQ(note.substr(0, 6), "timer ");
  EXPECT_GE(std::stoll(note.substr(6)), begin + 200 * kMillisecond);
  EXPECT_EQ(a.seen.next(std::chrono::milliseconds(100)), "");
}

TEST(TcpLinks, ChildrenInheritNoSocket) {
  Two two;
  two.a.dial(1);
  EXPECT_TRUE(two.b.seen.await("opened 0"));
  int sockets = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error);
    if (error || target.find("socket:") != 0) continue;
    const int flags = ::fcntl(std::stoi(entry.path().filename()), F_GETFD);
    // Sockets of the test's surroundings (its standard streams) are not ours.
    if (std::stoi(entry.path().filename()) < 3) continue;
    ++sockets;
    EXPECT_TRUE(flags & FD_CLOEXEC) << entry.path();
  }
  EXPECT_GE(sockets, 4);  // two listeners, two ends
}

TEST(TcpLinks, AThreadThatIsStuckIsLeftBehind) {
  auto node = std::make_unique<Node>(0);
  node->start({node->own});
  std::promise<void> stuck, done;
  node->links->post([&](Nanoseconds) { stuck.get_future().wait(); });
  EXPECT_FALSE(node->links->stop(100 * kMillisecond));
  node->links->post([&](Nanoseconds) { done.set_value(); });
  stuck.set_value();
  done.get_future().wait();
  // It has ended its links and calls nobody any more: the node may go.
}

}  // namespace
}  // namespace elaswave::member::test
