#include "app/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>

namespace elaswave::app {
namespace {

constexpr double kTolerance = 0.1;

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
             "parallel.tp, "
             "or take another parallel.schedule or parallel.pp";
    case head:
    case scratch:
    case logits:
      return "lower train.micro_batch or raise parallel.tp";
    default:
      return "raise parallel.pp or parallel.tp, or use more ranks on more hosts";
  }
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

std::string memory_text(const spec::MemoryTable& use) {
  std::string text;
  for (std::size_t index = 0; index < spec::kMemoryTerms; ++index) {
    const auto term = static_cast<spec::MemoryTerm>(index);
    if (use[term] == 0) continue;
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
    if (measured[term] == 0 ||
        std::abs(measured[term] - planned[term]) <= kTolerance * measured[term])
      continue;
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

Result<void> check_memory(const spec::MemoryTable& use, double host, std::int64_t ranks_on_host) {
  const double share = host / static_cast<double>(ranks_on_host);
  if (host == 0 || use.total() <= share) return {};
  return fail({.code = Code::does_not_fit,
               .what = "the run does not fit into memory",
               .where = fmt::format("one of {} ranks on this host", ranks_on_host),
               .why = fmt::format("a rank needs {} ({}), its share of this host is {}",
                                  bytes_text(use.total()), memory_text(use), bytes_text(share)),
               .fix = fmt::format(
                   "mostly {}: {}; `elaswave plan --ranks=N --memory={:.0f} --sweep` with the same "
                   "keys lists the layouts that fit; else use fewer ranks on this host",
                   spec::name(use.largest()), remedy(use.largest()), std::floor(share))});
}

}  // namespace elaswave::app
