// What an operation of ops.h must move and compute at least, from its arguments: each array is read
// or written once, whatever a kernel does. Sums of gradients: 8 bytes an element (exact) or 4
// (fast), once where they are overwritten, twice where they are added to.
//
// FLOPs count products, 2 a multiply and add; causal attention counts the half that the mask leaves
// (forward 2 products, backward 5; Dao et al., arXiv 2205.14135).
#pragma once

#include <span>
#include <string>

#include "model/kernels/ops.h"

namespace elaswave::bench {

struct Cost {
  double bytes = 0, flops = 0;
  std::string shape;  // for people, and to tell calls apart
};

Cost cost_of(const kernels::EmbeddingForward& args);
Cost cost_of(const kernels::EmbeddingBackward& args);
Cost cost_of(const kernels::EmbeddingLookup& args);
Cost cost_of(const kernels::EmbeddingLookupBackward& args);
Cost cost_of(const kernels::EmbeddingPositions& args);
Cost cost_of(const kernels::EmbeddingPositionsBackward& args);
Cost cost_of(const kernels::LayerNormForward& args);
Cost cost_of(const kernels::LayerNormBackward& args);
Cost cost_of(const kernels::LinearForward& args);
Cost cost_of(const kernels::LinearBackwardInput& args);
Cost cost_of(const kernels::LinearBackwardWeight& args);
Cost cost_of(const kernels::AttentionForward& args);
Cost cost_of(const kernels::AttentionBackward& args);
Cost cost_of(const kernels::AttentionCached& args);
Cost cost_of(const kernels::GeluForward& args);
Cost cost_of(const kernels::GeluBackward& args);
Cost cost_of(const kernels::ResidualForward& args);
Cost cost_of(const kernels::ResidualBackward& args);
Cost cost_of(const kernels::HeadLoss& args);
Cost cost_of(const kernels::HeadLogits& args);
Cost cost_of(const kernels::HeadCombine& args);
Cost cost_of(const kernels::HeadGradient& args);
Cost cost_of(std::span<const kernels::AdamW> blocks);
Cost cost_of(std::span<const kernels::MeanGradient> blocks);
Cost cost_of(std::span<const kernels::StoreWeights> blocks);
/// Of reading them once: sum_squares(), digest().
Cost cost_of(std::span<const std::span<const float>> ranges);

/// Does the operation add to sums of gradients?
template <typename Args>
constexpr bool has_sink() {
  return requires(Args args) {
    args.dw_CD;
  }
  || requires(Args args) {
    args.dw_VC;
  }
  || requires(Args args) {
    args.dwte_VC;
  }
  || requires(Args args) {
    args.dwpe_TC;
  }
  || requires(Args args) {
    args.dgamma_C;
  };
}

}  // namespace elaswave::bench
