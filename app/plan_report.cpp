#include "app/plan_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/memory.h"
#include "parallel/pipeline/gantt.h"

namespace elaswave::app {
namespace {

using layout::Plan;

constexpr std::int64_t kMostRows = 16;     // of the schedule and of the chart
constexpr std::int64_t kMostStages = 8;    // columns of the memory table
constexpr std::int64_t kMostActions = 20;  // of a row
constexpr std::int64_t kChartWidth = 100;
// A chart of more is slow to draw and shows nothing.
constexpr std::int64_t kMostChartActions = 200'000;

/// "-", "12.5 MiB", "3.25 TiB".
std::string size_text(double bytes) {
  constexpr double kTebi = 1024.0 * 1024 * 1024 * 1024;
  if (bytes == 0) return "-";
  return bytes < kTebi ? bytes_text(bytes) : fmt::format("{:.2f} TiB", bytes / kTebi);
}

std::string layer_name(const Plan& plan, std::int32_t layer) {
  if (layer == 0) return "embedding";
  if (layer + 1 == plan.layers()) return "head";
  return fmt::format("block {}", layer);
}

/// "embedding, blocks 1-3"
std::string layers_text(const Plan& plan, layout::LayerRange range) {
  std::string text;
  const auto add = [&text](const std::string& part) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", part);
  };
  const std::int32_t first = std::max(range.begin, 1),
                     last = std::min(range.end, plan.layers() - 1);
  if (range.begin == 0) add(layer_name(plan, 0));
  if (last - first == 1) add(layer_name(plan, first));
  if (last - first > 1) add(fmt::format("blocks {}-{}", first, last - 1));
  if (range.end == plan.layers() && range.end > 1) add(layer_name(plan, range.end - 1));
  return text;
}

/// "8", "7 or 8": micro-batches of a replica.
std::string shares_text(const Plan& plan, std::int32_t stage) {
  std::vector<std::int64_t> shares(static_cast<std::size_t>(plan.replicas(stage)), 0);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    ++shares[static_cast<std::size_t>(plan.replica_for(micro_batch, stage))];
  const auto [least, most] = std::minmax_element(shares.begin(), shares.end());
  return *least == *most ? fmt::format("{}", *most) : fmt::format("{} or {}", *least, *most);
}

std::string layout_text(const Plan& plan) {
  std::string text = "layout\n  stage  replicas  micro-batches  chunks\n";
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage) {
    std::string chunks;
    for (const std::int32_t chunk : layout::chunks_of_stage(plan, stage))
      chunks += fmt::format("{}{}: {}", chunks.empty() ? "" : "; ", chunk,
                            layers_text(plan, layout::layers_of_chunk(plan, chunk)));
    text += fmt::format("  {:>5}  {:>8}  {:>13}  {}\n", stage, plan.replicas(stage),
                        shares_text(plan, stage), chunks);
  }
  return text;
}

/// All stages, or the first, the one that needs most and the last.
std::vector<std::size_t> shown_stages(const plan::Evaluation& evaluation) {
  const std::size_t stages = evaluation.memory.size();
  std::vector<std::size_t> shown;
  if (stages <= static_cast<std::size_t>(kMostStages)) {
    for (std::size_t stage = 0; stage < stages; ++stage) shown.push_back(stage);
    return shown;
  }
  const auto worst = static_cast<std::size_t>(evaluation.worst().place.stage);
  shown = {0, worst, stages - 1};
  std::sort(shown.begin(), shown.end());
  shown.erase(std::unique(shown.begin(), shown.end()), shown.end());
  return shown;
}

/// Rows of the memory table: the terms of a side, and their sum.
std::string side_text(const PlanSubject& subject, const std::vector<std::size_t>& stages,
                      spec::Side side, std::string_view sum) {
  const plan::Evaluation& evaluation = subject.evaluation;
  std::string text;
  for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
    const auto term = static_cast<spec::MemoryTerm>(index);
    const bool own = subject.spec.device_memory == spec::DeviceMemory::own;
    if (own ? spec::side_of(term) != side : !spec::on_host_alone(term)) continue;
    text += fmt::format("\n  {:<14}", spec::name(term));
    for (const std::size_t stage : stages)
      text += fmt::format("{:>12}", size_text(evaluation.memory[stage].table[term]));
  }
  text += fmt::format("\n  {:<14}", sum);
  for (const std::size_t stage : stages)
    text += fmt::format("{:>12}", size_text(evaluation.memory[stage].table.total(side)));
  return text;
}

