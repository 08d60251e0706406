#include "app/console.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace elaswave::app {
namespace {

constexpr double kMeanWeight = 0.1;  // of the newest step in the exponential mean
constexpr int kBarWidth = 30;

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole % 3600 / 60);
}

std::int64_t peak_resident_bytes() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return usage.ru_maxrss * std::int64_t{1024};
}

Console::Console(ConsoleMode mode, std::int64_t every, const RunSpec& spec)
    : mode_(mode), every_(every), spec_(spec) {}

void Console::table(const Rows& rows) {
  std::size_t width = 0;
  for (const auto& [key, value] : rows) width = std::max(width, key.size());
  std::string text;
  for (const auto& [key, value] : rows) text += fmt::format("  {:<{}}  {}\n", key, width, value);
  print(text);
}

std::string Console::remaining(std::int64_t step) const {
  return duration_text(mean_seconds_ * static_cast<double>(spec_.steps - step));
}

std::string Console::line(const StepReport& report) const {
  const optim::CommitRecord& record = report.record;
  const std::int64_t step = raw(record.version.step);
  const double seconds = static_cast<double>(report.duration) / static_cast<double>(kSecond);
  // A step that was rolled forward after a failure has no duration.
  const std::string speed =
      report.duration > 0
          ? fmt::format("{:.0f} ms | {} tok/s", seconds * 1e3,
                        count_text(static_cast<double>(spec_.tokens_per_step()) / seconds))
          : std::string("rolled forward");
  std::string text = fmt::format(
      "step {}/{} {:.1f}% | loss {:.4f} | gnorm {:.3f} | lr {:.2e} | {} | MFU n/a | mem {} | eta "
      "{}",
      step, spec_.steps, 100.0 * static_cast<double>(step) / static_cast<double>(spec_.steps),
      record.loss, record.grad_norm, record.lr, speed,
      bytes_text(static_cast<double>(peak_resident_bytes())), remaining(step));
  if (record.skip) text += " | skipped: not finite";
  if (report.val_loss) text += fmt::format(" | val {:.4f}", *report.val_loss);
  return text;
}

std::string Console::bar(const StepReport& report) const {
  const std::int64_t step = raw(report.record.version.step);
  const auto filled = static_cast<std::size_t>(kBarWidth * step / spec_.steps);
  return fmt::format("[{}{}] {}/{} loss {:.4f} eta {}", std::string(filled, '#'),
                     std::string(static_cast<std::size_t>(kBarWidth) - filled, '.'), step,
                     spec_.steps, report.record.loss, remaining(step));
}

void Console::note(const std::string& text) {
  std::printf("%s%s\n", mode_ == ConsoleMode::bar ? "\r\033[K" : "", text.c_str());
  std::fflush(stdout);
}

void Console::step(const StepReport& report) {
  count(report);
  show(report);
}

void Console::count(const StepReport& report) {
  ++steps_;
  if (report.duration == 0) return;  // rolled forward: nobody measured it
  const double seconds = static_cast<double>(report.duration) / static_cast<double>(kSecond);
  mean_seconds_ =
      mean_seconds_ == 0 ? seconds : mean_seconds_ + kMeanWeight * (seconds - mean_seconds_);
}

void Console::show(const StepReport& report) {
  const std::int64_t step = raw(report.record.version.step);
  const bool speaks = step % every_ == 0 || step == 1 || step == spec_.steps || report.val_loss ||
                      report.record.skip;
  std::string text;
  if (mode_ == ConsoleMode::bar)
    text += "\r\033[K";  // back to the start of the bar's line and clear it
  if (speaks) text += line(report) + "\n";
  if (mode_ == ConsoleMode::bar && step < spec_.steps) text += bar(report);
  if (!text.empty()) print(text);
}

void Console::finish(const RunSummary& summary, const std::vector<std::int32_t>& lost) {
  std::string text = mode_ == ConsoleMode::bar ? "\r\033[K" : "";
  std::int64_t bytes = 0;
  for (std::size_t rank = 0; rank < summary.work.size(); ++rank) {
    if (std::find(lost.begin(), lost.end(), static_cast<std::int32_t>(rank)) != lost.end()) {
      text += fmt::format("rank {}: lost on the way\n", rank);
      continue;
    }
    const RankWork& work = summary.work[rank];
    text += fmt::format("rank {}: {} micro-batches computed, {} optimizer bytes owned\n", rank,
                        work.micro_batches, work.optimizer_bytes);
    bytes += work.optimizer_bytes;
  }
  // Not the sum of the lines above: a micro-batch passes through one rank of every stage and slice.
  text += fmt::format("all ranks: {} micro-batches computed, {} optimizer bytes owned\n",
                      steps_ * spec_.micro_batches, bytes);
  const CheckpointCounts& checkpoints = summary.checkpoints;
  if (checkpoints.bytes > 0)
    text +=
        fmt::format("checkpoints: {} durable, {} skipped, {} failed; training waited {:.1f} ms\n",
                    checkpoints.durable, checkpoints.skipped, checkpoints.failed,
                    static_cast<double>(checkpoints.blocked) / static_cast<double>(kMillisecond));
  if (!summary.durable) text += "the last checkpoint that was wanted is NOT on disk\n";
  text +=
      fmt::format("{} step={} loss={:.6f} digest={:016x}\n", summary.stopped ? "stopped" : "done",
                  raw(summary.last_step), summary.loss, summary.digest);
  print(text);
}

}  // namespace elaswave::app
