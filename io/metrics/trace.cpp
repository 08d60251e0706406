#include "io/metrics/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <tuple>

namespace elaswave::metrics {
namespace {

// Thread numbers within a process: actions, waits, then a range for every channel and direction.
constexpr std::int64_t kActionLane = 0, kWaitLane = 1, kFirstMessageLane = 10,
                       kLanesPerDirection = 16;

/// A message as both ends know it.
struct MessageKey {
  std::int32_t from, to;
  std::uint8_t channel;
  std::uint64_t number;
  auto operator<=>(const MessageKey&) const = default;
};

MessageKey key_of(const RankTrace& rank, const FlightEvent& event) {
  return event.kind == FlightKind::send
             ? MessageKey{rank.world_rank, event.peer, event.detail, event.message}
             : MessageKey{event.peer, rank.world_rank, event.detail, event.message};
}

bool is_message(const FlightEvent& event) {
  return event.kind == FlightKind::send || event.kind == FlightKind::receive;
}

std::string_view name_of(std::span<const std::string_view> names, std::uint8_t detail) {
  return detail < names.size() ? names[detail] : std::string_view("?");
}

/// Lays overlapping events of one kind out in as few lanes as they need.
class LanePacker {
 public:
  std::int64_t place(Nanoseconds begin, Nanoseconds end) {
    for (std::size_t lane = 0; lane < ends_.size(); ++lane)
      if (ends_[lane] <= begin) {
        ends_[lane] = end;
        return static_cast<std::int64_t>(lane);
      }
    if (ends_.size() < kLanesPerDirection) ends_.push_back(end);
    return static_cast<std::int64_t>(ends_.size()) - 1;
  }

 private:
  std::vector<Nanoseconds> ends_;
};

class Writer {
 public:
  Writer(std::span<const RankTrace> ranks, const TraceNames& names) : ranks_(ranks), names_(names) {
    Nanoseconds first = std::numeric_limits<Nanoseconds>::max();
    for (const RankTrace& rank : ranks)
      for (const auto* events : {&rank.compute, &rank.communication})
        for (const FlightEvent& event : *events) first = std::min(first, event.begin + rank.offset);
    start_ = ranks.empty() ? 0 : first;
  }

  std::string write() {
    text_ = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
    for (const RankTrace& rank : ranks_) {
      meta(rank, "process_name", 0, fmt::format("rank {}: {}", rank.world_rank, rank.label));
      line(R"({{"ph":"M","pid":{},"name":"process_sort_index","args":{{"sort_index":{}}}}})",
           rank.world_rank, rank.world_rank);
      meta(rank, "thread_name", kActionLane, "compute");
      meta(rank, "thread_name", kWaitLane, "waits");
      for (const FlightEvent& event : rank.compute) computed(rank, event);
      messages(rank);
    }
    text_.resize(text_.size() - 2);  // the last comma
    return text_ + "\n]}\n";
  }

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    text_ += ",\n";
  }

  double micros(const RankTrace& rank, Nanoseconds time) const {
    return static_cast<double>(time + rank.offset - start_) / 1e3;
  }

  void meta(const RankTrace& rank, std::string_view what, std::int64_t lane,
            std::string_view name) {
    line(R"({{"ph":"M","pid":{},"tid":{},"name":"{}","args":{{"name":"{}"}}}})", rank.world_rank,
         lane, what, name);
  }

  void slice(const RankTrace& rank, const FlightEvent& event, std::int64_t lane,
             std::string_view name, std::string_view category) {
    line(R"({{"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"name":"{}","cat":"{}",)"
         R"("args":{{"step":{},"peer":{},"bytes":{},"message":{}}}}})",
         rank.world_rank, lane, micros(rank, event.begin),
         static_cast<double>(event.end - event.begin) / 1e3, name, category, raw(event.step),
         event.peer, event.bytes, event.message);
  }

  void computed(const RankTrace& rank, const FlightEvent& event) {
    if (event.end == 0) return;
    switch (event.kind) {
      case FlightKind::action: {
        const std::string_view op = name_of(names_.ops, event.detail);
        slice(rank, event, kActionLane, fmt::format("{}{}{}", event.chunk, op, event.micro_batch),
              op);
        return;
      }
      case FlightKind::phase:
        slice(rank, event, kActionLane, name_of(names_.phases, event.detail), "phase");
        return;
      case FlightKind::wait:
        slice(rank, event, kWaitLane,
              fmt::format("{}, rank {}", name_of(names_.channels, event.detail), event.peer),
              "wait");
        return;
      case FlightKind::send:
      case FlightKind::receive:
        return;  // of the other lane
    }
  }

