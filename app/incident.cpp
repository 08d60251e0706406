#include "app/incident.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "app/memory.h"

namespace elaswave::app {
namespace {

constexpr std::size_t kPhases = static_cast<std::size_t>(recover::Phase::count);

double ms(Nanoseconds time) {
  return static_cast<double>(time) / static_cast<double>(kMillisecond);
}

std::int64_t us(Nanoseconds time) {
  return time / 1000;
}

std::string counted(std::int64_t count, std::string_view word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

std::string phases_text(const recover::RecoveryReport& report) {
  std::string text;
  for (std::size_t i = 0; i < kPhases; ++i)
    text += fmt::format("{}{} {:.1f}", i == 0 ? "" : ", ", name(static_cast<recover::Phase>(i)),
                        ms(report.phases[i]));
  return text;
}

std::string went_back_text(const recover::RecoveryReport& report) {
  std::string text = fmt::format("; {}, so all of it was loaded from the checkpoint of step {}",
                                 report.copies_differed ? "the state was not to be trusted"
                                                        : "parts of the model had no copy left",
                                 raw(report.step));
  if (report.undone <= report.step) return text;
  if (report.undone == next(report.step))
    return text + fmt::format(", and step {} is trained again", raw(report.undone));
  return text + fmt::format(", and steps {} to {} are trained again", raw(next(report.step)),
                            raw(report.undone));
}

std::string_view name(plan::Response response) {
  return response == plan::Response::keep ? "keep" : "relayer";
}

}  // namespace

std::string ranks_text(const std::vector<std::int32_t>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

std::string time_text(Nanoseconds time) {
  if (time < 10 * kMillisecond) return fmt::format("{:.1f} ms", ms(time));
  if (time < kSecond) return fmt::format("{:.0f} ms", ms(time));
  return fmt::format("{:.2f} s", ms(time) / 1e3);
}

std::string recovery_text(const recover::RecoveryReport& report) {
  const std::string cause = report.lost.empty()
                                ? "a copy of the state differs from its owner's"
                                : fmt::format("{} {} gone", ranks_text(report.lost),
                                              report.lost.size() == 1 ? "is" : "are");
  std::string text =
      fmt::format("{}: {} {} on with step {} ({} of {}{})", cause,
                  counted(static_cast<std::int64_t>(report.members.size()), "rank"),
                  report.members.size() == 1 ? "goes" : "go", raw(next(report.step)),
                  counted(report.replicas, "replica"), counted(report.stages, "stage"),
                  report.spares > 0 ? fmt::format(", {}", counted(report.spares, "spare")) : "");
  text += fmt::format("; {} from the first sign to the first new step (in ms: {})",
                      time_text(report.total), phases_text(report));
  text += report.from_checkpoint ? went_back_text(report) : "; no committed step is lost";
  if (report.attempts > 1) text += fmt::format(", it took {} attempts", report.attempts);
  if (report.response == plan::Response::relayer) text += "; layers have moved";
  if (report.moved_bytes > 0)
    text += fmt::format("; {} of state moved", bytes_text(static_cast<double>(report.moved_bytes)));
  if (report.refilled_bytes > 0)
    text += fmt::format("; copies are being refilled ({})",
                        bytes_text(static_cast<double>(report.refilled_bytes)));
  return text;
}

std::string redundancy_text(const recover::RecoveryReport& report) {
  return fmt::format("every block has its copies again, {} after the failure ({} were sent)",
                     time_text(report.exposure),
                     bytes_text(static_cast<double>(report.refilled_bytes)));
}

metrics::Event recovery_event(const recover::RecoveryReport& report) {
  metrics::Fields phases;
  for (std::size_t i = 0; i < kPhases; ++i)
    phases.emplace_back(std::string(name(static_cast<recover::Phase>(i))), us(report.phases[i]));
  return {"recovery",
          {{"generation", raw(report.generation)},
           {"step", raw(report.step)},
           {"lost", report.lost},
           {"members", report.members},
           {"response", name(report.response)},
           {"schedule", report.schedule},
           {"stages", report.stages},
           {"replicas", report.replicas},
           {"spares", report.spares},
           {"interrupted", report.interrupted},
           {"attempts", report.attempts},
           {"rolled_forward", report.rolled_forward},
           {"from_checkpoint", report.from_checkpoint},
           {"copies_differed", report.copies_differed},
           {"phases_us", std::move(phases)},
           {"total_us", us(report.total)},
           {"moved_bytes", report.moved_bytes},
           {"refilled_bytes", report.refilled_bytes},
           {"micro_batches_lost", report.micro_batches_lost}}};
}

metrics::Event redundancy_event(const recover::RecoveryReport& report) {
  return {"redundancy",
          {{"generation", raw(report.generation)},
           {"exposure_us", us(report.exposure)},
           {"refilled_bytes", report.refilled_bytes}}};
}

}  // namespace elaswave::app
