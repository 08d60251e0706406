// What an agent knows and does; internal to the agent_*.cpp files, which share it by subject:
// links, suspects, ballot, view. Pure. All times are those of the events.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "elastic/member/agent.h"
#include "elastic/member/agent_messages.h"
#include "elastic/member/agent_ranks.h"

namespace elaswave::member {

inline constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();

struct Link {
  enum class At : std::uint8_t { none, dialing, open };
  At at = At::none;
  bool dialled = false;     // by this end
  bool greeted = false;     // its hello was good: it speaks for the process we know
  bool vouched = false;     // silent, but there, as others say: nothing has come over it since
  bool unlinked = false;    // it was told that this end does not need the link
  std::uint32_t told = 0;   // the last generation it was told of by stale or decide
  std::uint32_t asked = 0;  // the last newer generation that this end asked it about
  Nanoseconds heard_at = 0;
  Nanoseconds sent_at = 0;
  Nanoseconds dial_at = kNever;
};

/// A peer that the data plane waits for in vain and that has not answered this agent yet.
struct Question {
  Nanoseconds since = 0;
  Nanoseconds ask_at = 0;  // next
  bool doubted = false;    // the others have been asked as well
  bool severed = false;    // it is there, they say, and does not answer here: told to all
};

/// What is known of a pair: the newest word of the rank that told of it.
struct Cut {
  std::uint32_t number = 0;  // Severed::number
  Nanoseconds since = 0;     // learned
};

/// One phase of one ballot on its way through the overlay.
struct Wave {
  Ballot ballot;
  Phase phase = Phase::prepare;
  std::int32_t parent = -1;  // -1: this agent is the proposer
  bool done = false;
  RankSet sent;     // to whom it was passed on
  RankSet waiting;  // who of them has not echoed
  RankSet votes;
  std::optional<Accepted> best;
  Ballot higher;
};

/// The ballot this agent proposes in; its wave is the current one.
struct Proposal {
  Ballot ballot;
  Phase phase = Phase::prepare;
  RankSet ended;  // as sent with the phase under way
  RankSet value;
  Nanoseconds started_at = 0;
  bool claiming = false;
};

/// This agent's own timer came so late that others may have gone on without it.
struct Waking {
  Nanoseconds since = 0;
  RankSet heard;  // answered since
};

struct Agent::State {
  explicit State(const AgentOptions& given);
  std::vector<Effect> step(const Event& event, Nanoseconds at);

  // --- agent.cpp: events, time ------------------------------------------------------------------
  void handle(const Event& event);
  void measure_lateness();
  void tick();
  Nanoseconds next_wake() const;
  template <typename T>
  void emit(T effect) {
    if (!over()) effects.emplace_back(std::in_place_type<T>, std::move(effect));
  }
  /// Nothing happens any more: fenced, or left in good order.
  bool over() const { return fenced || left; }
  Nanoseconds limit() const;   // of silence
  Nanoseconds settle() const;  // lets what ends together be doubted together
  std::string text() const;

  // --- agent_links.cpp --------------------------------------------------------------------------
  void opened(std::int32_t peer);
  void closed(std::int32_t peer);
  void refused(std::int32_t peer);
  void unreachable(std::int32_t peer);
  void received(std::int32_t peer, std::span<const std::byte> bytes);
  void on_hello(std::int32_t peer, const Message& message);
  void on_unlink(std::int32_t peer);
  bool same_generation(std::int32_t peer, const Message& message);
  void dispatch(std::int32_t peer, const Message& message);
  void send(std::int32_t peer, Message message);
  void flood(const Message& message, std::int32_t except);
  void close(std::int32_t peer);
  /// Members with a greeted link that are not known to have ended.
  std::vector<std::int32_t> peers() const;
  void refresh_overlay();
  void keep_links();
  void watch_silence();
  Nanoseconds next_link_wake() const;
  void wake_late();
  void heard_awake(std::int32_t peer);
  void end_waking_if_heard();

