#include "app/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>

#include "app/memory.h"

namespace elaswave::app {
namespace {

constexpr int kPings = 8;

constexpr std::array<std::string_view, 5> kOps = {"F", "B", "I", "W", "R"};
constexpr std::array<std::string_view, static_cast<std::size_t>(FlightPhase::count)> kPhases = {
    "wait for weights", "reduce", "log",        "commit",    "update",
    "gather",           "digest", "validation", "checkpoint"};

std::vector<std::string_view> channel_names() {
  std::vector<std::string_view> names;
  for (int channel = 0; channel < static_cast<int>(comm::Channel::count); ++channel)
    names.push_back(comm::name(static_cast<comm::Channel>(channel)));
  return names;
}

std::string label_of(const layout::Plan& plan, std::int32_t world_rank) {
  const layout::Place place = layout::place_of(plan, world_rank);
  if (place.stage < 0) return "idle";
  const std::string slice =
      plan.tensor_degree > 1 ? fmt::format(", slice {}", place.slice) : std::string();
  return fmt::format("stage {}, replica {}{}", place.stage, place.replica, slice);
}

/// Drops what began before the first event of step `first`. Messages do not know their step.
void keep_from(Step first, std::vector<FlightEvent>& compute,
               std::vector<FlightEvent>& communication) {
  const auto begins = std::ranges::find_if(
      compute, [&](const FlightEvent& event) { return raw(event.step) >= raw(first); });
  const Nanoseconds begin =
      begins == compute.end() ? std::numeric_limits<Nanoseconds>::max() : begins->begin;
  for (auto* events : {&compute, &communication})
    std::erase_if(*events, [&](const FlightEvent& event) { return event.begin < begin; });
}

class Collector {
 public:
  Collector(comm::World& world, Nanoseconds timeout) : world_(world), timeout_(timeout) {}

  Result<void> send(int to, std::span<const std::byte> bytes) {
    return finish(world_.send(to, comm::Channel::control, {bytes}), "send flight recorder");
  }
  Result<void> receive(int from, std::span<std::byte> bytes) {
    return finish(world_.receive(from, comm::Channel::control, {bytes}), "receive flight recorder");
  }

  /// What to add to the clock of `peer`: half way of the quickest of some exchanges (Cristian
  /// 1989).
  Result<Nanoseconds> measure_offset(int peer) {
    Nanoseconds best = 0, offset = 0;
    for (int ping = 0; ping < kPings; ++ping) {
      const Nanoseconds before = world_.clock().now();
      std::int64_t theirs = 0;
      EW_TRY(send(peer, std::as_bytes(std::span(&before, 1))));
      EW_TRY(receive(peer, std::as_writable_bytes(std::span(&theirs, 1))));
      const Nanoseconds after = world_.clock().now();
      if (ping > 0 && after - before >= best) continue;
      best = after - before;
      offset = before + (after - before) / 2 - theirs;
    }
    return offset;
  }
  Result<void> answer_pings(int peer) {
    for (int ping = 0; ping < kPings; ++ping) {
      std::int64_t word = 0;
      EW_TRY(receive(peer, std::as_writable_bytes(std::span(&word, 1))));
      word = world_.clock().now();
      EW_TRY(send(peer, std::as_bytes(std::span(&word, 1))));
    }
    return {};
  }

  Result<void> send_events(int to, const std::vector<FlightEvent>& events) {
    const std::int64_t count = std::ssize(events);
    EW_TRY(send(to, std::as_bytes(std::span(&count, 1))));
    return count == 0 ? Result<void>{} : send(to, std::as_bytes(std::span(events)));
  }
  Result<std::vector<FlightEvent>> receive_events(int from) {
    std::int64_t count = 0;
    EW_TRY(receive(from, std::as_writable_bytes(std::span(&count, 1))));
    std::vector<FlightEvent> events(static_cast<std::size_t>(count));
    if (count > 0) EW_TRY(receive(from, std::as_writable_bytes(std::span(events))));
    return events;
  }

 private:
  Result<void> finish(const comm::Work& work, std::string_view operation) {
    return world_.wait(work, operation, Deadline::after(world_.clock(), timeout_));
  }

  comm::World& world_;
  Nanoseconds timeout_;
};

}  // namespace

Result<std::vector<metrics::RankTrace>> collect_traces(comm::World& world, const comm::Group& group,
                                                       const layout::Plan& plan, Step first,
                                                       Nanoseconds timeout) {
  // Taken before the exchange enters the recorder itself.
  std::vector<FlightEvent> compute = world.recorder().compute.snapshot();
  std::vector<FlightEvent> communication = world.recorder().communication.snapshot();
  keep_from(first, compute, communication);
  Collector collector(world, timeout);
  const int reporter = group.world_ranks.front();
  std::vector<metrics::RankTrace> traces;
  if (world.world_rank() != reporter) {
    EW_TRY(collector.answer_pings(reporter));
    EW_TRY(collector.send_events(reporter, compute));
    EW_TRY(collector.send_events(reporter, communication));
    return traces;
  }
  for (const int rank : group.world_ranks) {
    metrics::RankTrace trace{.world_rank = rank, .label = label_of(plan, rank)};
    if (rank == reporter) {
      trace.compute = compute;
      trace.communication = communication;
    } else {
      EW_ASSIGN(trace.offset, collector.measure_offset(rank));
      EW_ASSIGN(trace.compute, collector.receive_events(rank));
      EW_ASSIGN(trace.communication, collector.receive_events(rank));
    }
    traces.push_back(std::move(trace));
  }
  return traces;
}

Result<std::string> write_trace(const std::vector<metrics::RankTrace>& traces,
                                const std::string& path) {
  const std::vector<std::string_view> channels = channel_names();
  std::ofstream file(path, std::ios::binary);
  file << metrics::chrome_trace(traces, {kOps, kPhases, channels});
  file.close();
  if (!file)
    return fail({.code = Code::io,
                 .what = "the trace could not be written",
                 .where = path,
                 .why = "the system refused the file or its contents",
                 .fix = "give --profile.trace a place that can be written"});
  std::string table;
  const auto uses = metrics::channel_use(traces, channels.size());
  for (std::size_t channel = 0; channel < uses.size(); ++channel) {
    const metrics::ChannelUse& use = uses[channel];
    if (use.messages == 0) continue;
    table += fmt::format("{}{} {} messages, {}, {:.0f} % of {:.1f} ms hidden",
                         table.empty() ? "" : "; ", channels[channel], use.messages,
                         bytes_text(static_cast<double>(use.bytes)), 100 * use.hidden(),
                         static_cast<double>(use.transfer) / static_cast<double>(kMillisecond));
  }
  return table.empty() ? std::string("no messages") : table;
}

}  // namespace elaswave::app
