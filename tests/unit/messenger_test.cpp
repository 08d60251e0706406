// The message protocol against a wire that lies: damaged bytes, foreign headers, requests that
// never end, tags that repeat.
#include "parallel/comm/messenger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

namespace elaswave::comm {
namespace {

using ::testing::HasSubstr;

struct Parcel {
  int to = 0;
  Tag tag = 0;
  std::vector<std::byte> bytes;
};

/// Two ranks in one process. Sends complete at once; `tamper` sees every parcel on its way.
struct Pair {
  std::deque<Parcel> parcels;
  std::function<void(Parcel&)> tamper;
  std::vector<Tag> tags;
};

class PairWire final : public Wire {
 public:
  PairWire(Pair& pair, int world_rank) : pair_(pair), world_rank_(world_rank) {}
  int world_rank() const override { return world_rank_; }
  int size() const override { return 2; }
  Result<void> start_send(int to, Tag tag, std::span<const std::byte> bytes, Token token) override {
    Parcel parcel{to, tag, {bytes.begin(), bytes.end()}};
    pair_.tags.push_back(tag);
    if (pair_.tamper) pair_.tamper(parcel);
    pair_.parcels.push_back(std::move(parcel));
    done_.push_back({token, Outcome::done, 0});
    return {};
  }
  Result<void> start_receive(int, Tag tag, std::span<std::byte> buffer, Token token) override {
    posted_.push_back({tag, buffer, token});
    return {};
  }
  Result<void> poll(std::vector<Completion>& completed) override {
    completed.insert(completed.end(), done_.begin(), done_.end());
    done_.clear();
    for (auto posted = posted_.begin(); posted != posted_.end();) {
      auto parcel = pair_.parcels.begin();
      while (parcel != pair_.parcels.end() &&
             (parcel->to != world_rank_ || parcel->tag != posted->tag))
        ++parcel;
      if (parcel == pair_.parcels.end()) {
        ++posted;
        continue;
      }
      std::copy(parcel->bytes.begin(), parcel->bytes.end(), posted->buffer.begin());
      completed.push_back(
          {posted->token, Outcome::done, static_cast<std::int64_t>(parcel->bytes.size())});
      pair_.parcels.erase(parcel);
      posted = posted_.erase(posted);
    }
    return {};
  }
  void abandon(Token) override {}  // nothing can be taken back: every request stays until it is met
  Result<void> close() override { return {}; }

