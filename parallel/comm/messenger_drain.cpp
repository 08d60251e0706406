// The drain: what live peers sent in generations that are over is received into the void, in the
// background, so that the requests of both ends complete and no tag can meet an old message.
#include <algorithm>
#include <cstring>
#include <utility>

#include "parallel/comm/messenger.h"

namespace elaswave::comm {
namespace {

// Receives into the void under way for one peer: data chunks may be 4 MB each. Acknowledgements are
// 64 bytes and count like them: there are few.
constexpr int kStraysAtOnce = 2;

// More lines than this nobody has to tell: 512 generations is where tags repeat.
constexpr std::uint32_t kMostLines =
    kGenerationModulus * 2 * static_cast<std::uint32_t>(Channel::count);

}  // namespace

bool Messenger::is_live(int peer) const {
  return live_.empty() || std::binary_search(live_.begin(), live_.end(), peer);
}

/// What each end of each lane has done goes into the books.
void Messenger::close_books() {
  for (const auto& [key, lane] : send_lanes_) {
    const std::uint64_t interval = acknowledgement_interval(lane.channel);
    drain_.left_sent(lane.peer, {generation_, lane.channel, ChunkKind::data}, lane.sent);
    drain_.left_posted(lane.peer, {generation_, lane.channel, ChunkKind::acknowledgement},
                       lane.acked / interval + (lane.acknowledgement_posted ? 1 : 0));
  }
  for (const auto& [key, lane] : receive_lanes_) {
    const std::uint64_t interval = acknowledgement_interval(lane.channel);
    drain_.left_sent(lane.peer, {generation_, lane.channel, ChunkKind::acknowledgement},
                     lane.consumed / interval);
    drain_.left_posted(lane.peer, {generation_, lane.channel, ChunkKind::data}, lane.posted);
  }
}

/// To and from every live peer, once a generation; there may be news of the last drain as well.
void Messenger::exchange_tells() {
  tells_.clear();
  told_by_.clear();
  if (wire_ == nullptr) return;
  for (const int peer : live_) {
    if (peer == world_rank_) continue;
    Tell& tell = tells_[peer];
    const std::vector<StreamCount> lines = drain_.to_tell(peer);
    tell.out.settled_below = raw(drain_.settled_below(peer));
    tell.out.lines = static_cast<std::uint32_t>(lines.size());
    const std::size_t first = std::min(lines.size(), tell.out.first.size());
    std::copy_n(lines.begin(), first, tell.out.first.begin());
    tell.more_out.assign(lines.begin() + static_cast<std::ptrdiff_t>(first), lines.end());
    submit(make_receive(peer, Channel::drain, generation_,
                        {std::as_writable_bytes(std::span(&tell.in, 1))}));
    submit(make_send(peer, Channel::drain, generation_,
                     {std::as_bytes(std::span<const TellHead>(&tell.out, 1))}));
    if (!tell.more_out.empty())
      submit(make_send(peer, Channel::drain, generation_,
                       {std::as_bytes(std::span<const StreamCount>(tell.more_out))}));
  }
}

/// A message of Channel::drain has arrived whole.
void Messenger::hear(int peer) {
  Tell& tell = tells_[peer];
  if (!tell.heard_head) {
    tell.heard_head = true;
    if (tell.in.magic != TellHead::kMagic || tell.in.lines > kMostLines)
      return fail_all(
          tell_error(peer, fmt::format("magic {:08x}, {} lines", tell.in.magic, tell.in.lines)));
    const std::size_t inlined = std::min<std::size_t>(tell.in.lines, tell.in.first.size());
    tell.more_in.resize(tell.in.lines - inlined);
    if (!tell.more_in.empty())
      return submit(make_receive(peer, Channel::drain, generation_,
                                 {std::as_writable_bytes(std::span(tell.more_in))}));
  }
  const auto inlined = static_cast<std::ptrdiff_t>(tell.in.lines - tell.more_in.size());
  std::vector<StreamCount> lines(tell.in.first.begin(), tell.in.first.begin() + inlined);
  lines.insert(lines.end(), tell.more_in.begin(), tell.more_in.end());
  if (auto wrong = drain_.told(peer, generation_, Generation{tell.in.settled_below}, lines))
    return fail_all(tell_error(peer, *wrong));
  receive_strays(peer);
}

Error Messenger::tell_error(int peer, const std::string& why) const {
  return {.code = Code::unrecoverable,
          .what = fmt::format("rank {} cannot read what rank {} tells of older views", world_rank_,
                              peer),
          .where = fmt::format("rank {}, generation {}", world_rank_, raw(generation_)),
          .why = why,
          .fix = "this is a bug: report it with the text above"};
}

/// Keeps a few receives into the void under way.
void Messenger::receive_strays(int peer) {
  if (!is_live(peer)) return;
  const auto counted = strays_.find(peer);
  int under_way = counted == strays_.end() ? 0 : counted->second;
  for (; under_way < kStraysAtOnce; ++under_way) {
    const auto stray = drain_.next_stray(peer);
    if (!stray) return;
    const bool data = stray->stream.kind == ChunkKind::data;
    Lane place;
    place.peer = peer;
    place.channel = stray->stream.channel;
    const std::int64_t bytes = kHeaderBytes + (data ? payload_limit(place.channel) : 0);
    const Token token = take_flight(Role::stray, place, bytes);
    Flight& flight = flights_[token];
    flight.generation = stray->stream.generation;
    flight.kind = stray->stream.kind;
    flight.sequence = stray->sequence;
    ++strays_[peer];
    launch(token, flight.buffer.capacity_bytes);
  }
}

/// A receive that nobody waits for any more has ended: one that was given up, or one into the void.
void Messenger::stray_ended(const Flight& flight, bool received) {
  ChunkKind kind = ChunkKind::data;
  if (flight.role == Role::stray) kind = flight.kind;
  if (flight.role == Role::receive_acknowledgement) kind = ChunkKind::acknowledgement;
  drain_.ended(flight.peer, {{flight.generation, flight.channel, kind}, flight.sequence}, received);
  if (flight.role == Role::stray) --strays_[flight.peer];
  stray_moved_.push_back(flight.peer);
}

/// A chunk received into the void must be the one that was told of.
std::optional<Error> Messenger::stray_disagreement(Flight& flight, std::int64_t bytes) const {
  ChunkHeader got;
  if (bytes >= kHeaderBytes) std::memcpy(&got, flight.buffer.memory.get(), sizeof(got));
  if (bytes >= kHeaderBytes && got.magic == kChunkMagic &&
      got.generation == raw(flight.generation) && got.sequence == flight.sequence &&
      got.channel == static_cast<std::uint8_t>(flight.channel) && got.kind == flight.kind &&
      got.from == static_cast<std::uint32_t>(flight.peer))
    return std::nullopt;
  return Error{
      .code = Code::unrecoverable,
      .what = fmt::format("rank {} drains a chunk of rank {} that it does not expect", world_rank_,
                          flight.peer),
      .where = fmt::format("rank {}, generation {}", world_rank_, raw(generation_)),
      .why = fmt::format("{} bytes, generation {}, channel {}, sequence {}; expected "
                         "generation {}, channel {}, sequence {}",
                         bytes, got.generation, got.channel, got.sequence, raw(flight.generation),
                         static_cast<int>(flight.channel), flight.sequence),
      .fix = "this is a bug: report it with the text above"};
}

/// The first live peer between whom and this rank a tag of `generation` may meet an older message.
std::optional<int> Messenger::peer_behind(Generation generation) const {
  for (const int peer : live_)
    if (peer != world_rank_ &&
        raw(generation) - raw(drain_.oldest_open(peer)) >= kGenerationModulus)
      return peer;
  return std::nullopt;
}

std::int64_t Messenger::undrained() const {
  std::int64_t count = 0;
  for (const int peer : live_)
    if (peer != world_rank_ && wire_ != nullptr) count += drain_.open_streams(peer, generation_);
  for (const Flight& flight : flights_)
    if (flight.role != Role::none && flight.buried && flight.generation < generation_ &&
        is_live(flight.peer))
      ++count;
  return count;
}

}  // namespace elaswave::comm
