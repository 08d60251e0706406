// Final norm, tied head and loss: the last layer.
#pragma once

#include <vector>

#include "model/layers/activation.h"
#include "model/layers/context.h"
#include "model/layers/parameters.h"

namespace elaswave::layers {

struct HeadStash {
  explicit HeadStash(const Context& context);

  Activation x_NC, ln_NC, dln_NC;
  std::vector<float> mean_N, rstd_N, loss_N;  // loss in nats, one a token

  std::int64_t memory_bytes() const;
};

/// Token losses only.
void head_forward(const Context& context, const spec::Inventory& inventory,
                  const Parameters& parameters, const MicroBatch& batch, HeadStash& stash);

/// Token losses, and in the same pass over the logits the gradients of the head: they are not kept
/// for later. The gradient is of the mean loss over the tokens of this micro-batch.
void head_forward_backward(const Context& context, const spec::Inventory& inventory,
                           const Parameters& parameters, Gradients& gradients,
                           const MicroBatch& batch, HeadStash& stash);

/// The rest of backward, through the final norm into `dx_NC`.
void head_backward(const Context& context, const spec::Inventory& inventory,
                   const Parameters& parameters, Gradients& gradients, HeadStash& stash,
                   device::Mat dx_NC);

}  // namespace elaswave::layers