std::string used_text(double used, double limit, std::string_view of) {
  if (limit == 0) return {};
  return fmt::format("\n  {} of {}{} are used", size_text(used), size_text(limit), of);
}

std::string memory_text(const PlanSubject& subject) {
  const plan::Evaluation& evaluation = subject.evaluation;
  const std::vector<std::size_t> stages = shown_stages(evaluation);
  std::string text =
      fmt::format("memory of the rank of a stage that needs most{}\n  {:<14}",
                  stages.size() < evaluation.memory.size()
                      ? fmt::format(" ({} of {} stages)", stages.size(), evaluation.memory.size())
                      : "",
                  "");
  for (const std::size_t stage : stages)
    text += fmt::format("{:>12}", fmt::format("stage {}", stage));
  text += fmt::format("\n  {:<14}", "rank");
  for (const std::size_t stage : stages)
    text += fmt::format("{:>12}", evaluation.made.plan.rank_of(evaluation.memory[stage].place));
  const spec::MemoryTable& worst = evaluation.worst().table;
  if (subject.spec.device_memory == spec::DeviceMemory::shared)
    return text + side_text(subject, stages, spec::Side::all, "total") +
           used_text(worst.total(), subject.limits.host, "") + '\n';
  return text + side_text(subject, stages, spec::Side::device, "on the GPU") +
         side_text(subject, stages, spec::Side::host, "on the host") +
         used_text(worst.total(spec::Side::device), subject.limits.gpu, " of the GPU") +
         used_text(worst.total(spec::Side::host), subject.limits.host, " of the host") + '\n';
}

std::string milliseconds(std::int64_t time) {
  return fmt::format("{:.1f} ms", static_cast<double>(time) / 1e6);
}

std::string time_text(const PlanSubject& subject) {
  const plan::StepPrediction& step = subject.evaluation.step;
  std::string text = fmt::format("time\n  bubble {:.1f} %", 100 * step.bubble);
  if (subject.times == Times::unknown)
    return text + " of counted operations; --flops_per_second or --profile give times\n";
  const double seconds = static_cast<double>(step.step()) / 1e9;
  return text + fmt::format(
                    "\n  step {} = {} of schedule + {} of reduction + {} of gather not "
                    "hidden, {} tokens/s\n",
                    milliseconds(step.step()), milliseconds(step.makespan),
                    milliseconds(step.exposed_reduce), milliseconds(step.exposed_gather),
                    count_text(static_cast<double>(subject.spec.tokens_per_step()) / seconds));
}

std::string traffic_text(const plan::StepTraffic& traffic) {
  return fmt::format(
      "bytes of a step\n  pipeline {}, tensor {}, reduce {}, gather {}; together {}\n"
      "  a rank of the busiest stage: reduce {}, gather {}\n",
      size_text(traffic.pipeline), size_text(traffic.tensor), size_text(traffic.reduce),
      size_text(traffic.gather), size_text(traffic.total()), size_text(traffic.reduce_of_rank),
      size_text(traffic.gather_of_rank));
}

std::string row_text(const layout::Row& row) {
  const auto shown =
      static_cast<std::size_t>(std::min(kMostActions, static_cast<std::int64_t>(row.size())));
  std::string text =
      layout::to_text(layout::Row(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(shown)));
  if (shown < row.size()) text += fmt::format(" ... {} more", row.size() - shown);
  return text;
}

std::string schedule_text(const Plan& plan) {
  std::string text = "schedule (stage.replica: chunk, action, micro-batch)\n";
  std::int64_t row = 0;
  const auto rows = static_cast<std::int64_t>(plan.schedule.size());
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica, ++row) {
      // Whole pipelines matter more than siblings: of many rows the first replica of each stage.
      if (rows > kMostRows && replica > 0) continue;
      if (rows > kMostRows && stage >= kMostRows) continue;
      text += fmt::format("  {}.{}: {}\n", stage, replica,
                          row_text(plan.schedule[static_cast<std::size_t>(row)]));
    }
  const auto shown =
      rows <= kMostRows ? rows : std::min(kMostRows, static_cast<std::int64_t>(plan.stages.size()));
  if (shown < rows) text += fmt::format("  ({} of {} rows)\n", shown, rows);
  return text;
}

