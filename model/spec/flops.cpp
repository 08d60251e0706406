#include "model/spec/flops.h"

namespace elaswave::spec {

double training_flops_per_token(const ModelConfig& config) {
  const auto L = static_cast<double>(config.layers), C = static_cast<double>(config.hidden);
  const auto T = static_cast<double>(config.context), V = static_cast<double>(config.vocab);
  const double matmul_weights = 12 * L * C * C + V * C;
  return 6 * matmul_weights + 6 * L * C * T;
}

}  // namespace elaswave::spec
