#include "app/reporter.h"

#include <fmt/format.h>

#include "app/launch_rules.h"
#include "app/layout.h"
#include "app/memory.h"
#include "io/base/log.h"
#include "io/data/sampler.h"
#include "model/spec/flops.h"

namespace elaswave::app {
namespace {

std::string checkpoint_row(const RunSpec& spec, const std::optional<Restored>& restored) {
  const CheckpointSpec& checkpoint = spec.checkpoint;
  if (checkpoint.directory.empty()) return "none: neither log.dir nor checkpoint.dir is set";
  const std::string when =
      checkpoint.every > 0
          ? fmt::format("every {} steps", checkpoint.every)
          : std::string(checkpoint.last ? "after the last step" : "only when asked to stop");
  return fmt::format("{}, in {}; {}", when, checkpoint.directory,
                     restored ? fmt::format("going on after step {}", raw(restored->manifest.step))
                              : std::string("starting at step 0"));
}

}  // namespace

Console::Rows start_rows(const Settings& settings, const LocalSetup& setup,
                         const std::optional<Restored>& restored) {
  const RunSpec& spec = setup.spec;
  const spec::ModelConfig& model = spec.model;
  std::string timeline;
  for (const auto& [phase, ms] : setup.timeline)
    timeline += fmt::format("{}{} {:.0f} ms", timeline.empty() ? "" : ", ", phase, ms);
  const double params = static_cast<double>(setup.trainer->inventory().total_elems());
  return {
      {"model",
       fmt::format("{}: {} layers, {} heads, hidden {}, context {}, vocabulary {}, dropout {}",
                   settings.config.model.preset, model.layers, model.heads, model.hidden,
                   model.context, model.vocab, model.dropout)},
      {"parameters", count_text(params)},
      {"data", fmt::format("{} tokens, {} samples an epoch, fingerprint {:016x}",
                           count_text(static_cast<double>(setup.train->count())),
                           data::sample_count(setup.train->count(), model.context),
                           setup.train->fingerprint())},
      {"batch",
       fmt::format("{} samples = {} micro-batches of {}; {} tokens a step", spec.global_batch(),
                   spec.micro_batches, spec.micro_batch, spec.tokens_per_step())},
      {"layout",
       fmt::format("{}; {} compute thread{} a rank", layout_text(spec, setup.plan),
                   setup.stream->pool().threads(), setup.stream->pool().threads() == 1 ? "" : "s")},
      {"work",
       fmt::format("{} flop a step", count_text(spec::training_flops_per_token(model) *
                                                static_cast<double>(spec.tokens_per_step())))},
      {"numerics", fmt::format("{}, class {}, fingerprint {:016x}", settings.config.numerics.mode,
                               setup.identity.numeric_class, setup.identity.fingerprint)},
      {"memory (a rank)",
       fmt::format("{}: {}", bytes_text(setup.memory.total()), memory_text(setup.memory))},
      {"checkpoints", checkpoint_row(spec, restored)},
      {"steps", fmt::format("{}, seed {}", spec.steps, spec.seed)},
      {"launcher", launcher_note()},
      {"start", timeline},
  };
}

Reporter::Reporter(Console& console, std::optional<metrics::MetricsLog> log,
                   const LocalSetup& setup)
    : console_(console), log_(std::move(log)), setup_(setup) {}

Result<void> Reporter::on_step(const StepReport& report) {
  const optim::CommitRecord& record = report.record;
  if (log_) {
    const double seconds = static_cast<double>(report.duration) / static_cast<double>(kSecond);
    // A disk that fails costs metrics, not the run.
    const auto written =
        log_->write({.step = record.version.step,
                     .generation = record.version.generation,
                     .loss = record.loss,
                     .grad_norm = record.grad_norm,
                     .lr = record.lr,
                     .tokens = report.tokens,
                     .ms = seconds * 1e3,
                     .samples = report.samples,
                     .sample_hash = record.sample_hash,
                     .tokens_per_s = static_cast<double>(setup_.spec.tokens_per_step()) / seconds,
                     .update = record.skip ? metrics::MetricsLine::Update::skipped
                                           : metrics::MetricsLine::Update::applied,
                     .digest = report.digest,
                     .val_loss = report.val_loss});
    if (!written) {
      log_error("metrics end before step {}: {}", raw(record.version.step), written.error().text());
      log_.reset();
    }
  }
  console_.step(report);
  if (report.bubble) first_step_note(*report.bubble);
  return {};
}

void Reporter::first_step_note(double bubble) {
  const layout::Plan& plan = setup_.plan.plan;
  const spec::MemoryTable planned = memory_at(setup_.spec, plan, layout::place_of(plan, 0));
  console_.note(fmt::format(
      "first step: bubble {:.0f} % ({:.0f} % predicted); memory of rank 0: {} allocated "
      "({} planned with what kernels take while they run), {} resident",
      100 * bubble, 100 * predicted_bubble(setup_.spec, plan),
      bytes_text(setup_.trainer->memory().total()), bytes_text(planned.total()),
      bytes_text(static_cast<double>(peak_resident_bytes()))));
}

}  // namespace elaswave::app
