#include "elastic/member/agent_messages.h"

#include <concepts>
#include <utility>

namespace elaswave::member {
namespace {

constexpr std::uint8_t kVersion = 1;
constexpr std::uint8_t kClaimVersion = 1;
/// Rounds and lives are counted up from what peers say: far from the end of their type, so that no
/// message can make the next one wrap.
constexpr std::uint32_t kLargestCount = 1u << 31;

class Writer {
 public:
  template <std::unsigned_integral T>
  void number(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i)
      bytes_.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xFF));
  }
  void rank(std::int32_t value) { number(static_cast<std::uint32_t>(value)); }
  void flag(bool value) { number(static_cast<std::uint8_t>(value ? 1 : 0)); }
  void ballot(const Ballot& value) {
    number(value.round);
    rank(value.proposer);
  }
  void set(const RankSet& value) {
    for (std::int32_t base = 0; base < value.world_size(); base += 8) {
      std::uint8_t bits = 0;
      for (std::int32_t i = 0; i < 8; ++i)
        if (value.has(base + i)) bits = static_cast<std::uint8_t>(bits | (1u << i));
      number(bits);
    }
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads past the end give zeros and are remembered.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::int32_t world_size)
      : bytes_(bytes), world_size_(world_size) {}

  template <std::unsigned_integral T>
  T number() {
    if (bytes_.size() < sizeof(T)) {
      good_ = false;
      bytes_ = {};
      return 0;
    }
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
      value |= static_cast<std::uint64_t>(bytes_[i]) << (8 * i);
    bytes_ = bytes_.subspan(sizeof(T));
    return static_cast<T>(value);
  }
  std::int32_t rank() {
    const auto value = number<std::uint32_t>();
    if (value >= static_cast<std::uint32_t>(world_size_)) good_ = false;
    return good_ ? static_cast<std::int32_t>(value) : 0;
  }
  bool flag() {
    const auto value = number<std::uint8_t>();
    if (value > 1) good_ = false;
    return value == 1;
  }
  /// `none`: whether the ballot that stands for none is allowed.
  Ballot ballot(bool none) {
    Ballot value;
    value.round = number<std::uint32_t>();
    const auto proposer = number<std::uint32_t>();
    const bool is_none = value.round == 0 && proposer == static_cast<std::uint32_t>(-1);
    if (is_none && none) return {};
    if (value.round == 0 || value.round > kLargestCount ||
        proposer >= static_cast<std::uint32_t>(world_size_))
      good_ = false;
    value.proposer = good_ ? static_cast<std::int32_t>(proposer) : -1;
    return value;
  }
  RankSet set() {
    RankSet value(world_size_);
    for (std::int32_t base = 0; base < world_size_; base += 8) {
      const auto bits = number<std::uint8_t>();
      for (std::int32_t i = 0; i < 8; ++i) {
        if ((bits >> i & 1) == 0) continue;
        if (base + i >= world_size_) good_ = false;
        if (good_) value.add(base + i);
      }
    }
    return value;
  }
  std::uint32_t life() {
    const auto value = number<std::uint32_t>();
    if (value > kLargestCount) good_ = false;
    return value;
  }
  void check(bool condition) { good_ = good_ && condition; }
  bool good() const { return good_; }
  bool at_end() const { return good_ && bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
  std::int32_t world_size_;
  bool good_ = true;
};

void write_echo(Writer& to, const Message& message) {
  to.ballot(message.ballot);
  to.number(static_cast<std::uint8_t>(message.phase));
  to.ballot(message.higher);
  to.set(message.ranks);
  to.flag(message.accepted.has_value());
  if (!message.accepted) return;
  to.ballot(message.accepted->ballot);
  to.set(message.accepted->value);
}

void read_echo(Reader& from, Message& message) {
  message.ballot = from.ballot(false);
  const auto phase = from.number<std::uint8_t>();
  from.check(phase <= 1);
  message.phase = phase == 0 ? Phase::prepare : Phase::accept;
  message.higher = from.ballot(true);
  message.ranks = from.set();
  if (!from.flag()) return;
  const Ballot ballot = from.ballot(false);
  message.accepted = Accepted{ballot, from.set()};
  from.check(!message.accepted->value.empty());
}

void write_severed(Writer& to, const Message& message) {
  to.number(static_cast<std::uint32_t>(message.severed.size()));
  for (const Severed& one : message.severed) {
    to.rank(one.by);
    to.rank(one.from);
    to.number(one.number);
  }
}

