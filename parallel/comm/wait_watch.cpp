#include "parallel/comm/wait_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

namespace elaswave::comm {
namespace {

constexpr Nanoseconds kTellAfter = 4;      // a quarter of the time to the deadline
constexpr Nanoseconds kLookInterval = 32;  // then every 32nd part of it

constexpr Nanoseconds kForever = std::numeric_limits<Nanoseconds>::max();

template <std::size_t n>
void copy_text(std::string_view text, std::array<char, n>& out) {
  std::copy_n(text.begin(), std::min(text.size(), n - 1), out.begin());
}

bool under_way(const Work& work) {
  return work.state() && work.state()->pending();
}

}  // namespace

std::string WaitWatch::place() const {
  if (activity_.text[0] == 0) return {};
  return fmt::format(", step {}, {}", raw(activity_.step), activity_.text.data());
}

void WaitWatch::begin(const Transfer& transfer, std::string_view operation, Deadline deadline) {
  if (transfer_ != nullptr) return;
  const Nanoseconds now = world_.clock().now();
  const Nanoseconds span = deadline.at - now;
  transfer_ = &transfer;
  operation_ = operation;
  begin_ = now;
  deadline_ = deadline;
  // A wait that may last forever tells nobody: a quarter of it never comes.
  due_ = deadline.at == kForever ? kForever : now + span / kTellAfter;
  interval_ = std::max<Nanoseconds>(span / kLookInterval, 1);
  flight_ = world_.recorder().compute.start({.begin = now,
                                             .step = activity_.step,
                                             .kind = FlightKind::wait,
                                             .detail = static_cast<std::uint8_t>(transfer.channel),
                                             .peer = transfer.peer,
                                             .bytes = transfer.bytes});
}

void WaitWatch::attend() {
  tell_waiting();
  collect();
  const Nanoseconds now = world_.clock().now();
  due_ = deadline_.at - now <= interval_ ? deadline_.at : now + interval_;
}

void WaitWatch::resumed() {
  if (told_) tell_resumed();
}

void WaitWatch::leave() {
  if (transfer_ == nullptr) return;
  world_.recorder().compute.finish(flight_, world_.clock().now());
  transfer_ = nullptr;
  told_ = false;
}

void WaitWatch::reset() {
  told_to_.clear();
  heard_from_.clear();
}

WaitNote WaitWatch::note(NoteState state) const {
  WaitNote note{.from = world_.world_rank(),
                .peer = transfer_->peer,
                .channel = transfer_->channel,
                .direction = transfer_->direction,
                .state = state,
                .step = raw(activity_.step),
                .waited = world_.clock().now() - begin_};
  note.activity = activity_.text;
  copy_text(operation_, note.operation);
  return note;
}

Work WaitWatch::send_note(int to, const WaitNote& note) {
  return world_.send(to, Channel::watch, {std::as_bytes(std::span<const WaitNote>(&note, 1))});
}

void WaitWatch::tell_waiting() {
  if (told_to_.empty())
    for (const int rank : ranks_told_by(world_.world_rank(), world_.live()))
      told_to_.push_back({.world_rank = rank,
                          .waiting = {},
                          .resumed = {},
                          .waiting_work = {},
                          .resumed_work = {}});
  told_ = true;
  for (Told& told : told_to_) {
    if (told.waiting_told || under_way(told.waiting_work) || under_way(told.resumed_work)) continue;
    told.waiting_told = true;
    told.waiting = note(NoteState::waiting);
    told.waiting_work = send_note(told.world_rank, told.waiting);
  }
}

void WaitWatch::tell_resumed() {
  for (Told& told : told_to_) {
    if (!told.waiting_told) continue;
    told.waiting_told = false;
    told.resumed = note(NoteState::resumed);
    told.resumed_work = send_note(told.world_rank, told.resumed);
  }
}

void WaitWatch::collect() {
  if (heard_from_.empty())
    for (const int rank : ranks_heard_by(world_.world_rank(), world_.live()))
      heard_from_.push_back(
          {.world_rank = rank, .incoming = {}, .newest = {}, .found_at = 0, .work = {}});
  for (Heard& heard : heard_from_) {
    for (;;) {
      if (const auto& state = heard.work.state()) {
        if (state->phase.load(std::memory_order_acquire) != Phase::done) break;
        const auto bytes = std::as_bytes(std::span<const WaitNote>(&heard.incoming, 1));
        if (auto note = parse_note(bytes, heard.world_rank, world_.size())) {
          heard.newest = note;
          heard.found_at = world_.clock().now();
        }
      }
      heard.work =
          world_.receive(heard.world_rank, Channel::watch,
                         {std::as_writable_bytes(std::span<WaitNote>(&heard.incoming, 1))});
    }
  }
}

std::vector<LastSeen> WaitWatch::last_seen() const {
  std::map<int, FlightEvent> newest;
  for (const FlightEvent& event : world_.recorder().communication.snapshot()) {
    if (event.kind != FlightKind::receive || event.end == 0) continue;
    FlightEvent& last = newest[event.peer];
    if (event.end >= last.end) last = event;
  }
  const Nanoseconds now = world_.clock().now();
  std::vector<LastSeen> seen;
  seen.reserve(newest.size());
  for (const auto& [rank, last] : newest)
    seen.push_back({.world_rank = rank,
                    .channel = static_cast<Channel>(last.detail),
                    .step = last.step,
                    .ago = now - last.end});
  return seen;
}

Error WaitWatch::deadline_error(const Transfer& transfer, std::string_view operation,
                                Nanoseconds waited) {
  Error error = comm::deadline_error(transfer, world_.world_rank(), operation, waited);
  error.where += place();
  if (transfer_ == nullptr) return error;  // the deadline had passed before the wait began
  collect();
  const auto live = world_.live();
  HangView view{.live = {live.begin(), live.end()},
                .own = note(NoteState::waiting),
                .others = {},
                .seen = last_seen()};
  const Nanoseconds now = world_.clock().now();
  for (const Heard& heard : heard_from_)
    if (heard.newest) view.others.push_back({*heard.newest, now - heard.found_at});
  std::sort(view.others.begin(), view.others.end(),
            [](const HeardNote& a, const HeardNote& b) { return a.note.from < b.note.from; });
  HangReport report = report_hang(view);
  error.why += "; " + report.text;
  error.fix = std::move(report.fix);
  return error;
}

}  // namespace elaswave::comm
