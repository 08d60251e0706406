// How transfers end before their time: given up, with their generation, or at the close.
#include <utility>

#include "parallel/comm/messenger.h"

namespace elaswave::comm {

void Messenger::give_up(const TransferPtr& transfer) {
  if (transfer->pending()) settle(*transfer, Phase::abandoned);
}

void Messenger::bury(Token token) {
  Flight& flight = flights_[token];
  if (flight.transfer) give_up(flight.transfer);
  flight.transfer.reset();
  if (flight.role == Role::receive)
    drain_.given_up(flight.peer, {flight.generation, flight.channel, ChunkKind::data});
  if (flight.role == Role::receive_acknowledgement)
    drain_.given_up(flight.peer, {flight.generation, flight.channel, ChunkKind::acknowledgement});
  flight.buried = true;
  --active_;
  ++buried_;
  buried_bytes_ += flight.buffer.capacity_bytes;
  if (!flight.held) wire_->abandon(token);
}

void Messenger::drop(TransferQueue& queue) {
  for (; !queue.empty(); --queued_) give_up(queue.pop());
}

void Messenger::abandon_all() {
  accepting_ = false;
  for (Token token = 0; token < flights_.size(); ++token)
    // Receives into the void name nobody's memory and go on.
    if (flights_[token].role != Role::none && flights_[token].role != Role::stray &&
        !flights_[token].buried)
      bury(token);
  for (auto& [key, lane] : send_lanes_) drop(lane.queue);
  for (auto& [key, lane] : receive_lanes_) drop(lane.queue);
  for (auto& [key, lane] : own_lanes_) {
    drop(lane.sends);
    drop(lane.receives);
  }
  EW_CHECK(queued_ == 0, "{} transfers are in no queue", queued_);
}

void Messenger::fail_all(Error error) {
  if (!failure_) failure_ = std::move(error);
  abandon_all();
}

void Messenger::enter(Generation generation, std::span<const int> live) {
  EW_CHECK(generation > generation_, "generation {} after {}", raw(generation), raw(generation_));
  abandon_all();
  close_books();
  send_lanes_.clear();
  receive_lanes_.clear();
  own_lanes_.clear();
  failure_.reset();
  generation_ = generation;
  live_.assign(live.begin(), live.end());
  drop_held();
  for (Token token = 0; token < flights_.size(); ++token)
    if (flights_[token].role == Role::stray && !flights_[token].buried &&
        !is_live(flights_[token].peer))
      bury(token);
  if (auto error = refusal()) return fail_all(std::move(*error));
  accepting_ = true;
  exchange_tells();
  for (const int peer : live_) receive_strays(peer);
}

/// Why this rank cannot go on in the generation it enters, if so.
std::optional<Error> Messenger::refusal() const {
  if (buried_bytes_ > options_.graveyard_limit_bytes)
    return Error{.code = Code::unrecoverable,
                 .what = fmt::format("rank {} holds too much memory for transfers that never ended",
                                     world_rank_),
                 .where = fmt::format("generation {}", raw(generation_)),
                 .why = fmt::format("{} requests, {} bytes; the limit is {}", buried_,
                                    buried_bytes_, options_.graveyard_limit_bytes),
                 .fix = "restart from the newest checkpoint"};
  // A tag carries the generation mod 2^9: an old message, or a request that waits for one, could
  // meet a new one. The dead send nothing new.
  const std::optional<int> peer = peer_behind(generation_);
  if (!peer) return std::nullopt;
  return Error{.code = Code::unrecoverable,
               .what = fmt::format("ranks {} and {} still have messages of generation {} between "
                                   "them",
                                   world_rank_, *peer, raw(drain_.oldest_open(*peer))),
               .where = fmt::format("rank {}, generation {}", world_rank_, raw(generation_)),
               .why = fmt::format("tags repeat after {} generations", kGenerationModulus),
               .fix = "restart from the newest checkpoint"};
}

void Messenger::flush() {
  flushing_ = true;
  // Notes need not have been read: their transfers are dropped, not waited for.
  for (Token token = 0; token < flights_.size(); ++token) {
    const Flight& flight = flights_[token];
    if (flight.role != Role::none && !flight.buried && flight.channel == Channel::watch)
      bury(token);
  }
  auto drop_notes = [this](auto& lane) {
    if (lane.channel == Channel::watch) drop(lane.queue);
  };
  for (auto& [key, lane] : receive_lanes_) drop_notes(lane);
  for (auto& [key, lane] : send_lanes_) {
    drop_notes(lane);
    if (lane.channel != Channel::watch) want_acknowledgement(lane);
  }
}

}  // namespace elaswave::comm
