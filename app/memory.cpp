#include "app/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "model/spec/inventory.h"

namespace elaswave::app {
namespace {

constexpr double kFloat = sizeof(float);

/// The number behind `key` in a file of "key number unit" lines, or 0.
double number_after(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::strtod(line.c_str() + key.size(), nullptr);
  return 0;
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

std::string MemoryUse::text() const {
  return fmt::format(
      "weights {}, gradient sums {}, optimizer and log {}, activations {}, logits {}, checkpoint "
      "{}",
      bytes_text(working), bytes_text(sums), bytes_text(optimizer), bytes_text(activations),
      bytes_text(logits), bytes_text(checkpoint));
}

MemoryUse estimate_memory(const RunSpec& spec, std::int64_t world_size) {
  const auto L = static_cast<double>(spec.model.layers), H = static_cast<double>(spec.model.heads);
  const auto C = static_cast<double>(spec.model.hidden), V = static_cast<double>(spec.model.vocab);
  const double T = static_cast<double>(spec.model.context);
  const double N = static_cast<double>(spec.micro_batch) * T;
  // GPT-2: 12 C^2 + 13 C a block, the embeddings, the final norm.
  const double elems = L * (12 * C * C + 13 * C) + (V + T) * C + 2 * C;
  MemoryUse use;
  use.working = kFloat * elems;
  use.sums = (spec.sum_mode == zero::SumMode::exact ? 2 : 1) * kFloat * elems;
  use.optimizer = 4 * kFloat * elems / static_cast<double>(world_size);
  // layers/block.h and head.h: 16 C and statistics a token and block, 3 C for the head, 7 C of
  // scratch.
  use.activations = kFloat * N * (L * (16 * C + 4 + H) + 10 * C + 3);
  use.logits = kFloat * std::min(N, static_cast<double>(kernels::kLossChunkTokens)) * V;
  // A copy of master weights and moments, for the writer beside training.
  if (!spec.checkpoint.directory.empty()) use.checkpoint = use.optimizer * 3 / 4;
  return use;
}

double host_memory() {
  const double installed = 1024 * number_after("/proc/meminfo", "MemTotal:");
  const double limit = number_after("/sys/fs/cgroup/memory.max", "");  // "max" reads as 0
  return limit > 0 ? std::min(installed, limit) : installed;
}

Result<void> check_memory(const MemoryUse& use, double host, std::int64_t ranks_on_host) {
  const double share = host / static_cast<double>(ranks_on_host);
  if (host == 0 || use.total() <= share) return {};
  return fail({.code = Code::does_not_fit,
               .what = "the run does not fit into memory",
               .where = fmt::format("one of {} ranks on this host", ranks_on_host),
               .why = fmt::format("a rank needs {} ({}), its share of this host is {}",
                                  bytes_text(use.total()), use.text(), bytes_text(share)),
               .fix = "use a smaller train.micro_batch or model.context, a smaller model, or fewer "
                      "ranks on this host"});
}

}  // namespace elaswave::app
