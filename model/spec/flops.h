// Floating-point operations of training, for reports (MFU). Pure.
#pragma once

#include <cstdint>

#include "model/spec/config.h"

namespace elaswave::spec {

/// Forward plus backward of one token: 6 * N_matmul + 6 * L * C * T, where N_matmul counts the
/// weights of matrix products (the tied head once, no embeddings lookup) and causal attention is
/// counted at half its square (PaLM appendix B, arXiv 2204.02311, with the causal factor that llm.c
/// uses).
double training_flops_per_token(const ModelConfig& config);

}  // namespace elaswave::spec
