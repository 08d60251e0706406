#include "app/reporter.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "app/incident.h"

namespace elaswave::app {
namespace {

std::vector<metrics::Fields> places_fields(const std::vector<RankPlace>& places) {
  std::vector<metrics::Fields> ranks;
  for (std::size_t rank = 0; rank < places.size(); ++rank)
    ranks.push_back({{"rank", rank},
                     {"pid", places[rank].pid},
                     {"host", places[rank].host},
                     {"domain", places[rank].domain}});
  return ranks;
}

}  // namespace

Reporter::Reporter(ReporterParts parts)
    : parts_(std::move(parts)), speaks_(parts_.world_rank == parts_.members.front()) {}

/// Events carry two times: the machine's monotonic clock, which tools on the same host compare with
/// their own, and the calendar's.
void Reporter::write(metrics::Event event) {
  if (!parts_.files.wanted()) return;
  event.fields.emplace_back("at_ns", parts_.clock.now());
  event.fields.emplace_back("utc", utc_text());
  parts_.files.write(event);
}

void Reporter::write(const StepReport& report) {
  const optim::CommitRecord& record = report.record;
  const double seconds = static_cast<double>(report.duration) / static_cast<double>(kSecond);
  parts_.files.write(metrics::MetricsLine{
      .step = record.version.step,
      .generation = record.version.generation,
      .loss = record.loss,
      .grad_norm = record.grad_norm,
      .lr = record.lr,
      .tokens = report.tokens,
      .ms = seconds * 1e3,
      .samples = report.samples,
      .sample_hash = record.sample_hash,
      // A step that was rolled forward has no duration.
      .tokens_per_s =
          report.duration > 0 ? static_cast<double>(parts_.tokens_per_step) / seconds : 0,
      .update = record.skip ? metrics::MetricsLine::Update::skipped
                            : metrics::MetricsLine::Update::applied,
      .digest = report.digest,
      .val_loss = report.val_loss});
}

void Reporter::started(const std::vector<RankPlace>& places, Step resumed) {
  if (!speaks_) return;
  write({"start",
         {{"step", raw(resumed)},
          {"reporter", parts_.world_rank},
          {"ranks", places_fields(places)}}});
}

Result<void> Reporter::on_step(const StepReport& report) {
  newest_ = report;
  if (parts_.stepped) parts_.stepped();
  if (!speaks_) {
    parts_.console.count(report);
    return {};
  }
  write(report);
  parts_.console.step(report);
  if (report.bubble && parts_.first_step) parts_.console.note(parts_.first_step(*report.bubble));
  return {};
}

Result<void> Reporter::on_view(const std::vector<std::int32_t>& members) {
  std::vector<std::int32_t> lost;
  std::set_difference(parts_.members.begin(), parts_.members.end(), members.begin(), members.end(),
                      std::back_inserter(lost));
  lost_.insert(lost_.end(), lost.begin(), lost.end());
  parts_.members = members;
  if (!speaks_ && members.front() == parts_.world_rank) take_over(lost);
  if (speaks_)
    write({"view", {{"members", members}, {"lost", lost}, {"reporter", parts_.world_rank}}});
  return {};
}

void Reporter::take_over(const std::vector<std::int32_t>& lost) {
  speaks_ = true;
  parts_.files.take_over(parts_.world_rank);
  parts_.console.note(fmt::format("rank {} speaks for the run from now on: {} {} gone",
                                  parts_.world_rank, ranks_text(lost),
                                  lost.size() == 1 ? "is" : "are"));
  // A committed step that the old reporter did not get to. At most one: it took part in every
  // commit, and tells of a step before it begins the next.
  if (!newest_ || !parts_.files.wanted()) return;
  if (parts_.files.last_step() >= newest_->record.version.step) return;
  write(*newest_);
  parts_.console.show(*newest_);
}

void Reporter::on_recovery(const recover::RecoveryReport& report) {
  if (!speaks_) return;
  parts_.console.note(recovery_text(report));
  write(recovery_event(report));
}

void Reporter::on_redundancy(const recover::RecoveryReport& report) {
  if (!speaks_) return;
  parts_.console.note(redundancy_text(report));
  metrics::Event event = redundancy_event(report);
  if (newest_) event.fields.emplace_back("step", raw(newest_->record.version.step));
  write(std::move(event));
}

void Reporter::finished(const RunSummary& summary) {
  // Asked again when a rank fails at the very end.
  if (!speaks_ || finished_ == summary.last_step) return;
  finished_ = summary.last_step;
  write({"end",
         {{"step", raw(summary.last_step)},
          {"stopped", summary.stopped},
          {"durable", summary.durable},
          {"digest", fmt::format("{:016x}", summary.digest)}}});
  parts_.console.finish(summary, lost_);
}

}  // namespace elaswave::app
