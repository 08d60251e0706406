#include "app/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <utility>
#include <vector>

#include "app/memory.h"
#include "io/metrics/trace.h"

namespace elaswave::app {
namespace {

constexpr int kPings = 8;
// The reporter serves one rank after the other; a turn should not take longer than this.
constexpr std::int64_t kTurnTimeouts = 2;

constexpr std::array<std::string_view, 5> kOps = {"F", "B", "I", "W", "R"};
constexpr auto kPhases = [] {
  std::array<std::string_view, static_cast<std::size_t>(FlightPhase::count)> names;
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = name(static_cast<FlightPhase>(i));
  return names;
}();

// Words of the reporter to the others while it has its file open.
constexpr std::int64_t kWriting = 1, kClosed = 0;
constexpr Nanoseconds kBeatsPerTimeout = 8;

std::vector<std::string_view> channel_names() {
  std::vector<std::string_view> names(static_cast<std::size_t>(comm::Channel::count));
  for (std::size_t channel = 0; channel < names.size(); ++channel)
    names[channel] = comm::name(static_cast<comm::Channel>(channel));
  return names;
}

std::string label_of(const layout::Plan& plan, std::int32_t world_rank) {
  const layout::Place place = layout::place_of(plan, world_rank);
  if (place.stage < 0) return "idle";
  const std::string slice =
      plan.tensor_degree > 1 ? fmt::format(", slice {}", place.slice) : std::string();
  return fmt::format("stage {}, replica {}{}", place.stage, place.replica, slice);
}

/// What one rank's recorder holds, and which steps of it are whole.
struct Held {
  std::vector<FlightEvent> compute, communication;
  Step first{}, last{};
};

Held held_by(comm::World& world, Step wanted) {
  Held held;
  for (auto [lane, events] : {std::pair(&world.recorder().compute, &held.compute),
                              std::pair(&world.recorder().communication, &held.communication)}) {
    *events = lane->snapshot();
    held.first = std::max(
        held.first, metrics::first_whole_step(*events, lane->count() > lane->capacity(), wanted));
  }
  for (const FlightEvent& event : held.compute) held.last = std::max(held.last, event.step);
  return held;
}

/// The steps that all ranks can show.
struct Steps {
  Step first{}, last{};
  bool torn = false;  // of the only step a part is lost
};

/// COLLECTIVE.
Result<Steps> agree_steps(comm::World& world, const comm::Group& group, const Held& held,
                          Step wanted, Deadline deadline) {
  const std::int64_t mine[] = {raw(held.first), raw(held.last)};
  std::vector<std::int64_t> all(2 * static_cast<std::size_t>(group.size()));
  EW_TRY(comm::all_gather(world, group, std::as_bytes(std::span(mine)),
                          std::as_writable_bytes(std::span(all)), "trace steps", deadline));
  Steps steps;
  for (std::size_t rank = 0; rank < all.size(); rank += 2) {
    steps.first = std::max(steps.first, Step{all[rank]});
    steps.last = std::max(steps.last, Step{all[rank + 1]});
  }
  if (steps.last < wanted) return Steps{};
  steps.torn = steps.first > steps.last;
  steps.first = std::min(steps.first, steps.last);
  return steps;
}

class Collector {
 public:
  Collector(comm::World& world, Nanoseconds timeout) : world_(world), timeout_(timeout) {}

