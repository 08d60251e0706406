// Final norm, tied head and loss: the last layer.
#pragma once

#include "model/layers/call.h"

namespace elaswave::layers {

/// Where the head's input comes from: memory of its own, which the last block writes, or the
/// boundary matrix of a chunk without blocks.
enum class HeadInput { own, boundary };

/// What the head keeps from forward to backward of one micro-batch, recomputed or not: its
/// gradients come out of the forward pass.
struct HeadStash {
  HeadStash(const Context& context, HeadInput input);

  Activation x_NC;  // own rows; empty where the input is the boundary's
  Activation dln_NC;
  device::Array<float> mean_N, rstd_N;

  std::int64_t memory_bytes() const;
};

// Token losses of all rows are left in the scratch (loss_N), what the product with wte read in
// norm_NC. On a slice both forwards are COLLECTIVE over the slices, each with its own rows of the
// vocabulary.

/// Token losses only.
Result<void> head_forward(const LayerCall& call, device::ConstMat x_NC, HeadStash& stash);

/// Token losses, and in the same pass over the logits the gradients of the head: they are not kept
/// for later. The gradient is of the mean loss over the tokens of this micro-batch.
Result<void> head_forward_backward(const LayerCall& call, device::ConstMat x_NC, HeadStash& stash);

/// The rest of backward, through the final norm into `dx_NC`.
void head_backward(const LayerCall& call, device::ConstMat x_NC, HeadStash& stash,
                   device::Mat dx_NC);

}  // namespace elaswave::layers
