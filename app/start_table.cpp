#include "app/start_table.h"

#include <fmt/format.h>

#include "app/launch_rules.h"
#include "app/layout.h"
#include "app/memory.h"
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
  const int threads = setup.device->machine().host_stream.pool().threads();
  const double params = static_cast<double>(setup.trainer->inventory().total_elems());
  Console::Rows rows = {
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
      {"layout", fmt::format("{}; {} compute thread{} a rank", layout_text(spec, setup.plan),
                             threads, threads == 1 ? "" : "s")},
      {"work",
       fmt::format("{} flop a step", count_text(spec::training_flops_per_token(model) *
                                                static_cast<double>(spec.tokens_per_step())))},
      {"numerics",
       fmt::format("{}, stored in {}, class {}, fingerprint {:016x}", settings.config.numerics.mode,
                   name(spec.storage), setup.identity.numeric_class, setup.identity.fingerprint)},
      {"checkpoints", checkpoint_row(spec, restored)},
      {"steps", fmt::format("{}, seed {}", spec.steps, spec.seed)},
      {"launcher", launcher_note()},
      {"start", timeline},
  };
  if (settings.config.device.kind == "cuda" && model.dropout > 0)
    rows.emplace_back("attention", "with dropout, by kernels slower than cuDNN's, which has none");
  const auto add_memory = [&](std::string_view of, spec::Side side) {
    rows.emplace_back(fmt::format("{} (a rank)", of),
                      fmt::format("{}: {}", bytes_text(setup.memory.total(side)),
                                  memory_text(setup.memory, side)));
  };
  if (spec.device_memory == spec::DeviceMemory::own) {
    add_memory("GPU memory", spec::Side::device);
    add_memory("host memory", spec::Side::host);
  } else {
    add_memory("memory", spec::Side::all);
  }
  return rows;
}

std::string first_step_text(const LocalSetup& setup, std::int32_t world_rank, double bubble) {
  const layout::Plan& plan = setup.plan.plan;
  const spec::MemoryTable planned = memory_at(setup.spec, plan, world_rank);
  return fmt::format(
      "first step: bubble {:.0f} % ({:.0f} % predicted); memory of rank {}: {} allocated "
      "({} planned with what kernels take while they run), {} resident",
      100 * bubble, 100 * predicted_bubble(setup.spec, plan), world_rank,
      bytes_text(setup.trainer->memory().total()), bytes_text(planned.total()),
      bytes_text(static_cast<double>(peak_resident_bytes())));
}

}  // namespace elaswave::app