  Result<void> send(int to, std::span<const std::byte> bytes) {
    return finish(world_.send(to, comm::Channel::control, {bytes}), "send flight recorder",
                  timeout_);
  }
  Result<void> receive(int from, std::span<std::byte> bytes) {
    return finish(world_.receive(from, comm::Channel::control, {bytes}), "receive flight recorder",
                  timeout_);
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
  /// `turns`: how many ranks the peer serves before this one is done.
  Result<void> answer_pings(int peer, std::int64_t turns) {
    for (int ping = 0; ping < kPings; ++ping) {
      std::int64_t word = 0;
      EW_TRY(finish(world_.receive(peer, comm::Channel::control,
                                   {std::as_writable_bytes(std::span(&word, 1))}),
                    "receive ping", ping == 0 ? turns * kTurnTimeouts * timeout_ : timeout_));
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
  Result<void> finish(const comm::Work& work, std::string_view operation, Nanoseconds timeout) {
    return world_.wait(work, operation, Deadline::after(world_.clock(), timeout));
  }

  comm::World& world_;
  Nanoseconds timeout_;
};

/// COLLECTIVE. All ranks' traces on the reporter, nothing elsewhere.
Result<std::vector<metrics::RankTrace>> collect(comm::World& world, const comm::Group& group,
                                                const layout::Plan& plan, Held held,
                                                Nanoseconds timeout) {
  Collector collector(world, timeout);
  const int reporter = group.world_ranks.front();
  std::vector<metrics::RankTrace> traces;
  if (world.world_rank() != reporter) {
    EW_TRY(collector.answer_pings(reporter, group.index_of(world.world_rank())));
    EW_TRY(collector.send_events(reporter, held.compute));
    EW_TRY(collector.send_events(reporter, held.communication));
    return traces;
  }
  for (const int rank : group.world_ranks) {
    metrics::RankTrace trace{.world_rank = rank, .label = label_of(plan, rank)};
    if (rank == reporter) {
      trace.compute = std::move(held.compute);
      trace.communication = std::move(held.communication);
    } else {
      EW_ASSIGN(trace.offset, collector.measure_offset(rank));
      EW_ASSIGN(trace.compute, collector.receive_events(rank));
      EW_ASSIGN(trace.communication, collector.receive_events(rank));
    }
    traces.push_back(std::move(trace));
  }
  return traces;
}

/// Keeps the other ranks while the reporter writes: they leave when told that the file is closed.
/// Without words in between a slow disk would look like a dead reporter.
class Company {
 public:
  Company(comm::World& world, const comm::Group& group, Nanoseconds timeout)
      : world_(world), group_(group), timeout_(timeout), told_(world.clock().now()) {}

  /// The reporter, often. Tells the others once an eighth of the time they would wait is over.
  void beat() {
    const Nanoseconds now = world_.clock().now();
    if (!sound_ || now - told_ < timeout_ / kBeatsPerTimeout) return;
    told_ = now;
    std::int64_t word = kWriting;
    sound_ = tell(word, timeout_);
  }
  /// COLLECTIVE. The reporter, once its file is closed.
  Result<void> end() {
    EW_TRY(std::move(sound_));
    std::int64_t word = kClosed;
    return tell(word, timeout_);
  }
  /// COLLECTIVE. The others. The first word comes when all ranks have had their turn.
  Result<void> stay() {
    std::int64_t word = kWriting;
    EW_TRY(tell(word, group_.size() * kTurnTimeouts * timeout_));
    while (word != kClosed) EW_TRY(tell(word, timeout_));
    return {};
  }

 private:
  Result<void> tell(std::int64_t& word, Nanoseconds timeout) {
    return comm::broadcast(world_, group_, 0, std::as_writable_bytes(std::span(&word, 1)),
                           "trace file", Deadline::after(world_.clock(), timeout));
  }

  comm::World& world_;
  const comm::Group& group_;
  Nanoseconds timeout_, told_;
  Result<void> sound_;
};

std::optional<Error> write_file(const std::vector<metrics::RankTrace>& traces,
                                std::span<const std::string_view> channels, const std::string& path,
                                Company& company) {
  std::ofstream file(path, std::ios::binary);
  if (file)
    metrics::chrome_trace(traces, {kOps, kPhases, channels}, [&](std::string_view piece) {
      file << piece;
      company.beat();
    });
  file.close();
  if (file) return std::nullopt;
  return Error{.code = Code::io,
               .what = "the trace could not be written",
               .where = path,
               .why = "the system refused the file or its contents",
               .fix = "give --profile.trace a place that can be written"};
}

std::string use_text(const std::vector<metrics::RankTrace>& traces,
                     std::span<const std::string_view> channels) {
  std::string table;
  const auto uses = metrics::channel_use(traces, channels.size());
  for (std::size_t channel = 0; channel < uses.size(); ++channel) {
    const metrics::ChannelUse& use = uses[channel];
    if (use.messages == 0) continue;
    table +=
        fmt::format("{}{} {} messages, {}, {:.0f} % of {:.1f} ms hidden", table.empty() ? "" : "; ",
                    channels[channel], use.messages, bytes_text(static_cast<double>(use.bytes)),
                    100 * use.hidden(),
                    static_cast<double>(use.communication) / static_cast<double>(kMillisecond));
  }
  return table.empty() ? std::string("no messages") : table;
}

}  // namespace

Result<TraceReport> write_run_trace(comm::World& world, const comm::Group& group,
                                    const layout::Plan& plan, Step first, const std::string& path,
                                    Nanoseconds timeout) {
  Held held = held_by(world, first);  // before the exchange enters the recorder itself
  EW_ASSIGN(const Steps steps,
            agree_steps(world, group, held, first, Deadline::after(world.clock(), timeout)));
  for (auto* events : {&held.compute, &held.communication})
    std::erase_if(*events, [&](const FlightEvent& event) {
      return event.step < std::max(first, steps.first);
    });
  EW_ASSIGN(const auto traces, collect(world, group, plan, std::move(held), timeout));
  TraceReport report{.text = {}, .first = steps.first, .last = steps.last, .failure = {}};
  Company company(world, group, timeout);
  if (world.world_rank() != group.world_ranks.front()) {
    EW_TRY(company.stay());
    return report;
  }
  const std::vector<std::string_view> channels = channel_names();
  report.text = use_text(traces, channels);
  if (steps.torn) report.text += "; the recorders hold a part of the step only";
  report.failure = write_file(traces, channels, path, company);
  EW_TRY(company.end());
  return report;
}

}  // namespace elaswave::app