std::int64_t actions_of(const Plan& plan) {
  std::int64_t actions = 0;
  for (const layout::Row& row : plan.schedule) actions += static_cast<std::int64_t>(row.size());
  return actions;
}

std::string chart_text(const PlanSubject& subject) {
  const Plan& plan = subject.evaluation.made.plan;
  const Plan shown = pictured(plan);
  if (static_cast<std::int64_t>(shown.schedule.size()) > kMostRows ||
      actions_of(shown) > kMostChartActions)
    return {};
  const std::string chart =
      pipeline::gantt_text(shown, pipeline::predict(shown, subject.evaluation.costs), kChartWidth);
  // Its own first line repeats the times above.
  return fmt::format("chart{}\n{}",
                     shown.schedule.size() < plan.schedule.size() ? " of the first pipeline" : "",
                     chart.substr(chart.find('\n') + 1));
}

std::string heading(const PlanSubject& subject) {
  const plan::HealthyRequest& request = subject.request;
  const RunSpec& spec = subject.spec;
  const Plan& plan = subject.evaluation.made.plan;
  const std::int64_t replicas = request.world_size / request.tensor;
  const std::string shape =
      plan::in_columns(plan)
          ? fmt::format("{} data x {} pipeline", replicas / request.pipeline, request.pipeline)
          : fmt::format("{} replicas over {} stages", replicas, request.pipeline);
  return fmt::format(
      "{} ranks: {} x {} tensor, chunks {}, schedule {}, recompute {}\n"
      "{} parameters in {} blocks of width {}; a step is {} micro-batches of {} x {} tokens\n",
      request.world_size, shape, request.tensor, request.chunks, subject.evaluation.made.schedule,
      spec::name(request.recompute),
      count_text(static_cast<double>(spec::Inventory(spec.model, spec.storage).total_elems())),
      spec.model.layers, spec.model.hidden, spec.micro_batches, spec.micro_batch,
      spec.model.context);
}

std::string entry_text(const plan::SweepEntry& entry) {
  return fmt::format("{:>4} {:>4} {:>7}  {:<11} {:<10}{}", entry.tensor, entry.pipeline,
                     entry.chunks, entry.schedule, spec::name(entry.recompute),
                     entry.uneven ? " uneven" : "       ");
}

/// " fit into 80.00 GiB"
std::string limits_text(const plan::SweepRequest& request) {
  std::string text;
  if (request.memory_limit > 0) text = fmt::format(" fit into {}", size_text(request.memory_limit));
  if (request.gpu_limit > 0)
    text += fmt::format("{} {} of a GPU", text.empty() ? " fit into" : " and",
                        size_text(request.gpu_limit));
  return text;
}

constexpr std::string_view kEntryHeading = "  tp   pp  chunks  schedule    recompute        ";

std::string left_out_text(const plan::LeftOut& left_out) {
  std::string text;
  if (left_out.uneven > 0)
    text += fmt::format(
        "not tried: {} (tp, pp, chunks) with unequal stages, of more than {} replicas or {} "
        "forwards a step\n",
        left_out.uneven, plan::kMostUnevenReplicas, plan::kMostUnevenForwards);
  if (left_out.chunks > 0)
    text += fmt::format("not tried: {} (tp, pp, chunks) with more than {} chunks a stage\n",
                        left_out.chunks, plan::kMostSweptChunks);
  return text;
}

}  // namespace

Plan pictured(const Plan& plan) {
  return plan::in_columns(plan) ? plan::column_of(plan, 0) : plan;
}

std::string plan_report(const PlanSubject& subject) {
  const plan::Evaluation& evaluation = subject.evaluation;
  std::string text = heading(subject);
  for (const std::string& part :
       {layout_text(evaluation.made.plan), memory_text(subject), time_text(subject),
        traffic_text(evaluation.traffic), schedule_text(evaluation.made.plan), chart_text(subject)})
    if (!part.empty()) text += '\n' + part;
  return text;
}

