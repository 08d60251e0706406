// `elaswave plan`: a layout before it runs, or all of them ranked. No MPI, no data files, no
// device.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "app/commands.h"
#include "app/layout.h"
#include "app/memory.h"
#include "app/options.h"
#include "app/plan_profile.h"
#include "app/plan_report.h"
#include "app/plan_request.h"
#include "app/train_keys.h"
#include "io/base/file.h"
#include "io/base/log.h"
#include "parallel/layout/plan_text.h"

namespace elaswave::app {
namespace {

struct Words {
  std::string config, memory, gpu_memory, profile, svg;
  std::int64_t ranks = 0, top = 10;
  double flops_per_second = 0, bandwidth = 0;
  bool flops_given = false, bandwidth_given = false;
  bool sweep = false, text = false;
  std::vector<std::string> keys;  // for parse_train()
};

Result<Parse> parse(Arguments arguments, Words& words) {
  const std::vector<std::string> own = take_train_keys(arguments, words.keys);
  CLI::App app(
      "Shows what a run will be before it starts: layout, memory of each rank, time, bytes, "
      "schedule. Takes all keys of train (--parallel.tp=2). Exit code 4 when it does not fit.",
      "elaswave plan");
  app.add_option("CONFIG", words.config, "configuration file");
  app.add_option("--ranks", words.ranks, "how many ranks will run")->required();
  app.add_option("--memory", words.memory, "of a rank, like 80GiB; default: device.memory_mib");
  app.add_option("--gpu_memory", words.gpu_memory,
                 "of a rank with device.kind=cuda; default: device.gpu_memory_mib");
  app.add_option("--profile", words.profile, "file of measured costs, for times");
  auto* flops = app.add_option("--flops_per_second", words.flops_per_second,
                               "of a rank, instead of a profile");
  auto* bandwidth = app.add_option("--bandwidth", words.bandwidth,
                                   "bytes a second of a rank, each way; default: no time");
  app.add_option("--svg", words.svg, "write the schedule as a picture to this file");
  app.add_flag("--text", words.text, "print the whole plan as text instead");
  app.add_flag("--sweep", words.sweep, "rank all layouts of so many ranks by predicted time");
  app.add_option("--top", words.top, "layouts that a sweep lists")->capture_default_str();
  EW_ASSIGN(const Parse parsed, parse_arguments(app, own, "elaswave plan"));
  words.flops_given = flops->count() > 0;
  words.bandwidth_given = bandwidth->count() > 0;
  if (!words.config.empty())
    words.keys.insert(words.keys.begin(), fmt::format("--config={}", words.config));
  return parsed;
}

Result<void> check(const Words& words) {
  const auto range = [](std::string_view name, double value, double least,
                        double most) -> Result<void> {
    if (value >= least && value <= most) return {};
    return command_line_error(fmt::format("--{} is out of range", name),
                              fmt::format("it is {}; the range is {} to {}", value, least, most),
                              "give a value in that range");
  };
  EW_TRY(range("ranks", static_cast<double>(words.ranks), 1, 1'000'000));
  EW_TRY(range("top", static_cast<double>(words.top), 1, 1'000'000));
  if (words.flops_given) EW_TRY(range("flops_per_second", words.flops_per_second, 1e6, 1e30));
  if (words.bandwidth_given) EW_TRY(range("bandwidth", words.bandwidth, 1, 1e30));
  if (!words.profile.empty() && (words.flops_given || words.bandwidth_given))
    return command_line_error("--profile comes with its own speeds",
                              "--flops_per_second and --bandwidth stand in for a profile",
                              "leave one or the others out");
  if (words.bandwidth_given && !words.flops_given)
    return command_line_error("--bandwidth alone says nothing",
                              "times also need the speed of computing",
                              "give --flops_per_second, or --profile");
  if (words.sweep && (words.text || !words.svg.empty()))
    return command_line_error("--sweep compares many layouts", "--text and --svg show a single one",
                              "leave one of them out");
  return {};
}

/// As asked for, else as the keys have it.
Result<MemoryLimits> limits_of(const Words& words, const Config& config) {
  MemoryLimits limits{.host = std::ldexp(config.device.memory_mib, 20),
                      .gpu = std::ldexp(config.device.gpu_memory_mib, 20)};
  if (!words.memory.empty()) {
    EW_ASSIGN(limits.host, parse_bytes("--memory", words.memory));
  }
  if (!words.gpu_memory.empty()) {
    EW_ASSIGN(limits.gpu, parse_bytes("--gpu_memory", words.gpu_memory));
  }
  return limits;
}

/// ", the limit is 4.00 GiB"
std::string limits_text(const MemoryLimits& limits) {
  std::string text;
  if (limits.gpu > 0) text += fmt::format(", the limit is {} of a GPU", bytes_text(limits.gpu));
  if (limits.host > 0)
    text += fmt::format(", the limit is {}{}", bytes_text(limits.host),
                        limits.gpu > 0 ? " of a host" : "");
  return text;
}

/// A plan holds a few words for each block of 16,384 elements.
Result<void> check_model(const RunSpec& spec) {
  constexpr std::int64_t kMostElems = std::int64_t{1} << 40;
  const std::int64_t elems = spec::Inventory(spec.model, spec.storage).total_elems();
  if (elems <= kMostElems) return {};
  return fail({.code = Code::usage,
               .what = "the model is too large to plan",
               .where = "model.layers, model.hidden, model.vocab",
               .why = fmt::format("it has {} parameters; the limit is {}",
                                  count_text(static_cast<double>(elems)),
                                  count_text(static_cast<double>(kMostElems))),
               .fix = "use a smaller one"});
}

Result<plan::CostProfile> profile_of(const Words& words, const RunSpec& spec) {
  if (!words.profile.empty()) return read_profile(words.profile);
  // Any rate will do for ratios.
  constexpr double kNominalFlops = 1e12;
  return plan::profile_of_rate(spec.model, spec.micro_batch,
                               words.flops_given ? words.flops_per_second : kNominalFlops,
                               words.bandwidth);
}

Result<void> write_file(const std::string& path, std::string_view text) {
  EW_ASSIGN(ReplacementFile file, ReplacementFile::create(path));
  EW_TRY(file.file().write_all(std::as_bytes(std::span(text))));
  return file.publish();
}

Result<int> run_sweep(const Words& words, const RunSpec& spec, const plan::CostProfile& profile,
                      const MemoryLimits& limits, Times times) {
  const plan::SweepRequest request = sweep_request(spec, words.ranks, profile, limits);
  EW_ASSIGN(const plan::Sweep sweep, plan::sweep(request));
  std::fputs(sweep_report(request, sweep, words.top, times).c_str(), stdout);
  if (!sweep.fitting.empty()) return 0;
  if (sweep.too_large.empty())
    return command_line_error("no layout could be tried",
                              "each was left out because of the limits above",
                              "use fewer micro-batches, or another number of ranks");
  return fail({.code = Code::does_not_fit,
               .what = sweep.left_out.any() ? "none of the layouts that were tried fits into memory"
                                            : "no layout fits into memory",
               .where = fmt::format("{} ranks", words.ranks),
               .why = fmt::format("the smallest of {} needs {}{}", sweep.too_large.size(),
                                  bytes_text(sweep.too_large.front().memory), limits_text(limits)),
               .fix = "use more ranks, a smaller train.micro_batch, or a smaller model"});
}

Result<int> run_plan(const Words& words, const RunSpec& spec, const plan::CostProfile& profile,
                     const MemoryLimits& limits, Times times) {
  const plan::HealthyRequest request =
      plan_request(spec, static_cast<std::int32_t>(words.ranks), Generation{0});
  const spec::Inventory inventory(spec.model, spec.storage, request.tensor);
  const layout::BlockTable blocks = inventory.blocks();
  const spec::MemoryModel model = memory_model(spec, inventory, blocks, request.recompute);
  EW_ASSIGN(const plan::Evaluation evaluation, plan::evaluate(model, request, profile));
  const PlanSubject subject{
      .spec = spec, .request = request, .evaluation = evaluation, .times = times, .limits = limits};
  std::fputs((words.text ? layout::to_text(evaluation.made.plan) : plan_report(subject)).c_str(),
             stdout);
  if (!words.svg.empty()) EW_TRY(write_file(words.svg, plan_picture(subject)));
  EW_TRY(check_fits(subject));
  return 0;
}

}  // namespace

Result<int> plan_command(Arguments arguments) {
  Words words;
  EW_ASSIGN(const Parse parsed, parse(arguments, words));
  if (parsed == Parse::helped) return 0;
  configure_log(LogLevel::warn, "plan");
  EW_TRY(check(words));
  // Nothing is read but the configuration: as for printing it, there need be no data.
  words.keys.emplace_back("--print-config");
  EW_ASSIGN(const TrainCommand command, parse_train(words.keys, elaswave_environment()));
  const Config& config = command.settings.config;
  EW_ASSIGN(const RunSpec spec, resolve(config));
  EW_ASSIGN(const MemoryLimits limits, limits_of(words, config));
  EW_TRY(check_model(spec));
  EW_ASSIGN(const plan::CostProfile profile, profile_of(words, spec));
  const Times times = words.flops_given || !words.profile.empty() ? Times::known : Times::unknown;
  if (words.sweep) return run_sweep(words, spec, profile, limits, times);
  return run_plan(words, spec, profile, limits, times);
}

}  // namespace elaswave::app
