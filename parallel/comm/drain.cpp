#include "parallel/comm/drain.h"

#include <fmt/format.h>

#include <algorithm>

namespace elaswave::comm {

void Drain::left_sent(int peer, const Stream& stream, std::uint64_t count) {
  if (count > 0) peers_[peer].sent[stream] = count;
}

void Drain::left_posted(int peer, const Stream& stream, std::uint64_t count) {
  if (count > 0) peers_[peer].incoming[stream].posted = count;
}

void Drain::given_up(int peer, const Stream& stream) {
  ++peers_[peer].incoming[stream].undecided;
}

void Drain::ended(int peer, const StrayChunk& chunk, bool received) {
  Peer& from = peers_[peer];
  Incoming& incoming = from.incoming[chunk.stream];
  --incoming.undecided;
  if (!received && (!incoming.sent || chunk.sequence < *incoming.sent))
    incoming.missed.push_back(chunk.sequence);
  forget_settled(from);
}

/// Streams whose every chunk was received. Only what was told counts: the receives of a generation
/// that goes on, or of which the peer has not told, may yet miss something.
void Drain::forget_settled(Peer& peer) {
  std::erase_if(peer.incoming, [&peer](const auto& entry) {
    const auto& [stream, incoming] = entry;
    return stream.generation < peer.told_at && incoming.undecided == 0 && incoming.missed.empty() &&
           incoming.posted >= incoming.sent.value_or(0);
  });
}

std::vector<StreamCount> Drain::to_tell(int peer) const {
  std::vector<StreamCount> counts;
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return counts;
  for (const auto& [stream, count] : found->second.sent)
    counts.push_back({.generation = raw(stream.generation),
                      .channel = static_cast<std::uint8_t>(stream.channel),
                      .kind = static_cast<std::uint8_t>(stream.kind),
                      .count = count});
  return counts;
}

Generation Drain::settled_below(int peer) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return Generation{};
  const Peer& from = found->second;
  if (from.incoming.empty()) return from.told_at;
  return std::min(from.told_at, from.incoming.begin()->first.generation);
}

std::optional<std::string> Drain::told(int peer, Generation generation, Generation settled_below,
                                       const std::vector<StreamCount>& counts) {
  Peer& from = peers_[peer];
  if (settled_below > generation)
    return fmt::format("all below {} settled, told in {}", raw(settled_below), raw(generation));
  const Generation known_below = this->settled_below(peer);
  for (const StreamCount& line : counts) {
    if (line.generation >= raw(generation) ||
        line.channel >= static_cast<std::uint8_t>(Channel::count) ||
        line.kind > static_cast<std::uint8_t>(ChunkKind::acknowledgement))
      return fmt::format("{} chunks in generation {}, channel {}, kind {}", line.count,
                         line.generation, line.channel, line.kind);
    const Stream stream{Generation{line.generation}, static_cast<Channel>(line.channel),
                        static_cast<ChunkKind>(line.kind)};
    if (stream.generation < known_below) continue;  // told before, and received since
    // A stream of a generation told of before that is not open any more was received likewise.
    if (stream.generation < from.told_at && !from.incoming.contains(stream)) continue;
    Incoming& incoming = from.incoming[stream];
    incoming.sent = line.count;
  }
  std::erase_if(from.sent, [settled_below](const auto& entry) {
    return entry.first.generation < settled_below;
  });
  from.told_at = std::max(from.told_at, generation);
  for (auto& [stream, incoming] : from.incoming) {
    if (stream.generation >= generation) continue;
    if (!incoming.sent) incoming.sent = 0;  // not mentioned: nothing was sent
    const std::uint64_t sent = *incoming.sent;
    std::erase_if(incoming.missed, [sent](std::uint64_t sequence) { return sequence >= sent; });
  }
  forget_settled(from);
  return std::nullopt;
}

std::optional<StrayChunk> Drain::next_stray(int peer) {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return std::nullopt;
  for (auto& [stream, incoming] : found->second.incoming) {
    if (!incoming.sent) continue;
    if (!incoming.missed.empty()) {
      const std::uint64_t sequence = incoming.missed.back();
      incoming.missed.pop_back();
      ++incoming.undecided;
      return StrayChunk{stream, sequence};
    }
    if (incoming.posted < *incoming.sent) {
      ++incoming.undecided;
      return StrayChunk{stream, incoming.posted++};
    }
  }
  return std::nullopt;
}

std::int64_t Drain::open_streams(int peer, Generation generation) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return raw(generation) > 0 ? 1 : 0;
  std::int64_t open = found->second.told_at < generation ? 1 : 0;
  for (const auto& [stream, incoming] : found->second.incoming)
    if (stream.generation < generation) ++open;
  return open;
}

Generation Drain::oldest_open(int peer) const {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return Generation{};
  Generation oldest = settled_below(peer);
  if (!found->second.sent.empty())
    oldest = std::min(oldest, found->second.sent.begin()->first.generation);
  return oldest;
}

}  // namespace elaswave::comm
