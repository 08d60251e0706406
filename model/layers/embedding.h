// Token and position embedding: the first layer.
#pragma once

#include "model/layers/context.h"
#include "model/layers/parameters.h"

namespace elaswave::layers {

/// x = dropout(wte[id] + wpe[t]).
void embedding_forward(const Context& context, const spec::Inventory& inventory,
                       const Parameters& parameters, const MicroBatch& batch, device::Mat x_NC);

void embedding_backward(const Context& context, const spec::Inventory& inventory,
                        Gradients& gradients, const MicroBatch& batch, device::ConstMat dx_NC);

}  // namespace elaswave::layers
