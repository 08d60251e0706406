#include "model/spec/config.h"

#include <array>

namespace elaswave::spec {
namespace {

// GPT-2 sizes: Radford et al. 2019, table 2. `tiny` and `small` are ours: byte vocabulary, for
// tests and laptops.
constexpr std::array<Preset, 6> kPresets = {{
    {"tiny", {.layers = 8, .heads = 4, .hidden = 64, .context = 63, .vocab = 257, .dropout = 0}},
    {"small", {.layers = 6, .heads = 6, .hidden = 192, .context = 256, .vocab = 257, .dropout = 0}},
    {"gpt2-124m",
     {.layers = 12, .heads = 12, .hidden = 768, .context = 1024, .vocab = 50257, .dropout = 0}},
    {"gpt2-355m",
     {.layers = 24, .heads = 16, .hidden = 1024, .context = 1024, .vocab = 50257, .dropout = 0}},
    {"gpt2-774m",
     {.layers = 36, .heads = 20, .hidden = 1280, .context = 1024, .vocab = 50257, .dropout = 0}},
    {"gpt2-1.5b",
     {.layers = 48, .heads = 25, .hidden = 1600, .context = 1024, .vocab = 50257, .dropout = 0}},
}};

tl::unexpected<Error> bad_key(std::string_view key, std::string why, std::string fix) {
  return fail({.code = Code::usage,
               .what = fmt::format("the model's {} makes no sense", key),
               .where = fmt::format("model.{}", key),
               .why = std::move(why),
               .fix = std::move(fix)});
}

}  // namespace

std::span<const Preset> presets() {
  return kPresets;
}

Result<ModelConfig> find_preset(std::string_view name) {
  std::string known;
  for (const Preset& preset : kPresets) {
    if (preset.name == name) return preset.config;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", preset.name);
  }
  return fail(
      {.code = Code::usage,
       .what = fmt::format("unknown model preset '{}'", name),
       .where = "model.preset",
       .why = fmt::format("the presets are {}", known),
       .fix =
           "choose one of them; single sizes can be changed with model.layers, model.hidden, ..."});
}

Result<void> validate(const ModelConfig& config) {
  struct Field {
    std::string_view key;
    std::int64_t value, most;
  };
  const Field fields[] = {{"layers", config.layers, 10'000},
                          {"heads", config.heads, 10'000},
                          {"hidden", config.hidden, 1'000'000},
                          {"context", config.context, 10'000'000},
                          {"vocab", config.vocab, 2'000'000'000}};
  for (const Field& field : fields)
    if (field.value < 1 || field.value > field.most)
      return bad_key(field.key,
                     fmt::format("it is {}; the range is 1 to {}", field.value, field.most),
                     "give a value in that range");
  if (config.hidden % config.heads != 0) {
    const std::int64_t below = config.hidden / config.heads * config.heads;
    return bad_key(
        "hidden",
        fmt::format("hidden {} is not a multiple of heads {}", config.hidden, config.heads),
        fmt::format("use hidden {}{}, or a number of heads that divides {}",
                    below > 0 ? fmt::format("{} or ", below) : "", below + config.heads,
                    config.hidden));
  }
  if (!(config.dropout >= 0 && config.dropout < 1))
    return bad_key("dropout", fmt::format("it is {}; the range is 0 to below 1", config.dropout),
                   "give a value in that range");
  return {};
}

}  // namespace elaswave::spec
