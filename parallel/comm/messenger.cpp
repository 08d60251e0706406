#include "parallel/comm/messenger.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace elaswave::comm {
namespace {

// Flow control of one (peer, channel). `credits` bounds what a receiver that does not receive must
// hold as unexpected messages; an acknowledgement covers `interval` chunks; `window` receives are
// posted at once.
struct FlowLimits {
  std::uint64_t credits;
  std::uint64_t interval;
  std::uint64_t window;
};

constexpr FlowLimits limits(Channel channel) {
  if (channel == Channel::control) return {64, 16, 16};
  if (channel == Channel::watch) return {16, 4, 4};  // most notes are never read
  if (channel == Channel::drain) return {16, 4, 4};
  return {8, 2, 3};
}

// Beyond this much lent memory a lane posts one receive at a time. One is always allowed: refusing
// it could deadlock ranks that wait for one another in an order the limit knows nothing about.
constexpr std::int64_t kSoftPoolBytes = 64 << 20;

// Sends of one lane under way at once: enough to overlap packing with the wire.
constexpr std::int64_t kFlyingBytes = 12 << 20;

}  // namespace

Messenger::Messenger(Wire* wire, int world_rank, MessengerOptions options)
    : wire_(wire),
      world_rank_(world_rank),
      options_(std::move(options)),
      pool_(options_.control_payload_bytes + kHeaderBytes,
            std::max({options_.control_payload_bytes, options_.payload_bytes,
                      static_cast<std::int64_t>(sizeof(TellHead))}) +
                kHeaderBytes,
            kSoftPoolBytes) {}

std::uint64_t Messenger::acknowledgement_interval(Channel channel) {
  return limits(channel).interval;
}

std::int64_t Messenger::payload_limit(Channel channel) const {
  // Whatever the size of chunks, what a rank tells fits one.
  if (channel == Channel::drain)
    return std::max(options_.control_payload_bytes, static_cast<std::int64_t>(sizeof(TellHead)));
  const bool small = channel == Channel::control || channel == Channel::watch;
  return small ? options_.control_payload_bytes : options_.payload_bytes;
}

Messenger::SendLane& Messenger::send_lane(int peer, Channel channel) {
  SendLane& lane = send_lanes_[LaneKey{peer} * 8 + static_cast<LaneKey>(channel)];
  lane.peer = peer;
  lane.channel = channel;
  return lane;
}

Messenger::ReceiveLane& Messenger::receive_lane(int peer, Channel channel) {
  ReceiveLane& lane = receive_lanes_[LaneKey{peer} * 8 + static_cast<LaneKey>(channel)];
  lane.peer = peer;
  lane.channel = channel;
  return lane;
}

void Messenger::submit(const TransferPtr& transfer) {
  if (!accepting_ || transfer->generation != generation_) {
    settle(*transfer, Phase::abandoned);
    return;
  }
  const bool is_send = transfer->direction == Direction::send;
  if (is_send) ++messages_;
  ++queued_;
  if (transfer->peer == world_rank_) {
    OwnLane& lane = own_lanes_[transfer->channel];
    transfer->message = static_cast<std::int64_t>(is_send ? lane.sent++ : lane.received++);
    (is_send ? lane.sends : lane.receives).push(transfer);
    record_start(*transfer);
    match_own();
    return;
  }
  EW_CHECK(wire_ != nullptr, "rank {} is alone and cannot reach rank {}", world_rank_,
           transfer->peer);
  transfer->chunk_count =
      std::max<std::int64_t>(1, ceil_div(transfer->bytes, payload_limit(transfer->channel)));
  if (is_send) {
    SendLane& lane = send_lane(transfer->peer, transfer->channel);
    transfer->message = static_cast<std::int64_t>(lane.messages++);
    lane.queue.push(transfer);
    record_start(*transfer);
    pump(lane);
  } else {
    ReceiveLane& lane = receive_lane(transfer->peer, transfer->channel);
    transfer->message = static_cast<std::int64_t>(lane.messages++);
    lane.queue.push(transfer);
    record_start(*transfer);
    pump(lane);
  }
}

void Messenger::record_start(Transfer& transfer) {
  if (options_.flight == nullptr || transfer.channel >= Channel::watch) return;
  const bool is_send = transfer.direction == Direction::send;
  transfer.flight = options_.flight->start(
      {.begin = options_.clock->now(),
       .step = transfer.step,
       .kind = is_send ? FlightKind::send : FlightKind::receive,
       .detail = static_cast<std::uint8_t>(transfer.channel),
       .peer = transfer.peer,
       .bytes = transfer.bytes,
       .message = static_cast<std::uint64_t>(transfer.message.load(std::memory_order_relaxed))});
}

void Messenger::finish(Transfer& transfer) {
  if (options_.flight != nullptr && transfer.channel < Channel::watch)
    options_.flight->finish(transfer.flight, options_.clock->now());
  if (transfer.channel == Channel::drain && transfer.direction == Direction::receive)
    told_by_.push_back(transfer.peer);
  settle(transfer, Phase::done);
}

