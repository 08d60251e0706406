#include "model/spec/flops.h"

namespace elaswave::spec {

double training_flops_per_token(const ModelConfig& config) {
  const auto L = static_cast<double>(config.layers), C = static_cast<double>(config.hidden);
  const auto T = static_cast<double>(config.context), V = static_cast<double>(config.vocab);
  const double matmul_weights = 12 * L * C * C + V * C;
  return 6 * matmul_weights + 6 * L * C * T;
}

LayerFlops layer_flops(const ModelConfig& config, std::int64_t layer) {
  const std::int64_t C = config.hidden, T = config.context, V = config.vocab;
  if (layer == 0) return {};
  if (layer == config.layers + 1) return {.forward = 6 * V * C};
  // The four products hold 12 C^2 weights; causal attention is two products of C x T / 2.
  const std::int64_t products = 24 * C * C, attention = 2 * C * T;
  return {.forward = products + attention,
          .input_gradient = products + 2 * attention,
          .weight_gradient = products,
          .recompute = products + attention,
          // A norm reads and writes C, GELU 4 C, f32: 4 x (2 x 2 C + 2 x 4 C) bytes.
          .selective = 48 * C * kOperationsPerByte};
}

}  // namespace elaswave::spec
