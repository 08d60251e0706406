// Ballots: single-decree Paxos about the members of the next view. Phases travel as waves over the
// overlay; echoes bring the votes back, added up on the way.
#include <algorithm>
#include <tuple>
#include <utility>

#include "elastic/member/agent_quorum.h"
#include "elastic/member/agent_state.h"
#include "io/base/hash.h"
#include "io/base/mutant.h"

namespace elaswave::member {
namespace {

auto key(const Ballot& ballot, Phase phase) {
  return std::tuple(ballot, phase);
}
Phase phase_of(const Message& message) {
  if (message.kind == Kind::echo) return message.phase;
  return message.kind == Kind::accept ? Phase::accept : Phase::prepare;
}

}  // namespace

/// How long a ballot is left alone before the next; doubles with every round anybody has begun, so
/// that slow ones end as well.
Nanoseconds Agent::State::turn() const {
  const std::uint32_t doublings = std::min(highest_round, 5u);
  return ((2 * options.heartbeat) << doublings) + 2 * std::max(late_now, late_before);
}

Nanoseconds Agent::State::attempt_at() const {
  if (!pending() || waking) return kNever;
  if (mine) return mine->started_at + 2 * turn();
  const Nanoseconds since = pending_since == kNever ? now : pending_since;
  const std::int32_t position = (members - suspected).below(self);
  const bool own_turn = promised.round == 0 || suspected.has(promised.proposer) ||
                        (promised.proposer == self && news_at > attempted_at);
  if (position == 0 && own_turn) {
    // What is only doubted gets the time to answer; what ends together is decided together.
    const bool proven = !suspected.empty() && ended.contains(suspected);
    const Nanoseconds wait = proven ? settle() : 4 * options.heartbeat;
    return std::min(news_at + wait, since + 4 * wait);
  }
  const auto jitter =
      static_cast<Nanoseconds>(combine64(static_cast<std::uint64_t>(self), promised.round) %
                               static_cast<std::uint64_t>(turn() / 4 + 1));
  return progress_at + turn() * (position + 1) + jitter;
}

/// Members that have ended, or were doubted for long enough to have answered; and of pairs that are
/// still severed then, one each.
RankSet Agent::State::given_up_on() const {
  RankSet result = suspected & ended;
  for (const auto& [rank, since] : doubted_at)
    if (now - since >= 4 * options.heartbeat && suspected.has(rank)) result.add(rank);
  return result | one_of_each(severed_pairs(result, 4 * options.heartbeat), options.world_size);
}

void Agent::State::attempt() {
  if (mine)
    give_up();
  else
    start_ballot();
}

void Agent::State::start_ballot() {
  highest_round = std::max(highest_round, promised.round) + 1;
  attempted_at = now;
  mine = Proposal{.ballot = {highest_round, self},
                  .phase = Phase::prepare,
                  .ended = ended,
                  .value = members,
                  .started_at = now};
  join_wave({.kind = Kind::prepare, .ballot = mine->ballot, .ended = ended}, -1);
}

void Agent::State::on_wave(std::int32_t peer, const Message& message) {
  // Before the vote: from here on this agent ignores whoever the proposer knows to have ended.
  learn_ended(message.ended, peer);
  if (over() || message.generation != raw(view.generation)) return;
  if (message.ended.has(self)) {
    fence("the others hold that this process has ended");
    return;
  }
  highest_round = std::max(highest_round, message.ballot.round);
  const auto asked = key(message.ballot, phase_of(message));
  if (wave && asked == key(wave->ballot, wave->phase)) {
    // It has come round. If it met our own on this link, ours is the answer.
    if (!wave->sent.has(peer))
      echo(peer, message, {});
    else
      drop_from_wave(peer);
    return;
  }
  const bool old = message.ballot < promised || (wave && asked < key(wave->ballot, wave->phase));
  if (old) {
    echo(peer, message, promised);
    return;
  }
  join_wave(message, peer);
}

/// An empty echo.
void Agent::State::echo(std::int32_t to, const Message& to_what, Ballot higher) {
  send(to, {.kind = Kind::echo,
            .ballot = to_what.ballot,
            .phase = phase_of(to_what),
            .higher = higher,
            .ranks = RankSet(options.world_size)});
}

void Agent::State::join_wave(const Message& message, std::int32_t parent) {
  if (wave && !wave->done && wave->parent >= 0) echo_wave(message.ballot);
  if (mine && mine->ballot != message.ballot) mine.reset();
  promised = message.ballot;
  progress_at = now;
  const RankSet none(options.world_size);
  Wave fresh{.ballot = message.ballot,
             .phase = phase_of(message),
             .parent = parent,
             .sent = none,
             .waiting = none,
             .votes = none};
  fresh.votes.add(self);
  if (fresh.phase == Phase::prepare)
    fresh.best = accepted;
  else
    accepted = Accepted{message.ballot, message.ranks};
  for (const std::int32_t peer : peers()) {
    if (peer == parent || suspected.has(peer) || gone.has(peer) || mute(peer)) continue;
    send(peer, message);
    fresh.sent.add(peer);
  }
  fresh.waiting = fresh.sent;
  wave = std::move(fresh);
  if (wave->waiting.empty()) finish_wave();
}

void Agent::State::on_echo(std::int32_t peer, const Message& message) {
  highest_round = std::max(highest_round, message.higher.round);
  if (!wave || wave->done || !wave->waiting.has(peer) ||
      key(message.ballot, message.phase) != key(wave->ballot, wave->phase))
    return;
  wave->votes |= message.ranks;
  wave->higher = std::max(wave->higher, message.higher);
  if (message.accepted && (!wave->best || wave->best->ballot < message.accepted->ballot))
    wave->best = message.accepted;
  drop_from_wave(peer);
}

/// Nothing more is to come from `peer` in this wave.
void Agent::State::drop_from_wave(std::int32_t peer) {
  if (over() || !wave || wave->done || !wave->waiting.has(peer)) return;
  wave->waiting.remove(peer);
  if (wave->waiting.empty()) finish_wave();
}

void Agent::State::finish_wave() {
  wave->done = true;
  if (wave->parent >= 0)
    echo_wave(wave->higher);
  else if (mine)
    judge_wave();
}

/// What this agent and those below it have to say.
void Agent::State::echo_wave(Ballot higher) {
  send(wave->parent, {.kind = Kind::echo,
                      .ballot = wave->ballot,
                      .phase = wave->phase,
                      .higher = higher,
                      .ranks = wave->votes,
                      .accepted = wave->phase == Phase::prepare ? wave->best : std::nullopt});
}

void Agent::State::judge_wave() {
  const Verdict verdict = mutant(Mutant::view_without_quorum)
                              ? Verdict::yes
                              : judge(wave->votes, {members, mine->ended, options.claims, claim});
  mine->claiming = verdict == Verdict::ask;
  if (verdict == Verdict::ask)
    emit(Claim{Generation{raw(view.generation) + 1}, encode_claim(wave->votes)});
  else if (verdict == Verdict::no)
    give_up();
  else if (mine->phase == Phase::prepare)
    propose();
  else
    install(raw(view.generation) + 1, RankSet(mine->value), -1);
}

void Agent::State::propose() {
  // Somebody may have decided what was accepted before: nothing else may be proposed.
  mine->value = wave->best && !mutant(Mutant::accepted_value_ignored) ? wave->best->value
                                                                      : members - given_up_on();
  if (mine->value == members) {  // the doubts were answered, or are too young
    mine.reset();
    return;
  }
  mine->phase = Phase::accept;
  mine->ended = ended;
  join_wave({.kind = Kind::accept, .ballot = mine->ballot, .ended = ended, .ranks = mine->value},
            -1);
}

void Agent::State::give_up() {
  mine.reset();
  progress_at = now;
}

void Agent::State::on_claim(const ClaimHeld& held) {
  if (raw(held.generation) != raw(view.generation) + 1) return;
  // Bytes that are no set are a claim of nobody here.
  if (held.value)
    claim = decode_claim(*held.value, options.world_size).value_or(RankSet(options.world_size));
  if (!mine || !mine->claiming) return;
  mine->claiming = false;
  if (held.value)
    judge_wave();
  else
    give_up();
}

}  // namespace elaswave::member