 private:
  struct Posted {
    Tag tag;
    std::span<std::byte> buffer;
    Token token;
  };
  Pair& pair_;
  int world_rank_;
  std::vector<Posted> posted_;
  std::vector<Completion> done_;
};

MessengerOptions options(Checksum checksum = Checksum::on) {
  MessengerOptions options;
  options.payload_bytes = 100;
  options.control_payload_bytes = 100;
  options.checksum = checksum;
  return options;
}

constexpr int kBoth[] = {0, 1};
constexpr int kRight[] = {1};  // the left rank is dead

struct Ranks {
  explicit Ranks(MessengerOptions how) : left(&left_wire, 0, how), right(&right_wire, 1, how) {}
  void run() {
    while (left.progress() || right.progress()) {
    }
  }
  Pair pair;
  PairWire left_wire{pair, 0}, right_wire{pair, 1};
  Messenger left, right;
};

/// One message of 250 bytes (three chunks) from left to right; returns right's error, if any.
std::optional<Error> exchange(Ranks& ranks, std::vector<std::byte>& target, Generation generation) {
  std::vector<std::byte> source(250, std::byte{5});
  const auto send = make_send(1, Channel::reduce, generation, {source});
  const auto receive = make_receive(0, Channel::reduce, generation, {target});
  ranks.left.submit(send);
  ranks.right.submit(receive);
  ranks.run();
  if (!ranks.right.failure()) {
    EXPECT_EQ(receive->phase.load(), Phase::done);
    EXPECT_EQ(target, source);
  }
  return ranks.right.failure();
}

TEST(Messenger, crc32c_is_castagnolis) {
  const char digits[] = "123456789";
  const auto bytes = std::as_bytes(std::span(digits, 9));
  EXPECT_EQ(crc32c(bytes), 0xE3069283u);  // RFC 3720, appendix B.4, and the usual check value
  EXPECT_EQ(crc32c(bytes.subspan(4), crc32c(bytes.first(4))), 0xE3069283u);
  const std::vector<std::byte> zeros(32);
  EXPECT_EQ(crc32c(zeros), 0x8A9136AAu);
}

TEST(Messenger, a_clean_exchange_works_with_and_without_checksums) {
  for (const auto checksum : {Checksum::on, Checksum::off}) {
    Ranks ranks(options(checksum));
    std::vector<std::byte> target(250);
    EXPECT_FALSE(exchange(ranks, target, Generation{}));
    EXPECT_EQ(ranks.left.lent_bytes(), 0);
    EXPECT_EQ(ranks.right.lent_bytes(), 0);
  }
}

// Every byte of a chunk matters: whichever is flipped, the receiver must say so and hand nothing
// over from that chunk.
TEST(Messenger, any_flipped_bit_is_found) {
  for (std::size_t bit = 0; bit < (64 + 100) * 8; ++bit) {
    const std::size_t position = bit / 8;
    Ranks ranks(options());
    int parcels = 0;
    ranks.pair.tamper = [&](Parcel& parcel) {
      if (parcels++ == 1) parcel.bytes[position] ^= std::byte{1} << (bit % 8);
    };
    std::vector<std::byte> target(250);
    const auto error = exchange(ranks, target, Generation{});
    ASSERT_TRUE(error) << "byte " << position;
    // Anything but a field that says what the chunk is: then it is clear what has happened.
    const bool unsaid = position >= 64 || (position >= 56 && position < 60);
    EXPECT_EQ(error->code, unsaid ? Code::corrupt : Code::unrecoverable) << "byte " << position;
    EXPECT_EQ(target[150], std::byte{0}) << "byte " << position;
  }
}

TEST(Messenger, damaged_payload_is_called_damaged) {
  Ranks ranks(options());
  ranks.pair.tamper = [](Parcel& parcel) { parcel.bytes.back() ^= std::byte{1}; };
  std::vector<std::byte> target(250);
  const auto error = exchange(ranks, target, Generation{});
  ASSERT_TRUE(error);
  EXPECT_THAT(error->what, HasSubstr("damaged bytes from rank 0"));
}

TEST(Messenger, a_truncated_chunk_is_found_without_checksums) {
  for (const std::size_t bytes : {0u, 63u, 64u, 100u}) {
    Ranks ranks(options(Checksum::off));
    ranks.pair.tamper = [bytes](Parcel& parcel) { parcel.bytes.resize(bytes); };
    std::vector<std::byte> target(250);
    EXPECT_TRUE(exchange(ranks, target, Generation{})) << bytes;
  }
}

TEST(Messenger, tags_carry_generation_channel_kind_and_sequence) {
  EXPECT_EQ(make_tag(Generation{0}, Channel::control, ChunkKind::data, 0), 0);
  EXPECT_EQ(make_tag(Generation{511}, Channel::state, ChunkKind::acknowledgement, (1u << 17) - 1),
            511 << 21 | 1 << 20 | 4 << 17 | ((1 << 17) - 1));
  EXPECT_EQ(make_tag(Generation{512}, Channel::control, ChunkKind::data, 1u << 17), 0);
  EXPECT_LE(make_tag(Generation{511}, Channel::state, ChunkKind::acknowledgement, (1u << 17) - 1),
            kLargestTag);
}

TEST(Messenger, sequences_start_again_with_each_generation_and_old_parcels_do_not_match) {
  Ranks ranks(options());
  std::vector<std::byte> stale(10), target(250);
  ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {stale}));  // never received
  for (Messenger* messenger : {&ranks.left, &ranks.right}) messenger->enter(Generation{1}, kBoth);
  EXPECT_FALSE(exchange(ranks, target, Generation{1}));
}

TEST(Messenger, abandoned_requests_keep_their_buffers_until_they_end) {
  Ranks ranks(options());
  std::vector<std::byte> target(10, std::byte{1});
  const auto receive = make_receive(0, Channel::reduce, Generation{}, {target});
  ranks.right.submit(receive);
  ranks.right.abandon_all();
  EXPECT_EQ(receive->phase.load(), Phase::abandoned);
  EXPECT_EQ(ranks.right.buried_requests(), 1);
  EXPECT_GT(ranks.right.buried_bytes(), 0);
  EXPECT_TRUE(ranks.right.idle());
  EXPECT_TRUE(ranks.right.watching());
  // The message comes after all: it must end in the buffer of the transport, not in `target`.
  std::vector<std::byte> source(10, std::byte{2});
  ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {source}));
  ranks.run();
  EXPECT_EQ(target, std::vector<std::byte>(10, std::byte{1}));
  EXPECT_EQ(ranks.right.buried_requests(), 0);
  EXPECT_EQ(ranks.right.lent_bytes(), 0);
}

TEST(Messenger, the_graveyard_is_bounded) {
  MessengerOptions small = options();
  small.graveyard_limit_bytes = 400;
  Ranks ranks(small);
  std::vector<std::byte> target(10);
  std::uint32_t generation = 0;
  while (!ranks.right.failure() && generation < 100) {
    ranks.right.submit(make_receive(0, Channel::reduce, Generation{generation}, {target}));
    ranks.right.enter(Generation{++generation}, kRight);
  }
  ASSERT_TRUE(ranks.right.failure());
  EXPECT_EQ(generation, 3u);  // 164 bytes each
  EXPECT_THAT(ranks.right.failure()->why, HasSubstr("the limit is 400"));
}

