#include "parallel/comm/wire_sim.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "io/base/hash.h"

namespace elaswave::comm {
namespace {

// Events are message ids; this bit marks the completion of a large send at its sender.
constexpr std::uint32_t kSenderEvent = 1u << 31;

/// A hash of what is on the wire for the trace, four independent chains wide because every byte
/// sent passes through it.
std::uint64_t trace_bytes(std::span<const std::byte> bytes) {
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::size_t i = 0;
  for (; i + 32 <= bytes.size(); i += 32) {
    std::uint64_t words[4];
    std::memcpy(words, bytes.data() + i, 32);
    for (int k = 0; k < 4; ++k) {
      lanes[k] = (lanes[k] ^ words[k]) * kGolden64;
      lanes[k] ^= lanes[k] >> 29;
    }
  }
  const std::uint64_t tail = hash_bytes(bytes.subspan(i));
  return combine64(combine64(combine64(combine64(tail, lanes[0]), lanes[1]), lanes[2]), lanes[3]);
}

}  // namespace

SimRandom::SimRandom(std::uint64_t seed) : state_(mix64(seed + kGolden64)) {}

std::uint64_t SimRandom::next() {
  return mix64(state_ += kGolden64);
}

// The bias of the remainder is of no consequence here.
std::uint64_t SimRandom::below(std::uint64_t bound) {
  return next() % bound;
}

class SimWire final : public Wire {
 public:
  SimWire(SimNetwork& network, int world_rank) : network_(network), world_rank_(world_rank) {}

  int world_rank() const override { return world_rank_; }
  int size() const override { return network_.options_.ranks; }
  Result<void> start_send(int to, Tag tag, std::span<const std::byte> bytes, Token token) override {
    network_.send(world_rank_, to, tag, bytes, token);
    return {};
  }
  Result<void> start_receive(int from, Tag tag, std::span<std::byte> buffer, Token token) override {
    network_.post(world_rank_, from, tag, buffer, token);
    return {};
  }
  Result<void> poll(std::vector<Completion>& completed) override {
    network_.poll(world_rank_, completed);
    return {};
  }
  void abandon(Token token) override { network_.abandon(world_rank_, token); }
  Result<void> close() override { return {}; }

 private:
  SimNetwork& network_;
  int world_rank_;
};

SimNetwork::SimNetwork(SimHost& host, SimNetworkOptions options)
    : host_(host), options_(options), ranks_(static_cast<std::size_t>(options.ranks)) {}

std::unique_ptr<Wire> SimNetwork::wire(int world_rank) {
  return std::make_unique<SimWire>(*this, world_rank);
}

Nanoseconds SimNetwork::latency() {
  const auto spread = static_cast<std::uint64_t>(options_.latency_max - options_.latency_min + 1);
  return options_.latency_min + static_cast<Nanoseconds>(host_.random().below(spread));
}

std::uint32_t SimNetwork::take_message() {
  if (free_messages_.empty()) {
    messages_.emplace_back();
    return static_cast<std::uint32_t>(messages_.size() - 1);
  }
  const std::uint32_t id = free_messages_.back();
  free_messages_.pop_back();
  return id;
}

void SimNetwork::send(int from, int to, Tag tag, std::span<const std::byte> bytes, Token token) {
  Rank& receiver = ranks_[static_cast<std::size_t>(to)];
  Nanoseconds arrival = host_.now() + latency();
  const std::uint64_t wanted = key(from, tag);
  for (std::size_t i = 0; i < receiver.inbox_keys.size();
       ++i)  // first in, first out within (source, tag)
    if (receiver.inbox_keys[i] == wanted)
      arrival = std::max(arrival, messages_[receiver.inbox[i]].arrival);
  const std::uint32_t id = take_message();
  Message& message = messages_[id];
  message.from = from;
  message.to = to;
  message.tag = tag;
  message.token = token;
  message.eager = static_cast<std::int64_t>(bytes.size()) <= options_.eager_bytes;
  message.arrived = message.matched = message.departed = message.lost = false;
  message.arrival = arrival;
  message.bytes = bytes;
  if (message.eager) {
    message.copy.assign(bytes.begin(), bytes.end());
    message.bytes = message.copy;
    ranks_[static_cast<std::size_t>(from)].completions.push_back(
        {token, Outcome::done, static_cast<std::int64_t>(bytes.size())});
  }
  const auto match = std::find(receiver.posted_keys.begin(), receiver.posted_keys.end(), wanted);
  if (match != receiver.posted_keys.end()) {
    const auto posted = receiver.posted.begin() + (match - receiver.posted_keys.begin());
    message.matched = true;
    message.receive_token = posted->token;
    message.target = posted->buffer;
    receiver.posted.erase(posted);
    receiver.posted_keys.erase(match);
  }
  receiver.inbox_keys.push_back(wanted);
  receiver.inbox.push_back(id);
  host_.trace(combine64(
      trace_bytes(message.bytes),
      combine64(static_cast<std::uint64_t>(from) << 32 | static_cast<std::uint64_t>(to),
                combine64(static_cast<std::uint64_t>(tag), static_cast<std::uint64_t>(arrival)))));
  host_.schedule(arrival, id);
}

void SimNetwork::post(int rank, int from, Tag tag, std::span<std::byte> buffer, Token token) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  const std::uint64_t wanted = key(from, tag);
  for (std::size_t i = 0; i < self.inbox_keys.size(); ++i) {
    if (self.inbox_keys[i] != wanted) continue;
    const std::uint32_t id = self.inbox[i];
    Message& message = messages_[id];
    if (message.matched) continue;
    message.matched = true;
    message.receive_token = token;
    message.target = buffer;
    if (message.arrived) self.deliverable.push_back(id);
    return;
  }
  self.posted_keys.push_back(wanted);
  self.posted.push_back({token, buffer});
}

