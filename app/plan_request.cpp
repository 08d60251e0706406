#include "app/plan_request.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "app/commands.h"
#include "app/layout.h"

namespace elaswave::app {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array<Unit, 9> kUnits = {{{"B", 1},
                                         {"KB", 1e3},
                                         {"MB", 1e6},
                                         {"GB", 1e9},
                                         {"TB", 1e12},
                                         {"KiB", 1024.0},
                                         {"MiB", 1024.0 * 1024},
                                         {"GiB", 1024.0 * 1024 * 1024},
                                         {"TiB", 1024.0 * 1024 * 1024 * 1024}}};

}  // namespace

plan::SweepRequest sweep_request(const RunSpec& spec, std::int64_t world_size,
                                 const plan::CostProfile& profile, const MemoryLimits& limits) {
  return {.config = spec.model,
          .world_size = static_cast<std::int32_t>(world_size),
          .micro_batch = spec.micro_batch,
          .micro_batches = spec.micro_batches,
          .storage = spec.storage,
          .operands = spec.operands,
          .sums = sum_width(spec),
          .checkpoints = checkpoint_image(spec),
          .copies = spec.elastic.copies,
          .memory_limit = limits.host,
          .gpu_limit = limits.gpu,
          .profile = profile,
          .loss_chunk_tokens = spec.loss_chunk_tokens,
          .device = spec.device_memory};
}

Result<double> parse_bytes(std::string_view option, std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view rest = text.substr(static_cast<std::size_t>(end - text.data()));
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  double unit = rest.empty() ? 1 : 0;
  std::string names;
  for (const Unit& known : kUnits) {
    if (known.name == rest) unit = known.bytes;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  const double bytes = number * unit;
  if (error == std::errc() && bytes > 0 && bytes < 1e30) return bytes;
  return command_line_error(fmt::format("{} does not understand '{}'", option, text),
                            fmt::format("it takes a number above 0 and one of {}", names),
                            fmt::format("write {}=80GiB", option));
}

}  // namespace elaswave::app