TEST(Messenger, an_abandoned_request_may_not_meet_its_own_tag_again) {
  Ranks ranks(options());
  std::vector<std::byte> target(10);
  ranks.right.submit(make_receive(0, Channel::reduce, Generation{}, {target}));
  ranks.right.enter(Generation{511}, kBoth);
  EXPECT_FALSE(ranks.right.failure());
  ranks.right.enter(Generation{512}, kBoth);
  ASSERT_TRUE(ranks.right.failure());
  EXPECT_THAT(ranks.right.failure()->why, HasSubstr("tags repeat after 512 generations"));
}

/// Nothing passes between the two while `open` is false.
MessengerOptions cut_options(const bool& open) {
  MessengerOptions how = options();
  how.reachable = [&open](int) { return open; };
  return how;
}

TEST(Messenger, what_a_cut_holds_back_goes_out_in_order_when_it_heals) {
  bool open = false;
  Ranks ranks(cut_options(open));
  std::vector<std::vector<std::byte>> sources, targets(20, std::vector<std::byte>(250));
  std::vector<TransferPtr> receives;
  for (int i = 0; i < 20; ++i) sources.emplace_back(250, static_cast<std::byte>(i));
  for (std::size_t i = 0; i < 20; ++i) {
    ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {sources[i]}));
    receives.push_back(make_receive(0, Channel::reduce, Generation{}, {targets[i]}));
    ranks.right.submit(receives.back());
  }
  ranks.run();
  EXPECT_TRUE(ranks.pair.tags.empty());
  EXPECT_FALSE(ranks.left.idle());
  open = true;
  ranks.run();  // acknowledgements included: 60 chunks are more than one window
  EXPECT_EQ(targets, sources);
  EXPECT_TRUE(std::is_sorted(ranks.pair.tags.begin(), ranks.pair.tags.begin() + 8));
  EXPECT_EQ(ranks.left.lent_bytes() + ranks.right.lent_bytes(), 0);
}

TEST(Messenger, what_comes_after_a_cut_waits_for_what_came_before) {
  bool open = false;
  Ranks ranks(cut_options(open));
  std::vector<std::byte> source(250);
  ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {source}));
  open = true;
  ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {source}));
  ranks.run();
  ASSERT_EQ(ranks.pair.tags.size(), 6u);
  EXPECT_TRUE(std::is_sorted(ranks.pair.tags.begin(), ranks.pair.tags.end()));
}

TEST(Messenger, what_is_held_when_a_view_comes_is_drained_after_the_cut) {
  bool open = false;
  Ranks ranks(cut_options(open));
  std::vector<std::byte> stale(250), target(250);
  ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {stale}));
  for (Messenger* messenger : {&ranks.left, &ranks.right}) messenger->enter(Generation{1}, kBoth);
  ranks.run();
  EXPECT_FALSE(ranks.right.drained());
  open = true;
  EXPECT_FALSE(exchange(ranks, target, Generation{1}));
  EXPECT_TRUE(ranks.left.drained() && ranks.right.drained());
  EXPECT_EQ(ranks.left.buried_requests() + ranks.left.lent_bytes(), 0);
}

TEST(Messenger, what_is_held_for_the_dead_is_never_sent) {
  bool open = false;
  Ranks ranks(cut_options(open));
  std::vector<std::byte> source(250);
  ranks.right.submit(make_send(0, Channel::reduce, Generation{}, {source}));
  ranks.right.enter(Generation{1}, kRight);
  EXPECT_EQ(ranks.right.buried_requests() + ranks.right.lent_bytes(), 0);
  open = true;
  ranks.run();
  EXPECT_TRUE(ranks.pair.tags.empty());
}

TEST(Messenger, a_message_spoiled_on_purpose_is_found_before_its_bytes_are_taken) {
  int asked = 0;
  MessengerOptions how = options();
  how.spoils = [&asked] { return ++asked == 2; };
  Ranks ranks(how);
  std::vector<std::byte> first(250), second(250);
  EXPECT_FALSE(exchange(ranks, first, Generation{}));
  EXPECT_EQ(asked, 1);  // for three chunks
  const auto error = exchange(ranks, second, Generation{});
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, Code::corrupt);
  EXPECT_THAT(error->what, HasSubstr("rank 1 received damaged bytes from rank 0"));
  EXPECT_THAT(error->where, HasSubstr("channel reduce, message 1"));
  EXPECT_EQ(second, std::vector<std::byte>(250));
}

TEST(Messenger, tags_wrap_without_a_gap) {
  Ranks ranks(options(Checksum::off));
  std::vector<std::byte> source(1), target(1);
  const int messages = (1 << 17) + 100;
  for (int i = 0; i < messages; ++i) {
    source[0] = static_cast<std::byte>(i);
    ranks.left.submit(make_send(1, Channel::reduce, Generation{}, {source}));
    const auto receive = make_receive(0, Channel::reduce, Generation{}, {target});
    ranks.right.submit(receive);
    ranks.run();
    ASSERT_EQ(receive->phase.load(), Phase::done) << i;
    ASSERT_EQ(target[0], source[0]) << i;
  }
}

}  // namespace
}  // namespace elaswave::comm
