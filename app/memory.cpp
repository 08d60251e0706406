#include "app/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "app/layout.h"

namespace elaswave::app {
namespace {

constexpr double kTolerance = 0.1;
constexpr double kLeastDifference = 1 << 20;  // bytes

/// The number behind `key` in a file of "key number unit" lines, or 0.
double number_after(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::strtod(line.c_str() + key.size(), nullptr);
  return 0;
}

/// The keys that make a term smaller.
std::string_view remedy(spec::MemoryTerm largest) {
  using enum spec::MemoryTerm;
  switch (largest) {
    case stashes:
    case weight_stashes:
    case boundaries:
      return "set train.recompute to selective or full, lower train.micro_batch, raise "
             "parallel.tp, or take another parallel.schedule or parallel.pp";
    case head:
    case scratch:
    case logits:
    case widened:
    case workspaces:
      return "lower train.micro_batch or raise parallel.tp";
    default:
      return "raise parallel.pp or parallel.tp, or use more ranks on more hosts";
  }
}

/// "mostly stashes: set ..."
std::string advice(const spec::MemoryTable& use, spec::Side side) {
  const spec::MemoryTerm largest = use.largest(side);
  return fmt::format("mostly {}: {}", spec::name(largest), remedy(largest));
}

std::int64_t ranks_on_gpu(const plan::RankLimits& limits, std::int32_t world_rank) {
  const auto rank = static_cast<std::size_t>(world_rank);
  if (rank >= limits.size() || limits[rank].gpu_bytes == 0) return 1;
  return std::ranges::count(limits, limits[rank].gpu, &plan::RankLimit::gpu);
}

/// What a rank was given: by hand, or as a share.
std::string limit_text(const plan::RankLimit& limit, spec::Side side) {
  if (side == spec::Side::device)
    return limit.own_gpu_bytes > 0 ? "device.gpu_memory_mib is" : "its share of its GPU is";
  return limit.own_bytes > 0 ? "device.memory_mib is" : "its share of its host is";
}

}  // namespace

std::string count_text(double count) {
  if (count < 1e4) return fmt::format("{:.0f}", count);
  if (count < 1e6) return fmt::format("{:.1f}k", count / 1e3);
  if (count < 1e9) return fmt::format("{:.1f}M", count / 1e6);
  return fmt::format("{:.2f}G", count / 1e9);
}

std::string bytes_text(double bytes) {
  if (bytes < 1 << 20) return fmt::format("{:.1f} KiB", bytes / (1 << 10));
  if (bytes < 1 << 30) return fmt::format("{:.1f} MiB", bytes / (1 << 20));
  return fmt::format("{:.2f} GiB", bytes / (1 << 30));
}

std::string memory_text(const spec::MemoryTable& use, spec::Side side) {
  std::string text;
  for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
    const auto term = static_cast<spec::MemoryTerm>(index);
    if (use[term] == 0 || (side != spec::Side::all && side != spec::side_of(term))) continue;
    text +=
        fmt::format("{}{} {}", text.empty() ? "" : ", ", spec::name(term), bytes_text(use[term]));
  }
  return text;
}

std::vector<std::string> memory_differences(const spec::MemoryTable& planned,
                                            const spec::MemoryTable& measured) {
  std::vector<std::string> differences;
  for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
    const auto term = static_cast<spec::MemoryTerm>(index);
    const double allowed = std::max(kTolerance * measured[term], kLeastDifference);
    if (measured[term] == 0 || std::abs(measured[term] - planned[term]) <= allowed) continue;
    differences.push_back(fmt::format("{} {} planned, {} measured", spec::name(term),
                                      bytes_text(planned[term]), bytes_text(measured[term])));
  }
  return differences;
}

double host_memory() {
  const double installed = 1024 * number_after("/proc/meminfo", "MemTotal:");
  const double limit = number_after("/sys/fs/cgroup/memory.max", "");  // "max" reads as 0
  return limit > 0 ? std::min(installed, limit) : installed;
}

Result<void> check_memory(const RunSpec& spec, const layout::Plan& plan) {
  const spec::Inventory inventory(spec.model, spec.storage, plan.tensor_degree);
  const auto shortage = find_shortage(spec, inventory, inventory.blocks(), plan);
  if (!shortage) return {};
  const spec::MemoryTable& use = shortage->use;
  const spec::Side side = shortage->side;
  const plan::RankLimit& limit =
      spec.elastic.limits[static_cast<std::size_t>(shortage->world_rank)];
  return fail(
      {.code = Code::does_not_fit,
       .what = fmt::format("the run does not fit into {}",
                           side == spec::Side::device ? "the GPU's memory" : "memory"),
       .where = fmt::format("rank {} of {}", shortage->world_rank, layout::members(plan).size()),
       .why = fmt::format("it needs {} ({}), {} {}", bytes_text(shortage->need()),
                          memory_text(use, side), limit_text(limit, side),
                          bytes_text(shortage->budget)),
       .fix =
           fmt::format("{}; `elaswave plan --ranks=N --{}={:.0f} --sweep` with the same keys "
                       "lists the layouts that fit; else use fewer ranks on a {}",
                       advice(use, side), side == spec::Side::device ? "gpu_memory" : "memory",
                       std::floor(shortage->budget), side == spec::Side::device ? "GPU" : "host")});
}

Error memory_refused(const RunSpec& spec, const layout::Plan& plan, std::int32_t world_rank,
                     std::string what) {
  const spec::MemoryTable use = memory_at(spec, plan, world_rank);
  std::string why = fmt::format("the rank needs {}", bytes_text(use.total()));
  if (spec.device_memory == spec::DeviceMemory::shared) {
    why += fmt::format(": {}", memory_text(use));
  } else {
    why =
        fmt::format("the rank needs {} of its GPU ({}) and {} of its host ({})",
                    bytes_text(use.total(spec::Side::device)), memory_text(use, spec::Side::device),
                    bytes_text(use.total(spec::Side::host)), memory_text(use, spec::Side::host));
    const std::int64_t there = ranks_on_gpu(spec.elastic.limits, world_rank);
    if (there > 1) why += fmt::format("; {} ranks share the GPU", there);
  }
  return {.code = Code::does_not_fit,
          .what = std::move(what),
          .where = fmt::format("rank {}", world_rank),
          .why = std::move(why),
          .fix = fmt::format("{}; or end what else uses the {}", advice(use, tightest_side(spec)),
                             spec.device_memory == spec::DeviceMemory::own ? "GPU" : "host")};
}

}  // namespace elaswave::app