void Messenger::match_own() {
  for (auto& [channel, lane] : own_lanes_) {
    while (!lane.sends.empty() && !lane.receives.empty()) {
      const TransferPtr send = lane.sends.pop();
      const TransferPtr receive = lane.receives.pop();
      queued_ -= 2;
      if (send->bytes != receive->bytes) {
        give_up(send);
        give_up(receive);
        fail_all({.code = Code::unrecoverable,
                  .what = fmt::format("rank {} sends itself a message of another length than it "
                                      "receives",
                                      world_rank_),
                  .where = describe(*receive),
                  .why = fmt::format("{} bytes sent, {} expected", send->bytes, receive->bytes),
                  .fix = "this is a bug: report it with both lengths"});
        return;
      }
      std::int64_t offset = 0;
      for (const auto& piece : send->sources) {
        scatter_bytes(*receive, offset, piece);
        offset += static_cast<std::int64_t>(piece.size());
      }
      for (const auto& transfer : {send, receive}) {
        transfer->bytes_done.store(transfer->bytes, std::memory_order_relaxed);
        finish(*transfer);
      }
    }
  }
}

void Messenger::pump(SendLane& lane) {
  while (!lane.queue.empty() && !failure_) {
    const bool has_credit = lane.sent - lane.acked < limits(lane.channel).credits;
    if (!has_credit || lane.flying_bytes >= kFlyingBytes) break;
    start_chunk(lane);
  }
  if (!failure_) want_acknowledgement(lane);
}

void Messenger::start_chunk(SendLane& lane) {
  const TransferPtr transfer = lane.queue.front();
  const std::int64_t offset = transfer->chunks_started * payload_limit(lane.channel);
  const std::int64_t length = std::min(payload_limit(lane.channel), transfer->bytes - offset);
  const Token token = take_flight(Role::send, lane, kHeaderBytes + length);
  Flight& flight = flights_[token];
  flight.transfer = transfer;
  flight.sequence = lane.sent++;
  flight.message = static_cast<std::uint64_t>(transfer->message.load(std::memory_order_relaxed));
  flight.offset = offset;
  flight.length = length;
  lane.flying_bytes += length;
  if (++transfer->chunks_started == transfer->chunk_count) {
    lane.queue.pop();
    --queued_;
  }
  gather_bytes(*transfer, offset, flight.buffer.first(kHeaderBytes + length).subspan(kHeaderBytes));
  seal(flight);
  if (options_.spoils) spoil(flight);
  ++chunks_;
  elaswave::probe(options_.probe, Point::send_chunk);
  launch(token, kHeaderBytes + length);
}

void Messenger::pump(ReceiveLane& lane) {
  while (!lane.queue.empty() && !failure_) {
    const std::uint64_t waiting = lane.posted - lane.consumed;
    const bool scarce = pool_.lent_bytes() > kSoftPoolBytes;
    if (waiting >= (scarce ? 1 : limits(lane.channel).window)) break;
    post_chunk(lane);
  }
}

void Messenger::post_chunk(ReceiveLane& lane) {
  const TransferPtr transfer = lane.queue.front();
  const std::int64_t limit = payload_limit(lane.channel);
  // The buffer holds the largest chunk of the channel, whatever is expected: a stale message may be
  // longer.
  const Token token = take_flight(Role::receive, lane, kHeaderBytes + limit);
  Flight& flight = flights_[token];
  flight.transfer = transfer;
  flight.sequence = lane.posted++;
  flight.message = static_cast<std::uint64_t>(transfer->message.load(std::memory_order_relaxed));
  flight.offset = transfer->chunks_started * limit;
  flight.length = std::min(limit, transfer->bytes - flight.offset);
  if (++transfer->chunks_started == transfer->chunk_count) {
    lane.queue.pop();
    --queued_;
  }
  launch(token, flight.buffer.capacity_bytes);
}

void Messenger::send_acknowledgement(ReceiveLane& lane) {
  const Token token = take_flight(Role::send_acknowledgement, lane, kHeaderBytes);
  Flight& flight = flights_[token];
  flight.sequence = lane.consumed / limits(lane.channel).interval - 1;
  flight.message = lane.consumed;
  seal(flight);
  launch(token, kHeaderBytes);
}

void Messenger::want_acknowledgement(SendLane& lane) {
  // Acknowledgements wait at this end, 64 bytes each, until they are needed; asking early would
  // only mean more requests to watch.
  const FlowLimits flow = limits(lane.channel);
  const std::uint64_t outstanding = lane.sent - lane.acked;
  const std::uint64_t threshold = flushing_ ? flow.interval : flow.credits - flow.interval;
  if (lane.acknowledgement_posted || outstanding < threshold) return;
  lane.acknowledgement_posted = true;
  const Token token = take_flight(Role::receive_acknowledgement, lane, kHeaderBytes);
  Flight& flight = flights_[token];
  flight.sequence = lane.acked / flow.interval;
  flight.message = lane.acked + flow.interval;
  launch(token, flight.buffer.capacity_bytes);
}

