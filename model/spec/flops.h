// Floating-point operations of training, for reports (MFU) and for costs to plan with. Pure.
#pragma once

#include <cstdint>

#include "model/spec/config.h"

namespace elaswave::spec {

/// Forward plus backward of one token: 6 * N_matmul + 6 * L * C * T, where N_matmul counts the
/// weights of matrix products (the tied head once, no embeddings lookup) and causal attention is
/// counted at half its square (PaLM appendix B, arXiv 2204.02311, with the causal factor that llm.c
/// uses).
double training_flops_per_token(const ModelConfig& config);

/// Of one layer and token, by the action that does them: F, I, W, and R under full recompute.
/// Integers, so that every rank computes the same. Over all layers, F + I + W is
/// training_flops_per_token().
struct LayerFlops {
  std::int64_t forward = 0, input_gradient = 0, weight_gradient = 0, recompute = 0;
  /// What selective recompute adds to W: two norms and GELU, as many operations as run while their
  /// bytes move (kOperationsPerByte).
  std::int64_t selective = 0;
};
/// Of a machine: what it computes in products in the time that it takes to move one byte in its
/// memory. CPUs do 10 to 20, GPUs 50 to 200.
inline constexpr std::int64_t kOperationsPerByte = 20;

/// Layer 0 is the embedding (a lookup: none), L + 1 the head, whose gradients are computed with its
/// forward; in a block the backward of attention belongs to I.
LayerFlops layer_flops(const ModelConfig& config, std::int64_t layer);

}  // namespace elaswave::spec