  void messages(const RankTrace& rank) {
    std::map<std::pair<std::uint8_t, FlightKind>, LanePacker> packers;
    for (const FlightEvent& event : rank.communication) {
      if (!is_message(event) || event.end == 0) continue;
      const bool sent = event.kind == FlightKind::send;
      const std::int64_t lane = kFirstMessageLane +
                                (event.detail * 2 + (sent ? 0 : 1)) * kLanesPerDirection +
                                packers[{event.detail, event.kind}].place(event.begin, event.end);
      const std::string name = fmt::format("{} {} {}", name_of(names_.channels, event.detail),
                                           sent ? "to" : "from", event.peer);
      slice(rank, event, lane, name, sent ? "send" : "receive");
      const MessageKey key = key_of(rank, event);
      line(R"({{"ph":"{}","pid":{},"tid":{},"ts":{:.3f},"name":"message","cat":"flow",)"
           R"("id":"{}-{}-{}-{}"{}}})",
           sent ? "s" : "f", rank.world_rank, lane, micros(rank, sent ? event.begin : event.end),
           key.from, key.to, key.channel, key.number, sent ? "" : R"(,"bp":"e")");
    }
  }

  std::span<const RankTrace> ranks_;
  const TraceNames& names_;
  Nanoseconds start_ = 0;
  std::string text_;
};

struct Interval {
  Nanoseconds begin = 0, end = 0;
};

Nanoseconds overlap(const Interval& a, const Interval& b) {
  return std::max<Nanoseconds>(0, std::min(a.end, b.end) - std::max(a.begin, b.begin));
}

/// Waits of a rank's compute thread on one channel, by begin; they do not overlap.
std::vector<Interval> waits_of(const RankTrace& rank, std::uint8_t channel, std::int32_t peer) {
  std::vector<Interval> waits;
  for (const FlightEvent& event : rank.compute)
    if (event.kind == FlightKind::wait && event.end != 0 && event.detail == channel &&
        event.peer == peer)
      waits.push_back({event.begin + rank.offset, event.end + rank.offset});
  return waits;
}

}  // namespace

std::string chrome_trace(std::span<const RankTrace> ranks, const TraceNames& names) {
  return Writer(ranks, names).write();
}

double ChannelUse::hidden() const {
  return transfer == 0 ? 1 : 1 - static_cast<double>(exposed) / static_cast<double>(transfer);
}

std::vector<ChannelUse> channel_use(std::span<const RankTrace> ranks, std::size_t channels) {
  std::map<MessageKey, Interval> sends;
  for (const RankTrace& rank : ranks)
    for (const FlightEvent& event : rank.communication)
      if (event.kind == FlightKind::send && event.end != 0)
        sends[key_of(rank, event)] = {event.begin + rank.offset, event.end + rank.offset};

  std::vector<ChannelUse> uses(channels);
  for (const RankTrace& rank : ranks) {
    std::map<std::pair<std::uint8_t, std::int32_t>, std::vector<Interval>> waits;
    for (const FlightEvent& event : rank.communication) {
      if (event.kind != FlightKind::receive || event.end == 0 || event.detail >= channels) continue;
      const auto sent = sends.find(key_of(rank, event));
      if (sent == sends.end()) continue;
      // A message is on its way from its start until it has been delivered, whatever the transport
      // told its sender in between.
      const Interval way{sent->second.begin, event.end + rank.offset};
      ChannelUse& use = uses[event.detail];
      ++use.messages;
      use.bytes += event.bytes;
      use.transfer += std::max<Nanoseconds>(0, way.end - way.begin);
      auto [found, added] = waits.try_emplace({event.detail, event.peer});
      if (added) found->second = waits_of(rank, event.detail, event.peer);
      auto wait = std::ranges::partition_point(
          found->second, [&](const Interval& interval) { return interval.end <= way.begin; });
      for (; wait != found->second.end() && wait->begin < way.end; ++wait)
        use.exposed += overlap(*wait, way);
    }
  }
  return uses;
}

Busy busy_of(const RankTrace& rank, Step step) {
  Busy busy;
  Nanoseconds first = std::numeric_limits<Nanoseconds>::max(), last = 0;
  for (const FlightEvent& event : rank.compute) {
    if (event.kind != FlightKind::action || event.end == 0 || event.step != step) continue;
    first = std::min(first, event.begin + rank.offset);
    last = std::max(last, event.end + rank.offset);
    busy.actions += event.end - event.begin;
  }
  busy.span = std::max<Nanoseconds>(0, last - first);
  return busy;
}

}  // namespace elaswave::metrics
