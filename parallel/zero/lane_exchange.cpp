#include "parallel/zero/lane_exchange.h"

#include <algorithm>
#include <utility>

namespace elaswave::zero {
namespace {

// Pieces begin at whole vectors of a kernel's loads, also where they are packed.
constexpr std::int64_t kAlign = 16;

std::int64_t packed_bytes(std::span<const std::span<std::byte>> pieces) {
  std::int64_t bytes = 0;
  for (const auto& piece : pieces) bytes += round_up(std::ssize(piece), kAlign);
  return bytes;
}

/// Copies between pieces in their places and packed one after another from `at` on.
void pack(std::span<const std::span<std::byte>> pieces, std::byte* at,
          std::vector<device::PieceCopy>& copies) {
  for (const auto& piece : pieces) {
    copies.push_back({.from = piece.data(), .to = at, .bytes = std::ssize(piece)});
    at += round_up(std::ssize(piece), kAlign);
  }
}
void unpack(std::span<const std::span<std::byte>> pieces, const std::byte* at,
            std::vector<device::PieceCopy>& copies) {
  for (const auto& piece : pieces) {
    copies.push_back({.from = at, .to = piece.data(), .bytes = std::ssize(piece)});
    at += round_up(std::ssize(piece), kAlign);
  }
}

template <typename T>
void add_in(device::Arithmetic& arithmetic, std::span<const std::span<std::byte>> own,
            const std::byte* from, std::int64_t stride_bytes, std::int64_t addends) {
  std::vector<device::PieceSum<T>> sums;
  for (const auto& piece : own) {
    sums.push_back({.into = reinterpret_cast<T*>(piece.data()),
                    .from = reinterpret_cast<const T*>(from),
                    .elems = std::ssize(piece) / static_cast<std::int64_t>(sizeof(T))});
    from += round_up(std::ssize(piece), kAlign);
  }
  arithmetic.add_pieces(sums, stride_bytes / static_cast<std::int64_t>(sizeof(T)), addends);
}

}  // namespace

LaneExchange::LaneExchange(const LaneExchangeParts& parts) : parts_(parts) {
  std::int64_t send = 0, receive = 0;
  for (std::int32_t unit = 0; unit < parts_.exchange.count(); ++unit) {
    const auto peers = std::ssize(parts_.exchange.unit(unit).members) - 1;
    const auto self = static_cast<std::size_t>(parts_.exchange.self(unit));
    if (peers == 0) continue;
    for (const Way way : {Way::reduce, Way::gather})
      for (const Cut& cut : cuts_of(unit, way)) {
        std::int64_t others = 0;
        for (std::size_t member = 0; member < cut.owned.size(); ++member)
          if (member != self) others += packed_bytes(pieces(way, cut.owned[member]));
        const std::int64_t own = packed_bytes(pieces(way, cut.owned[self]));
        send = std::max(send, way == Way::reduce ? others : own);
        receive = std::max(receive, way == Way::reduce ? own * peers : others);
      }
  }
  device::Device& device = parts_.sums.arithmetic().device();
  send_ = device::Buffer(device, send);
  receive_ = device::Buffer(device, receive);
}

/// Neighbours in a part are one piece. The same on every rank: a part has no gaps.
LaneExchange::Pieces LaneExchange::pieces(Way way, std::span<const std::int64_t> owned) {
  Pieces pieces;
  for (std::size_t i = 0; i < owned.size(); ++i) {
    const layout::Block& block = parts_.blocks.block(owned[i]);
    const std::span<std::byte> bytes =
        way == Way::reduce ? parts_.sums.bytes(block) : parts_.working.bytes(block);
    const bool follows = i > 0 && owned[i] == owned[i - 1] + 1 &&
                         parts_.blocks.block(owned[i - 1]).part == block.part;
    if (follows)
      pieces.back() = {pieces.back().data(), pieces.back().size() + bytes.size()};
    else
      pieces.push_back(bytes);
  }
  return pieces;
}

/// In the order of blocks, as many as fit; every member cuts alike. What one member owns comes to
/// it from all others at once.
std::vector<LaneExchange::Cut> LaneExchange::cuts_of(std::int32_t index, Way way) {
  const Unit& unit = parts_.exchange.unit(index);
  std::vector<std::pair<std::int64_t, std::size_t>> owners;  // block, member
  for (std::size_t member = 0; member < unit.owned.size(); ++member)
    for (const std::int64_t block : unit.owned[member]) owners.emplace_back(block, member);
  std::sort(owners.begin(), owners.end());
  const auto peers = std::ssize(unit.members) - 1;
  std::vector<Cut> cuts;
  std::vector<std::int64_t> bytes_of;  // of each member, in the newest cut
  std::int64_t all = 0;
  for (const auto& [block, member] : owners) {
    const std::int64_t bytes = std::ssize(pieces(way, {&block, 1}).front());
    const bool full = cuts.empty() || all + bytes > parts_.limits.cut_bytes ||
                      (bytes_of[member] + bytes) * peers > parts_.limits.cut_bytes;
    if (full) {
      cuts.emplace_back().owned.resize(unit.members.size());
      bytes_of.assign(unit.members.size(), 0);
      all = 0;
    }
    cuts.back().owned[member].push_back(block);
    bytes_of[member] += bytes;
    all += bytes;
  }
  return cuts;
}

LaneExchange::Ticket LaneExchange::reduce(std::int32_t unit) {
  return post(Way::reduce, unit);
}
LaneExchange::Ticket LaneExchange::gather(std::int32_t unit) {
  return post(Way::gather, unit);
}

LaneExchange::Ticket LaneExchange::post(Way way, std::int32_t unit) {
  jobs_.push_back({.way = way, .unit = unit, .cuts = cuts_of(unit, way)});
  EW_CHECK(!jobs_.back().cuts.empty(), "unit {} has no blocks", unit);
  return ++posted_;
}

Result<void> LaneExchange::progress() {
  for (;;) {
    while (!in_flight_.empty()) {
      EW_ASSIGN(const bool arrived, parts_.lane.test(in_flight_.front().mark));
      if (!arrived) break;
      done_ = in_flight_.front().done;
      in_flight_.pop_front();
    }
    if (jobs_.empty() || in_flight_.size() >= parts_.limits.cuts) return {};
    EW_TRY(start_next());
  }
}

Result<void> LaneExchange::start_all(std::string_view operation) {
  for (;;) {
    EW_TRY(progress());
    if (jobs_.empty()) return {};
    EW_TRY(parts_.lane.wait(in_flight_.front().mark, operation, deadline()));
  }
}

Result<void> LaneExchange::wait(Ticket ticket, std::string_view operation) {
  EW_CHECK(ticket <= posted_, "ticket {} of {}", ticket, posted_);
  for (;;) {
    EW_TRY(progress());
    if (done_ >= ticket) return {};
    EW_TRY(parts_.lane.wait(in_flight_.front().mark, operation, deadline()));
  }
}

Result<void> LaneExchange::start_next() {
  Job& job = jobs_.front();
  const Cut& cut = job.cuts[job.next++];
  parts_.lane.follow();
  EW_TRY(job.way == Way::reduce ? start_reduce(job.unit, cut) : start_gather(job.unit, cut));
  if (job.next == job.cuts.size()) {
    ++started_;
    jobs_.pop_front();
  }
  in_flight_.push_back({.mark = parts_.lane.mark(), .done = started_});
  return {};
}

Result<void> LaneExchange::start_reduce(std::int32_t index, const Cut& cut) {
  const Unit& unit = parts_.exchange.unit(index);
  const auto self = static_cast<std::size_t>(parts_.exchange.self(index));
  const Pieces own = pieces(Way::reduce, cut.owned[self]);
  const std::int64_t own_bytes = packed_bytes(own);
  comm::LaneBatch batch{.channel = comm::Channel::reduce};
  std::vector<device::PieceCopy> packing;
  std::byte* out = send_.data();
  std::byte* in = receive_.data();
  for (std::size_t member = 0; member < unit.members.size(); ++member) {
    if (member == self) continue;
    const int peer = unit.members[member];
    const Pieces theirs = pieces(Way::reduce, cut.owned[member]);
    const auto bytes = static_cast<std::size_t>(packed_bytes(theirs));
    pack(theirs, out, packing);
    if (bytes > 0) batch.sends.push_back({peer, {std::exchange(out, out + bytes), bytes}});
    if (own_bytes > 0)
      batch.receives.push_back(
          {peer, {std::exchange(in, in + own_bytes), static_cast<std::size_t>(own_bytes)}});
  }
  parts_.lane.arithmetic().copy_pieces(packing);
  EW_TRY(parts_.lane.start(batch, fmt::format("reduce layer {}", unit.layer), deadline()));
  add(own, own_bytes, std::ssize(unit.members) - 1);
  return {};
}

/// To this rank's own sums, member by member: in fast mode that is the order of the sum.
void LaneExchange::add(const Pieces& own, std::int64_t stride_bytes, std::int64_t addends) {
  device::Arithmetic& arithmetic = parts_.lane.arithmetic();
  if (parts_.sums.mode() == SumMode::exact)
    add_in<std::int64_t>(arithmetic, own, receive_.data(), stride_bytes, addends);
  else
    add_in<float>(arithmetic, own, receive_.data(), stride_bytes, addends);
}

Result<void> LaneExchange::start_gather(std::int32_t index, const Cut& cut) {
  const Unit& unit = parts_.exchange.unit(index);
  const auto self = static_cast<std::size_t>(parts_.exchange.self(index));
  const Pieces own = pieces(Way::gather, cut.owned[self]);
  const std::span<const std::byte> packed(send_.data(),
                                          static_cast<std::size_t>(packed_bytes(own)));
  comm::LaneBatch batch{.channel = comm::Channel::gather};
  std::vector<device::PieceCopy> packing, unpacking;
  pack(own, send_.data(), packing);
  std::byte* in = receive_.data();
  for (std::size_t member = 0; member < unit.members.size(); ++member) {
    if (member == self) continue;
    const int peer = unit.members[member];
    const Pieces theirs = pieces(Way::gather, cut.owned[member]);
    const auto bytes = static_cast<std::size_t>(packed_bytes(theirs));
    unpack(theirs, in, unpacking);
    if (bytes > 0) batch.receives.push_back({peer, {std::exchange(in, in + bytes), bytes}});
    if (!packed.empty()) batch.sends.push_back({peer, packed});
  }
  parts_.lane.arithmetic().copy_pieces(packing);
  EW_TRY(parts_.lane.start(batch, fmt::format("gather layer {}", unit.layer), deadline()));
  parts_.lane.arithmetic().copy_pieces(unpacking);
  return {};
}

LaneReducer::LaneReducer(LaneExchange& lane, const ExchangeMap& exchange, GradSums& sums)
    : lane_(lane), exchange_(exchange), sums_(sums), awaited_(exchange) {
  for (std::int32_t unit = 0; unit < exchange.count(); ++unit)
    if (exchange.unit(unit).members.size() > 1) order_.push_back(unit);
  // Layer and first part name a unit alike on all its members, so the order is one for all ranks.
  std::stable_sort(order_.begin(), order_.end(), [&](std::int32_t one, std::int32_t other) {
    return exchange.unit(one).layer > exchange.unit(other).layer;
  });
}

void LaneReducer::settle(std::int32_t unit) {
  for (const std::int32_t part : exchange_.unit(unit).parts) sums_.settle(part);
}

Result<void> LaneReducer::begin_step() {
  awaited_.begin_step();
  posted_ = 0;
  return {};
}

Result<void> LaneReducer::done(std::int32_t layer, bool tied) {
  awaited_.done(layer, tied);
  return progress();
}

Result<void> LaneReducer::done_rest() {
  awaited_.done_rest();
  return progress();
}

Result<void> LaneReducer::progress() {
  for (; posted_ < order_.size() && awaited_.complete(order_[posted_]); ++posted_) {
    settle(order_[posted_]);
    last_ = lane_.reduce(order_[posted_]);
  }
  return lane_.progress();
}

Result<void> LaneReducer::finish() {
  EW_TRY(progress());
  EW_CHECK(posted_ == order_.size(), "{} of {} units are done", posted_, order_.size());
  EW_TRY(lane_.wait(last_, "reduce gradient sums"));
  // Nobody else adds to these; what got no contribution is zero all the same.
  for (std::int32_t unit = 0; unit < exchange_.count(); ++unit)
    if (exchange_.unit(unit).members.size() == 1) settle(unit);
  return {};
}

}  // namespace elaswave::zero
