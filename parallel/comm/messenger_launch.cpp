// From the messenger to the wire, and the two faults on purpose that sit in between: what a cut
// holds back, and what changes on its way.
#include <algorithm>
#include <utility>

#include "io/base/mutant.h"
#include "parallel/comm/messenger.h"

namespace elaswave::comm {

void Messenger::launch(Token token, std::int64_t bytes) {
  Flight& flight = flights_[token];
  const bool is_send = flight.role == Role::send || flight.role == Role::send_acknowledgement;
  if (!is_send || !options_.reachable || !must_hold(flight.peer)) return start(token, bytes);
  flight.held = true;
  held_.push_back({token, bytes});
}

void Messenger::start(Token token, std::int64_t bytes) {
  Flight& flight = flights_[token];
  const bool is_ack = flight.role == Role::send_acknowledgement ||
                      flight.role == Role::receive_acknowledgement ||
                      (flight.role == Role::stray && flight.kind == ChunkKind::acknowledgement);
  const Tag tag = make_tag(
      mutant(Mutant::old_generation_accepted) ? Generation{} : flight.generation, flight.channel,
      is_ack ? ChunkKind::acknowledgement : ChunkKind::data, flight.sequence);
  const bool is_send = flight.role == Role::send || flight.role == Role::send_acknowledgement;
  Result<void> started =
      is_send ? wire_->start_send(flight.peer, tag, flight.buffer.first(bytes), token)
              : wire_->start_receive(flight.peer, tag, flight.buffer.first(bytes), token);
  if (started) return;
  // The transport may still own the buffer of a request it refused: keep it, never reuse it.
  fail_all(std::move(started).error());
}

bool Messenger::must_hold(int peer) const {
  // Behind what is held already, or order would be lost between two looks.
  return std::any_of(held_.begin(), held_.end(),
                     [&](const Held& held) { return flights_[held.token].peer == peer; }) ||
         !options_.reachable(peer);
}

/// True when something went out. What was given up meanwhile goes too: the peer has been told of it
/// and drains it.
bool Messenger::send_held() {
  const std::vector<Held> held = std::exchange(held_, {});
  for (const Held& one : held) {
    if (must_hold(flights_[one.token].peer)) {
      held_.push_back(one);
      continue;
    }
    flights_[one.token].held = false;
    start(one.token, one.bytes);
    if (flights_[one.token].buried) wire_->abandon(one.token);
  }
  return held_.size() < held.size();
}

/// The dead are sent nothing more.
void Messenger::drop_held() {
  std::erase_if(held_, [this](const Held& held) {
    if (is_live(flights_[held.token].peer)) return false;
    flights_[held.token].held = false;
    free_flight(held.token);
    return true;
  });
}

/// Notes and drains are the transport's own and do not count.
void Messenger::spoil(Flight& flight) const {
  if (flight.offset > 0 || flight.length == 0 || flight.channel >= Channel::watch) return;
  if (!options_.spoils()) return;
  const auto payload = flight.buffer.first(kHeaderBytes + flight.length).subspan(kHeaderBytes);
  payload[payload.size() / 2] ^= std::byte{1};
}

}  // namespace elaswave::comm