std::string plan_picture(const PlanSubject& subject) {
  const Plan shown = pictured(subject.evaluation.made.plan);
  const plan::HealthyRequest& request = subject.request;
  const std::string title = fmt::format(
      "{} ranks: pp {} x tp {}, {}, recompute {}{}{}", request.world_size, request.pipeline,
      request.tensor, subject.evaluation.made.schedule, spec::name(request.recompute),
      shown.schedule.size() < subject.evaluation.made.plan.schedule.size()
          ? fmt::format(" (pipeline 1 of {})", subject.evaluation.made.plan.replicas(0))
          : "",
      subject.times == Times::unknown ? ", counted operations at 1 TFLOP/s" : "");
  return pipeline::gantt_svg(shown, pipeline::predict(shown, subject.evaluation.costs), title);
}

Result<void> check_fits(const PlanSubject& subject) {
  const plan::StageMemory& worst = subject.evaluation.worst();
  const auto check = [&](spec::Side side, double limit, std::string_view of) -> Result<void> {
    const double need = worst.table.total(side);
    if (limit == 0 || need <= limit) return {};
    const spec::MemoryTerm term = worst.table.largest(side);
    return fail(
        {.code = Code::does_not_fit,
         .what = fmt::format("the run does not fit into {}memory", of),
         .where = fmt::format("rank {}, stage {}",
                              subject.evaluation.made.plan.rank_of(worst.place), worst.place.stage),
         .why = fmt::format("it needs {} ({} of it {}), the limit is {}", size_text(need),
                            size_text(worst.table[term]), spec::name(term), size_text(limit)),
         .fix = "use more ranks, train.recompute, a smaller train.micro_batch, or another "
                "layout: --sweep lists those that fit"});
  };
  if (subject.spec.device_memory == spec::DeviceMemory::shared)
    return check(spec::Side::all, subject.limits.host, "");
  EW_TRY(check(spec::Side::device, subject.limits.gpu, "the GPU's "));
  return check(spec::Side::host, subject.limits.host, "the host's ");
}

std::string sweep_report(const plan::SweepRequest& request, const plan::Sweep& sweep,
                         std::int64_t top, Times times) {
  const auto count = [top](const std::vector<plan::SweepEntry>& entries) {
    return std::min(static_cast<std::size_t>(top), entries.size());
  };
  std::string text =
      fmt::format("{} layouts of {} ranks{}, fastest first\n{}  {:>12} {:>8} {:>12}\n",
                  sweep.fitting.size(), request.world_size, limits_text(request), kEntryHeading,
                  times == Times::known ? "step" : "relative", "bubble", "memory");
  for (std::size_t index = 0; index < count(sweep.fitting); ++index) {
    const plan::SweepEntry& entry = sweep.fitting[index];
    const double relative =
        static_cast<double>(entry.step.step()) /
        static_cast<double>(std::max<std::int64_t>(1, sweep.fitting.front().step.step()));
    text += fmt::format(
        "{}  {:>12} {:>6.1f} % {:>12}\n", entry_text(entry),
        times == Times::known ? milliseconds(entry.step.step()) : fmt::format("{:.3f}", relative),
        100 * entry.step.bubble, size_text(entry.memory));
  }
  if (count(sweep.fitting) < sweep.fitting.size())
    text += fmt::format("  ({} more)\n", sweep.fitting.size() - count(sweep.fitting));
  if (times == Times::unknown)
    text +=
        "operations counted, messages free: --flops_per_second and --bandwidth, or --profile, "
        "weigh them\n";
  text += left_out_text(sweep.left_out);
  if (sweep.too_large.empty()) return text;
  text += fmt::format("\n{} layouts do not fit, smallest first\n{}\n", sweep.too_large.size(),
                      kEntryHeading);
  for (std::size_t index = 0; index < count(sweep.too_large); ++index) {
    const plan::SweepEntry& entry = sweep.too_large[index];
    text += fmt::format("{}  {} on stage {}, mostly {}\n", entry_text(entry),
                        size_text(entry.memory), entry.worst_stage, spec::name(entry.largest));
  }
  if (count(sweep.too_large) < sweep.too_large.size())
    text += fmt::format("  ({} more)\n", sweep.too_large.size() - count(sweep.too_large));
  return text;
}

}  // namespace elaswave::app
