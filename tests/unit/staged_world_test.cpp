// Messages in device memory over worlds that move host memory: the device is behind glass and late,
// its work is done when somebody looks at it often enough.
#include "parallel/comm/staged_world.h"

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <numeric>
#include <vector>

#include "parallel/comm/simulation.h"
#include "tests/support/blind_device.h"

namespace elaswave::comm {
namespace {

using elaswave::testing::BlindDevice;
using Numbers = std::vector<std::int64_t>;

/// A stream that passes its work one by one, a piece for every third look.
class LateStream final : public device::Stream {
 public:
  explicit LateStream(BlindDevice& device) : device_(device) {}
  device::Device& device() override { return device_; }

  void synchronize() override {
    while (!work_.empty()) pass();
  }
  void copy(void* to, const void* from, std::int64_t bytes) override {
    work_.push_back([this, to, from, bytes] {
      const BlindDevice::Opened opened(device_);
      std::copy_n(static_cast<const std::byte*>(from), bytes, static_cast<std::byte*>(to));
    });
  }
  void zero(void* at, std::int64_t bytes) override {
    work_.push_back([this, at, bytes] {
      const BlindDevice::Opened opened(device_);
      std::fill_n(static_cast<std::byte*>(at), bytes, std::byte{0});
    });
  }
  device::Mark mark() override { return device::Mark{passed_ + work_.size()}; }
  bool reached(device::Mark mark) override {
    if (static_cast<std::uint64_t>(mark) > passed_ && ++looks_ % 3 == 0) pass();
    return static_cast<std::uint64_t>(mark) <= passed_;
  }
  void follow(device::Stream&, device::Mark) override {}
  std::unique_ptr<device::Stream> beside() override {
    return std::make_unique<LateStream>(device_);
  }
  std::unique_ptr<device::Stopwatch> stopwatch(const Clock& clock) override {
    return device::host_stopwatch(clock);
  }

 private:
  void pass() {
    work_.front()();
    work_.pop_front();
    ++passed_;
  }

  BlindDevice& device_;
  std::deque<std::function<void()>> work_;
  std::uint64_t passed_ = 0, looks_ = 0;
};

/// A rank's device, and numbers on it.
struct Rank {
  explicit Rank(World& inner) : stream(device), world(inner, stream) {}

  device::Array<std::int64_t> on_device(const Numbers& values) {
    device::Array<std::int64_t> array(device, std::ssize(values));
    write(array, values);
    return array;
  }
  void write(device::Array<std::int64_t>& array, const Numbers& values) {
    kept.push_back(values);  // a late copy reads it later
    stream.copy(array.span().data(), kept.back().data(), array.size_bytes());
  }
  Numbers read(device::Array<std::int64_t>& array) {
    Numbers values(array.span().size());
    stream.copy(values.data(), array.span().data(), array.size_bytes());
    stream.synchronize();
    return values;
  }
  Deadline soon() { return Deadline::after(world.clock(), 10 * kSecond); }
  void finish(const Work& work) {
    const auto done = world.wait(work, "test", soon());
    EXPECT_TRUE(done) << done.error().text();
  }

  std::deque<Numbers> kept;
  BlindDevice device;
  LateStream stream;
  StagedWorld world;
};

Numbers numbers(std::int64_t count, std::int64_t first) {
  Numbers values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}
std::span<const std::byte> bytes_of(const device::Array<std::int64_t>& array) {
  return std::as_bytes(array.span());
}
std::span<std::byte> bytes_of(device::Array<std::int64_t>& array) {
  return std::as_writable_bytes(array.span());
}

void run(const std::function<void(Rank&, int)>& body) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto report =
        simulate({.ranks = 2, .seed = seed, .chunk_bytes = seed % 2 == 0 ? 96 : 4096, .probe = {}},
                 [&](World& world) {
                   Rank rank(world);
                   body(rank, world.world_rank());
                 });
    ASSERT_TRUE(report) << "seed " << seed << ": " << report.error().text();
  }
}

