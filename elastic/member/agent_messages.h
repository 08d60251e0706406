// What agents say to each other: one byte of version, one of kind, the sender's generation, then
// the fields of the kind; little endian, exact lengths, sets as bitmaps over the world ranks. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "elastic/member/agent_ranks.h"

namespace elaswave::member {

enum class Kind : std::uint8_t {
  hello = 1,  // first on every link: who is there
  heartbeat,
  ping,  // answered at once by pong with the same nonce
  pong,
  suspect,  // flooded: doubts
  alive,    // flooded: the rank itself answers a doubt
  prepare,  // wave
  accept,   // wave
  echo,     // what a wave brought together below the sender
  decide,   // flooded: the next view
  stale,    // the sender's view, to whoever spoke of an older one or is no member
  goodbye,  // this process leaves in good order
  unlink,   // the sender does not need this link; it ends if the other does not need it either
  severed,  // flooded: pairs that do not reach each other, and those that do again
};

struct Ballot {
  std::uint32_t round = 0;  // 0: none
  std::int32_t proposer = -1;
  bool operator==(const Ballot&) const = default;
  friend bool operator<(const Ballot& a, const Ballot& b) {
    return a.round != b.round ? a.round < b.round : a.proposer < b.proposer;
  }
};

struct Accepted {
  Ballot ballot;
  RankSet value;
};

enum class Phase : std::uint8_t { prepare, accept };

/// A doubt about `rank`. `life` counts how often the rank has answered one: an answer ends all
/// doubts of lower or equal lives. `ended`: proof, which no answer ends.
struct Doubt {
  std::int32_t rank = 0;
  std::uint32_t life = 0;
  bool ended = false;
};

/// `by` does not reach `from`, though others do. `number` counts what `by` says of it: odd, it is
/// so; even, it no longer is.
struct Severed {
  std::int32_t by = 0, from = 0;
  std::uint32_t number = 0;
};

/// Only the fields of `kind` travel; the others keep their defaults.
struct Message {
  Kind kind = Kind::heartbeat;
  std::uint32_t generation = 0;  // the sender's; of decide and stale: that of `ranks`

  std::uint64_t run = 0;             // hello
  std::uint64_t incarnation = 0;     // hello
  std::int32_t rank = 0;             // hello: the sender; alive: who answers
  std::uint64_t nonce = 0;           // ping, pong
  std::uint32_t life = 0;            // alive
  std::vector<Doubt> doubts;         // suspect
  std::vector<Severed> severed;      // severed
  Ballot ballot;                     // prepare, accept, echo
  Phase phase = Phase::prepare;      // echo
  Ballot higher;                     // echo: the highest ballot promised below, when above `ballot`
  RankSet ended;                     // prepare, accept: known to have ended
  RankSet ranks;                     // accept: value; echo: votes; decide, stale: members
  std::optional<Accepted> accepted;  // echo of prepare: the highest below
  bool member = false;               // stale: the receiver is one
};

std::vector<std::byte> encode(const Message& message);
/// Nothing for whatever is not exactly a message in a world of `world_size` ranks.
std::optional<Message> decode(std::span<const std::byte> bytes, std::int32_t world_size);

/// The bytes of a claim: the half that asks for it.
std::vector<std::byte> encode_claim(const RankSet& half);
std::optional<RankSet> decode_claim(std::span<const std::byte> bytes, std::int32_t world_size);

}  // namespace elaswave::member
