// The shape of a GPT-2 style model (Radford et al. 2019: learned positions, pre-norm, tied head,
// biases everywhere).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/base/error.h"
#include "io/base/types.h"

namespace elaswave::spec {

struct ModelConfig {
  std::int64_t layers = 12;     // L, transformer blocks
  std::int64_t heads = 12;      // H
  std::int64_t hidden = 768;    // C, a multiple of H
  std::int64_t context = 1024;  // T, tokens of a sample
  std::int64_t vocab = 50257;   // V
  float dropout =
      0;  // rate, at the three places GPT-2 has it: embedding, attention, residual branches
  bool operator==(const ModelConfig&) const = default;

  std::int64_t head_dim() const { return hidden / heads; }
};

struct Preset {
  std::string_view name;
  ModelConfig config;
};

/// gpt2-124m, gpt2-355m, gpt2-774m, gpt2-1.5b and small ones for tests and laptops.
std::span<const Preset> presets();

/// The preset of that name, or an error that lists them.
Result<ModelConfig> find_preset(std::string_view name);

/// Names the first field that makes no sense and values that would.
Result<void> validate(const ModelConfig& config);

}  // namespace elaswave::spec
