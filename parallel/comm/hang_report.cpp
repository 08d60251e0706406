#include "parallel/comm/hang_report.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>

namespace elaswave::comm {
namespace {

constexpr std::size_t kTellAll = 96;
// Longer lists say no more.
constexpr std::size_t kWaitsShown = 16;
constexpr std::size_t kSuspectsShown = 8;

double seconds(Nanoseconds duration) {
  return static_cast<double>(duration) / static_cast<double>(kSecond);
}

/// The newest note of `rank`, its own included, unless it is out of date.
const WaitNote* note_of(const HangView& view, int rank) {
  if (rank == view.own.from) return &view.own;
  const auto found =
      std::find_if(view.others.begin(), view.others.end(),
                   [rank](const HeardNote& heard) { return heard.note.from == rank; });
  if (found == view.others.end() || found->note.step + 1 < view.own.step) return nullptr;
  return &found->note;
}

/// Whom `rank` waits for, if it is known to wait.
std::optional<int> awaited_by(const HangView& view, int rank) {
  const WaitNote* note = note_of(view, rank);
  if (note == nullptr || note->state != NoteState::waiting) return std::nullopt;
  return note->peer;
}

/// From this rank along who waits for whom: ends with a rank that waits for nobody, or with the
/// first rank met again.
std::vector<int> chain(const HangView& view) {
  std::vector<int> ranks{view.own.from};
  for (;;) {
    const std::optional<int> next = awaited_by(view, ranks.back());
    if (!next) return ranks;
    const bool met = std::find(ranks.begin(), ranks.end(), *next) != ranks.end();
    ranks.push_back(*next);
    if (met) return ranks;
  }
}

std::string last_seen(const HangView& view, int rank) {
  for (const LastSeen& seen : view.seen)
    if (seen.world_rank == rank)
      return fmt::format("last seen {:.1f} s ago in step {}, channel {}", seconds(seen.ago),
                         raw(seen.step), name(seen.channel));
  return "this rank has had no message from it lately";
}

std::string suspicion(const HangView& view, int rank) {
  if (const WaitNote* note = note_of(view, rank))
    return fmt::format("rank {} went on in step {} ({}) and has told of no wait since; {}", rank,
                       note->step, note->activity.data(), last_seen(view, rank));
  const auto heard = ranks_heard_by(view.own.from, view.live);
  if (std::find(heard.begin(), heard.end(), rank) == heard.end())
    return fmt::format("rank {} does not tell this rank whether it waits; {}", rank,
                       last_seen(view, rank));
  return fmt::format("rank {} has not been heard of; {}", rank, last_seen(view, rank));
}

std::string wait_text(const HeardNote& heard) {
  const WaitNote& note = heard.note;
  return fmt::format(
      "rank {} waits for rank {} in {} ({}, {}, step {}, {}, for at least {:.1f} s)", note.from,
      note.peer, note.activity[0] != 0 ? note.activity.data() : "no action", note.operation.data(),
      name(note.channel), note.step, note.direction == Direction::send ? "send" : "receive",
      seconds(note.waited + heard.ago));
}

std::string fix_text(const std::vector<int>& suspects) {
  const std::size_t shown = std::min(suspects.size(), kSuspectsShown);
  const std::string more = shown < suspects.size()
                               ? fmt::format(" and {} more", suspects.size() - shown)
                               : std::string();
  const bool one = suspects.size() == 1;
  return fmt::format("see what rank{} {}{} {} doing; when {} only slow, raise comm.timeout_ms",
                     one ? "" : "s", fmt::join(std::span(suspects).first(shown), ", "), more,
                     one ? "was" : "were", one ? "it was" : "they were");
}

std::vector<int> suspects_of(const HangView& view, int nearest) {
  std::vector<int> suspects{view.own.peer};
  for (const HeardNote& heard : view.others)
    if (awaited_by(view, heard.note.from)) suspects.push_back(heard.note.peer);
  std::sort(suspects.begin(), suspects.end());
  suspects.erase(std::unique(suspects.begin(), suspects.end()), suspects.end());
  std::erase_if(suspects, [&](int rank) { return awaited_by(view, rank).has_value(); });
  std::stable_partition(suspects.begin(), suspects.end(),
                        [nearest](int rank) { return rank == nearest; });
  return suspects;
}

enum class Way : std::uint8_t { up, down };

std::vector<int> at_distances(int world_rank, std::span<const int> live, Way way) {
  const auto found = std::lower_bound(live.begin(), live.end(), world_rank);
  const std::size_t size = live.size(), place = static_cast<std::size_t>(found - live.begin());
  const bool all = size <= kTellAll + 1;
  std::vector<int> ranks;
  for (std::size_t distance = 1; distance < size; distance = all ? distance + 1 : distance * 2)
    ranks.push_back(live[(way == Way::up ? place + distance : place + size - distance) % size]);
  return ranks;
}

}  // namespace

std::optional<WaitNote> parse_note(std::span<const std::byte> bytes, int from, int size) {
  WaitNote note;
  if (bytes.size() != sizeof(note)) return std::nullopt;
  std::memcpy(&note, bytes.data(), sizeof(note));
  note.activity.back() = note.operation.back() = 0;
  const bool valid = note.magic == WaitNote::kMagic && note.from == from && note.peer >= 0 &&
                     note.peer < size && note.channel < Channel::count &&
                     note.direction <= Direction::receive && note.state <= NoteState::resumed;
  return valid ? std::optional(note) : std::nullopt;
}

std::vector<int> ranks_told_by(int world_rank, std::span<const int> live) {
  return at_distances(world_rank, live, Way::up);
}

std::vector<int> ranks_heard_by(int world_rank, std::span<const int> live) {
  return at_distances(world_rank, live, Way::down);
}

HangReport report_hang(const HangView& view) {
  const std::vector<int> ranks = chain(view);
  HangReport report{.text = {}, .suspects = suspects_of(view, ranks.back()), .fix = {}};
  std::vector<std::string> parts;
  if (std::count(ranks.begin(), ranks.end(), ranks.back()) > 1) {
    const auto circle = std::find(ranks.begin(), ranks.end(), ranks.back());
    parts.push_back(fmt::format("ranks wait for one another: {}",
                                fmt::join(std::vector<int>(circle, ranks.end()), " -> ")));
  }
  for (std::size_t i = 0; i < std::min(report.suspects.size(), kSuspectsShown); ++i)
    parts.push_back(suspicion(view, report.suspects[i]));
  if (report.suspects.size() > kSuspectsShown)
    parts.push_back(fmt::format("likewise {} ranks more", report.suspects.size() - kSuspectsShown));
  std::size_t waits = 0;
  for (const HeardNote& heard : view.others) {
    if (!awaited_by(view, heard.note.from)) continue;
    if (++waits <= kWaitsShown) parts.push_back(wait_text(heard));
  }
  if (waits > kWaitsShown) parts.push_back(fmt::format("{} ranks more wait", waits - kWaitsShown));
  report.text = fmt::format("{}", fmt::join(parts, "; "));
  // Everybody waits: the whole chain into the circle.
  if (report.suspects.empty())
    for (const int rank : ranks)
      if (std::find(report.suspects.begin(), report.suspects.end(), rank) == report.suspects.end())
        report.suspects.push_back(rank);
  report.fix = fix_text(report.suspects);
  return report;
}

}  // namespace elaswave::comm