Token Messenger::take_flight(Role role, const Lane& lane, std::int64_t buffer_bytes) {
  Token token = 0;
  if (free_tokens_.empty()) {
    token = static_cast<Token>(flights_.size());
    flights_.emplace_back();
  } else {
    token = free_tokens_.back();
    free_tokens_.pop_back();
  }
  Flight& flight = flights_[token];
  flight.role = role;
  flight.peer = lane.peer;
  flight.channel = lane.channel;
  flight.generation = generation_;
  flight.offset = flight.length = 0;
  flight.buffer = pool_.acquire(buffer_bytes);
  ++active_;
  return token;
}

void Messenger::free_flight(Token token) {
  Flight& flight = flights_[token];
  if (flight.buried) {
    --buried_;
    buried_bytes_ -= flight.buffer.capacity_bytes;
  } else {
    --active_;
  }
  pool_.release(std::move(flight.buffer));
  flight.transfer.reset();
  flight.role = Role::none;
  flight.buried = false;
  free_tokens_.push_back(token);
}

bool Messenger::progress() {
  if (wire_ == nullptr) return false;
  completed_.clear();
  if (auto polled = wire_->poll(completed_); !polled) {
    fail_all(std::move(polled).error());
    return true;
  }
  for (const Completion& completion : completed_) complete(completion);
  // After all completions: both may start requests.
  for (std::size_t i = 0; i < told_by_.size(); ++i) hear(told_by_[i]);
  told_by_.clear();
  for (std::size_t i = 0; i < stray_moved_.size(); ++i) receive_strays(stray_moved_[i]);
  stray_moved_.clear();
  const bool sent = !held_.empty() && send_held();
  return sent || !completed_.empty();
}

void Messenger::complete(const Completion& completion) {
  Flight& flight = flights_[completion.token];
  EW_CHECK(flight.role != Role::none, "the wire completed request {} twice", completion.token);
  if (!flight.buried) {
    EW_CHECK(completion.outcome == Outcome::done, "a request in use was cancelled");
    switch (flight.role) {
      case Role::send:
        complete_send(flight);
        break;
      case Role::receive:
        complete_receive(flight, completion.bytes);
        break;
      case Role::receive_acknowledgement:
        complete_acknowledgement(flight, completion.bytes);
        break;
      case Role::stray:
        if (auto error = stray_disagreement(flight, completion.bytes)) fail_all(std::move(*error));
        break;
      case Role::send_acknowledgement:
      case Role::none:
        break;
    }
  }
  const Flight& ended = flights_[completion.token];  // flights_ may have grown or been buried
  const Role role = ended.role;
  const int peer = ended.peer;
  const Channel channel = ended.channel;
  const bool live = !ended.buried;
  const bool receives =
      role == Role::receive || role == Role::receive_acknowledgement || role == Role::stray;
  if (receives && (!live || role == Role::stray))
    stray_ended(ended, completion.outcome == Outcome::done);
  free_flight(completion.token);
  if (!live) return;
  if (role == Role::send || role == Role::receive_acknowledgement) pump(send_lane(peer, channel));
  if (role == Role::receive) pump(receive_lane(peer, channel));
}

void Messenger::complete_send(Flight& flight) {
  send_lane(flight.peer, flight.channel).flying_bytes -= flight.length;
  chunk_finished(*flight.transfer, flight.length);
}

void Messenger::complete_receive(Flight& flight, std::int64_t bytes) {
  if (auto error = disagreement(flight, bytes)) {
    fail_all(std::move(*error));
    return;
  }
  const auto payload = flight.buffer.first(kHeaderBytes + flight.length).subspan(kHeaderBytes);
  scatter_bytes(*flight.transfer, flight.offset, payload);
  elaswave::probe(options_.probe, Point::receive_chunk);
  chunk_finished(*flight.transfer, flight.length);
  consumed(receive_lane(flight.peer, flight.channel), flight.sequence);
}

void Messenger::complete_acknowledgement(Flight& flight, std::int64_t bytes) {
  if (auto error = disagreement(flight, bytes)) {
    fail_all(std::move(*error));
    return;
  }
  SendLane& lane = send_lane(flight.peer, flight.channel);
  lane.acked = flight.message;
  lane.acknowledgement_posted = false;
}

void Messenger::chunk_finished(Transfer& transfer, std::int64_t bytes) {
  transfer.bytes_done.fetch_add(bytes, std::memory_order_relaxed);
  if (++transfer.chunks_done == transfer.chunk_count) finish(transfer);
}

void Messenger::consumed(ReceiveLane& lane, std::uint64_t sequence) {
  // `window` < 64 chunks are posted at once, so the bits of those consumed out of order fit one
  // word.
  lane.ahead |= std::uint64_t{1} << (sequence - lane.consumed);
  while (lane.ahead & 1) {
    lane.ahead >>= 1;
    ++lane.consumed;
    if (lane.consumed % limits(lane.channel).interval == 0) send_acknowledgement(lane);
    if (failure_) return;
  }
}

}  // namespace elaswave::comm