void SimNetwork::due(std::uint32_t event) {
  Message& message = messages_[event & ~kSenderEvent];
  if (host_.is_cut(message.from, message.to)) {
    held_.push_back(event);
    return;
  }
  if (event & kSenderEvent) {
    ranks_[static_cast<std::size_t>(message.from)].completions.push_back(
        {message.token, Outcome::done, static_cast<std::int64_t>(message.bytes.size())});
    host_.wake(message.from);
    free_messages_.push_back(event & ~kSenderEvent);
    return;
  }
  message.arrived = true;
  if (!message.matched) return;
  ranks_[static_cast<std::size_t>(message.to)].deliverable.push_back(event);
  host_.wake(message.to);
}

void SimNetwork::poll(int rank, std::vector<Completion>& completed) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  completed.insert(completed.end(), self.completions.begin(), self.completions.end());
  self.completions.clear();
  if (halted_ > 0) return poll_around_halted(self, completed);
  for (const std::uint32_t id : self.deliverable) deliver(id, completed);
  self.deliverable.clear();
}

void SimNetwork::poll_around_halted(Rank& self, std::vector<Completion>& completed) {
  std::vector<std::uint32_t> waiting;
  for (const std::uint32_t id : self.deliverable) {
    const Message& message = messages_[id];
    const bool moves = message.eager || !ranks_[static_cast<std::size_t>(message.from)].halted;
    if (message.lost || (!moves && !message.departed))
      waiting.push_back(id);
    else
      deliver(id, completed);
  }
  self.deliverable = std::move(waiting);
}

void SimNetwork::killed(int world_rank) {
  Rank& self = ranks_[static_cast<std::size_t>(world_rank)];
  if (!std::exchange(self.halted, true)) ++halted_;
  for (Rank& receiver : ranks_)
    for (const std::uint32_t id : receiver.inbox) {
      Message& message = messages_[id];
      if (message.from != world_rank || message.eager) continue;
      message.departed = host_.random().below(2) == 0;
      message.lost = !message.departed;
    }
}

void SimNetwork::stopped(int world_rank) {
  if (!std::exchange(ranks_[static_cast<std::size_t>(world_rank)].halted, true)) ++halted_;
}

void SimNetwork::went_on(int world_rank) {
  if (std::exchange(ranks_[static_cast<std::size_t>(world_rank)].halted, false)) --halted_;
  for (std::size_t r = 0; r < ranks_.size(); ++r)
    if (!ranks_[r].deliverable.empty()) host_.wake(static_cast<int>(r));
}

void SimNetwork::healed(int one, int other) {
  const std::vector<std::uint32_t> held = std::exchange(held_, {});
  Nanoseconds latest = host_.now();
  for (const std::uint32_t event : held) {
    Message& message = messages_[event & ~kSenderEvent];
    const bool between = (message.from == one && message.to == other) ||
                         (message.from == other && message.to == one);
    if (!between) {
      held_.push_back(event);
      continue;
    }
    latest = std::max(latest, host_.now() + latency());  // in the order they came
    message.arrival = latest;
    host_.schedule(latest, event);
  }
}

void SimNetwork::deliver(std::uint32_t id, std::vector<Completion>& completed) {
  Message& message = messages_[id];
  // A real transport would write past the end (README): here it is a bug of the messenger, found at
  // once.
  EW_CHECK(message.bytes.size() <= message.target.size(),
           "a message of {} bytes meets a buffer of {}", message.bytes.size(),
           message.target.size());
  if (!message.bytes.empty())
    std::memcpy(message.target.data(), message.bytes.data(), message.bytes.size());
  completed.push_back(
      {message.receive_token, Outcome::done, static_cast<std::int64_t>(message.bytes.size())});
  Rank& self = ranks_[static_cast<std::size_t>(message.to)];
  const auto place = std::find(self.inbox.begin(), self.inbox.end(), id);
  self.inbox_keys.erase(self.inbox_keys.begin() + (place - self.inbox.begin()));
  self.inbox.erase(place);
  host_.trace(combine64(id, static_cast<std::uint64_t>(host_.now())));
  if (message.eager)
    free_messages_.push_back(id);
  else
    host_.schedule(host_.now() + latency(), id | kSenderEvent);
}

void SimNetwork::abandon(int rank, Token token) {
  Rank& self = ranks_[static_cast<std::size_t>(rank)];
  const auto match = std::find_if(self.posted.begin(), self.posted.end(),
                                  [token](const Posted& posted) { return posted.token == token; });
  if (match == self.posted.end()) return;  // matched, or a send: it completes when and if it can
  self.posted_keys.erase(self.posted_keys.begin() + (match - self.posted.begin()));
  self.posted.erase(match);
  self.completions.push_back({token, Outcome::cancelled, 0});
}

}  // namespace elaswave::comm