TEST(StagedWorld, messages_keep_their_order_whatever_memory_they_lie_in) {
  run([](Rank& rank, int self) {
    const int peer = 1 - self;
    const auto first = rank.on_device(numbers(300, 1000 * self));
    const Numbers second = numbers(7, 50 + self);
    const auto third = rank.on_device(numbers(2, 77 + self));
    std::vector<Work> works = {
        rank.world.send(peer, Channel::gather, {bytes_of(first)}),
        rank.world.send(peer, Channel::gather, {std::as_bytes(std::span(second))}),
        rank.world.send(peer, Channel::gather,
                        {bytes_of(third), std::as_bytes(std::span(second))})};
    auto got_first = rank.on_device(numbers(300, -1));
    Numbers got_second(7), got_tail(7);
    auto got_third = rank.on_device(numbers(2, -1));
    works.push_back(rank.world.receive(peer, Channel::gather, {bytes_of(got_first)}));
    works.push_back(
        rank.world.receive(peer, Channel::gather, {std::as_writable_bytes(std::span(got_second))}));
    works.push_back(rank.world.receive(
        peer, Channel::gather, {bytes_of(got_third), std::as_writable_bytes(std::span(got_tail))}));
    for (auto work = works.rbegin(); work != works.rend(); ++work) rank.finish(*work);
    rank.stream.synchronize();
    EXPECT_EQ(rank.read(got_first), numbers(300, 1000 * peer));
    EXPECT_EQ(got_second, numbers(7, 50 + peer));
    EXPECT_EQ(rank.read(got_third), numbers(2, 77 + peer));
    EXPECT_EQ(got_tail, numbers(7, 50 + peer));
  });
}

TEST(StagedWorld, a_send_takes_what_was_there_and_memory_is_free_when_it_is_done) {
  run([](Rank& rank, int self) {
    if (self == 0) {
      auto array = rank.on_device(numbers(40, 0));
      for (std::int64_t round = 0; round < 5; ++round) {
        const Work work = rank.world.send(1, Channel::reduce, {bytes_of(std::as_const(array))});
        rank.finish(work);
        rank.finish(work);  // a wait may be repeated
        rank.write(array, numbers(40, 100 * (round + 1)));
      }
      EXPECT_LE(rank.world.staging_bytes(), 3 * array.size_bytes());
      rank.stream.synchronize();  // before the array goes
    } else {
      auto array = rank.on_device(numbers(40, -7));
      for (std::int64_t round = 0; round < 5; ++round) {
        const Work work = rank.world.receive(0, Channel::reduce, {bytes_of(array)});
        while (!rank.world.test(work)) {
        }
        rank.finish(work);
        EXPECT_EQ(rank.read(array), numbers(40, 100 * round));
      }
    }
  });
}

TEST(StagedWorld, a_view_ends_waits_and_the_next_generation_works) {
  run([](Rank& rank, int self) {
    const int peer = 1 - self;
    const auto mine = rank.on_device(numbers(10, self));
    auto theirs = rank.on_device(numbers(10, -1));
    const Work sent = rank.world.send(peer, Channel::state, {bytes_of(mine)});
    const Work never = rank.world.receive(peer, Channel::tensor, {bytes_of(theirs)});
    rank.world.publish_view(Generation{1});
    EXPECT_THROW((void)rank.world.wait(never, "test", rank.soon()), StepAborted);
    EXPECT_THROW((void)rank.world.wait(sent, "test", rank.soon()), StepAborted);
    const std::vector<int> live = {0, 1};
    rank.world.adopt_view(Generation{1}, live);
    const Work again = rank.world.receive(peer, Channel::tensor, {bytes_of(theirs)});
    rank.finish(rank.world.send(peer, Channel::tensor, {bytes_of(mine)}));
    rank.finish(again);
    EXPECT_EQ(rank.read(theirs), numbers(10, peer));
  });
}

}  // namespace
}  // namespace elaswave::comm