/// A count that is too high ends with the bytes.
void read_severed(Reader& from, Message& message) {
  const auto count = from.number<std::uint32_t>();
  from.check(count >= 1);
  for (std::uint32_t i = 0; i < count && from.good(); ++i) {
    Severed one;
    one.by = from.rank();
    one.from = from.rank();
    one.number = from.life();
    from.check(one.by != one.from && one.number >= 1);
    message.severed.push_back(one);
  }
}

void write_fields(Writer& to, const Message& message) {
  switch (message.kind) {
    case Kind::hello:
      to.number(message.run);
      to.number(message.incarnation);
      to.rank(message.rank);
      return;
    case Kind::ping:
    case Kind::pong:
      to.number(message.nonce);
      return;
    case Kind::suspect:
      to.number(static_cast<std::uint32_t>(message.doubts.size()));
      for (const Doubt& doubt : message.doubts) {
        to.rank(doubt.rank);
        to.number(doubt.life);
        to.flag(doubt.ended);
      }
      return;
    case Kind::alive:
      to.rank(message.rank);
      to.number(message.life);
      return;
    case Kind::prepare:
    case Kind::accept:
      to.ballot(message.ballot);
      to.set(message.ended);
      if (message.kind == Kind::accept) to.set(message.ranks);
      return;
    case Kind::echo:
      write_echo(to, message);
      return;
    case Kind::severed:
      write_severed(to, message);
      return;
    case Kind::decide:
      to.set(message.ranks);
      return;
    case Kind::stale:
      to.set(message.ranks);
      to.flag(message.member);
      return;
    case Kind::heartbeat:
    case Kind::goodbye:
    case Kind::unlink:
      return;
  }
}

void read_fields(Reader& from, Message& message, std::int32_t world_size) {
  switch (message.kind) {
    case Kind::hello:
      message.run = from.number<std::uint64_t>();
      message.incarnation = from.number<std::uint64_t>();
      message.rank = from.rank();
      return;
    case Kind::ping:
    case Kind::pong:
      message.nonce = from.number<std::uint64_t>();
      return;
    case Kind::suspect: {
      const auto count = from.number<std::uint32_t>();
      from.check(count >= 1 && count <= static_cast<std::uint32_t>(world_size));
      for (std::uint32_t i = 0; i < count && from.good(); ++i) {
        Doubt doubt;
        doubt.rank = from.rank();
        doubt.life = from.life();
        doubt.ended = from.flag();
        message.doubts.push_back(doubt);
      }
      return;
    }
    case Kind::alive:
      message.rank = from.rank();
      message.life = from.life();
      return;
    case Kind::prepare:
    case Kind::accept:
      message.ballot = from.ballot(false);
      message.ended = from.set();
      if (message.kind == Kind::accept) {
        message.ranks = from.set();
        from.check(!message.ranks.empty());
      }
      return;
    case Kind::echo:
      read_echo(from, message);
      return;
    case Kind::severed:
      read_severed(from, message);
      return;
    case Kind::decide:
    case Kind::stale:
      message.ranks = from.set();
      from.check(!message.ranks.empty());
      if (message.kind == Kind::stale) message.member = from.flag();
      return;
    case Kind::heartbeat:
    case Kind::goodbye:
    case Kind::unlink:
      return;
  }
}

}  // namespace

std::vector<std::byte> encode(const Message& message) {
  Writer to;
  to.number(kVersion);
  to.number(static_cast<std::uint8_t>(message.kind));
  to.number(message.generation);
  write_fields(to, message);
  return to.take();
}

std::optional<Message> decode(std::span<const std::byte> bytes, std::int32_t world_size) {
  Reader from(bytes, world_size);
  const auto version = from.number<std::uint8_t>();
  const auto kind = from.number<std::uint8_t>();
  if (version != kVersion || kind < static_cast<std::uint8_t>(Kind::hello) ||
      kind > static_cast<std::uint8_t>(Kind::severed))
    return std::nullopt;
  Message message;
  message.kind = static_cast<Kind>(kind);
  message.generation = from.number<std::uint32_t>();
  read_fields(from, message, world_size);
  if (!from.at_end()) return std::nullopt;
  return message;
}

std::vector<std::byte> encode_claim(const RankSet& half) {
  Writer to;
  to.number(kClaimVersion);
  to.set(half);
  return to.take();
}

std::optional<RankSet> decode_claim(std::span<const std::byte> bytes, std::int32_t world_size) {
  Reader from(bytes, world_size);
  const auto version = from.number<std::uint8_t>();
  RankSet half = from.set();
  if (version != kClaimVersion || !from.at_end()) return std::nullopt;
  return half;
}

}  // namespace elaswave::member
