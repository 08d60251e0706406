// The agent: one rank's part in deciding who is a member. A pure state machine, (event, now) ->
// effects, without threads, sockets or clocks; its shell is agent_shell.h. Messages, invariants and
// the safety argument stand in README.md.
//
// Detection: a link that ends, a peer that falls silent. Agreement: single-decree Paxos for each
// generation, voters are the members of the view before. A decided view never rolls back; whoever
// is not in it, or cannot be part of deciding the next one, fences itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "elastic/member/view.h"

namespace elaswave::member {

/// As io/base/clock.h has it; this header stays free of clocks.
using Nanoseconds = std::int64_t;

struct AgentOptions {
  std::int32_t world_rank = 0;
  std::int32_t world_size = 1;
  std::uint64_t run = 0;          // identity of the run: messages of another are not read
  std::uint64_t incarnation = 0;  // of this process
  Nanoseconds heartbeat = 100'000'000;
  /// A peer that was silent for so long is suspected, at least: the limit grows with the scheduling
  /// delay this agent measures on itself (README).
  Nanoseconds silence = 3'000'000'000;
  /// Without a decision for so long after a suspicion, this rank fences itself.
  Nanoseconds patience = 20'000'000'000;
  /// An exact half may decide when it wins the claim of the generation (Claim); otherwise only the
  /// half with the lowest world rank.
  bool claims = false;
};

// --- events -------------------------------------------------------------------------------------
struct Started {};
struct LinkOpened {
  std::int32_t peer = 0;
};
struct LinkClosed {
  std::int32_t peer = 0;
};
struct DialRefused {
  std::int32_t peer = 0;
};
struct DialUnreachable {
  std::int32_t peer = 0;
};
struct Received {
  std::int32_t peer = 0;
  std::span<const std::byte> bytes;
};
struct TimerFired {};
/// The answer to Claim: the value that holds the claim, this rank's or another's; none: the store
/// cannot be reached, which is a loss.
struct ClaimHeld {
  Generation generation{};
  std::optional<std::vector<std::byte>> value;
};
/// The data plane waits in vain for this peer, whatever the links say: it is asked, and when it
/// does not answer here though others vouch for it, one of the two has to go (README).
struct Accused {
  std::int32_t peer = 0;
};
/// This process leaves in good order.
struct Leaving {};
using Event = std::variant<Started, LinkOpened, LinkClosed, DialRefused, DialUnreachable, Received,
                           TimerFired, ClaimHeld, Accused, Leaving>;

// --- effects, to be carried out in order
// ----------------------------------------------------------
struct Dial {
  std::int32_t peer = 0;
};
struct Close {
  std::int32_t peer = 0;
};
struct Send {
  std::int32_t peer = 0;
  std::vector<std::byte> bytes;
};
struct WakeAt {
  Nanoseconds at = 0;
};
struct Claim {
  Generation generation{};
  std::vector<std::byte> value;
};
/// The next view is decided and this rank is in it. Generations come in ascending order, perhaps
/// not every one.
struct Install {
  View view;
  std::vector<std::int32_t> lost;  // members of the view installed before that are not in this one
  Nanoseconds suspected_at = 0;    // when this agent first doubted one of them
};
/// This rank is no member any more, or cannot know: the process must stop, write nothing and leave
/// with exit code 7. The last effect ever.
struct Fence {
  std::string why;
};
using Effect = std::variant<Dial, Close, Send, WakeAt, Claim, Install, Fence>;

class Agent {
 public:
  /// Starts in generation 0 with all world ranks as members.
  explicit Agent(const AgentOptions& options);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  /// REQUIRES: `now` never falls.
  std::vector<Effect> step(const Event& event, Nanoseconds now);

  const View& view() const;
  bool fenced() const;
  /// World ranks known to have ended, ascending.
  std::vector<std::int32_t> proven_dead() const;
  /// One line for reports: view, suspects, ballot.
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace elaswave::member
