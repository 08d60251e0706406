// Token and position embedding: the first layer.
#pragma once

#include "model/layers/call.h"

namespace elaswave::layers {

// On a slice both are COLLECTIVE over the slices; x and dx are its own rows.

/// x = dropout(wte[id] + wpe[t]).
Result<void> embedding_forward(const LayerCall& call, device::Mat x_NC);

Result<void> embedding_backward(const LayerCall& call, device::ConstMat dx_NC);

}  // namespace elaswave::layers