  // --- agent_suspects.cpp -----------------------------------------------------------------------
  void learn(const std::vector<Doubt>& doubts, std::int32_t from);
  bool learn_one(const Doubt& doubt, std::int32_t from);
  void learn_ended(const RankSet& ranks, std::int32_t from);
  void suspect(std::int32_t rank);
  void learn_end(std::int32_t rank) { learn({{rank, 0, true}}, -1); }
  void on_doubted(const Doubt& doubt);
  void learn_alive(std::int32_t rank, std::uint32_t answer, std::int32_t from);
  std::vector<Doubt> doubts() const;
  /// Whether the next view has to be decided.
  bool pending() const {
    return accepted.has_value() || !suspected.empty() || !severed_pairs(ended, 0).empty();
  }

  // --- agent_severed.cpp ------------------------------------------------------------------------
  void accused(std::int32_t peer);
  void answered(std::int32_t peer);
  void ask();
  void ask(std::int32_t peer, Question& question);
  Nanoseconds next_question() const;
  Nanoseconds patience_with_answers() const { return 2 * options.heartbeat; }
  void say_severed(std::int32_t peer);
  void learn_severed(const std::vector<Severed>& heard, std::int32_t from);
  std::vector<Severed> all_severed() const;
  std::vector<RankPair> severed_pairs(const RankSet& lost, Nanoseconds least) const;
  bool severed_from(std::int32_t peer) const;
  /// A ballot would wait there for nothing: its messages reach `peer` by way of others, if at all.
  bool mute(std::int32_t peer) const;

  // --- agent_ballot.cpp -------------------------------------------------------------------------
  Nanoseconds attempt_at() const;
  Nanoseconds turn() const;
  void attempt();
  RankSet given_up_on() const;
  void start_ballot();
  void on_wave(std::int32_t peer, const Message& message);
  void join_wave(const Message& message, std::int32_t parent);
  void on_echo(std::int32_t peer, const Message& message);
  void echo(std::int32_t to, const Message& to_what, Ballot higher);
  void drop_from_wave(std::int32_t peer);
  void finish_wave();
  void echo_wave(Ballot higher);
  void judge_wave();
  void propose();
  void give_up();
  void on_claim(const ClaimHeld& held);

  // --- agent_view.cpp ---------------------------------------------------------------------------
  void install(std::uint32_t generation, const RankSet& next, std::int32_t from);
  void start_generation(std::uint32_t generation, const RankSet& next);
  void on_view(std::int32_t peer, const Message& message);
  void tell(std::int32_t peer);
  void fence(const std::string& why);
  void leave();
  void on_goodbye(std::int32_t peer, std::uint32_t generation);

  // --- who this is ------------------------------------------------------------------------------
  AgentOptions options;
  std::int32_t self = 0;
  Nanoseconds now = 0;
  std::vector<Effect> effects;
  bool fenced = false;
  bool left = false;

  // --- the view and its members -----------------------------------------------------------------
  View view;
  RankSet members;                                 // of view
  RankSet suspected;                               // members doubted or ended
  RankSet ended;                                   // world ranks known to have ended; only grows
  RankSet gone;                                    // said goodbye
  std::map<std::int32_t, Nanoseconds> doubted_at;  // of suspected, and of ended ones before that
  std::vector<std::uint32_t> lives;                // by world rank: the highest heard of
  std::vector<std::optional<std::uint64_t>> incarnations;
  std::map<RankPair, Cut> severed;  // members, by (who told of it, the other)
  std::map<std::int32_t, Question> questions;
  Nanoseconds installed_at = 0;
  Nanoseconds news_at = 0;  // the last new doubt
  Nanoseconds pending_since = kNever;

  // --- links ------------------------------------------------------------------------------------
  std::map<std::int32_t, Link> links;
  RankSet wanted;
  bool overlay_stale = true;

  // --- own timer --------------------------------------------------------------------------------
  Nanoseconds wake_at = kNever;
  Nanoseconds late_now = 0;  // largest lateness of the current and of the period before
  Nanoseconds late_before = 0;
  Nanoseconds late_period_end = 0;
  std::optional<Waking> waking;

  // --- the decision about generation + 1 --------------------------------------------------------
  Ballot promised;
  std::optional<Accepted> accepted;
  std::optional<Wave> wave;
  std::optional<Proposal> mine;
  std::optional<RankSet> claim;
  std::uint32_t highest_round = 0;
  Nanoseconds attempted_at = -1;
  Nanoseconds progress_at = 0;
};

}  // namespace elaswave::member
