#include "model/layers/embedding.h"

namespace elaswave::layers {

void embedding_forward(const Context& context, const spec::Inventory& inventory,
                       const Parameters& parameters, const MicroBatch& batch, device::Mat x_NC) {
  const LayerDropout dropout(batch, RandomUse::dropout_embedding, 0);
  context.ops.embedding_forward(context.stream, {.ids_N = batch.ids_N,
                                                 .wte_VC = parameters.matrix(inventory.wte()),
                                                 .wpe_TC = parameters.matrix(inventory.wpe()),
                                                 .T = context.config.context,
                                                 .dropout = dropout.spec(),
                                                 .x_NC = x_NC});
}

void embedding_backward(const Context& context, const spec::Inventory& inventory,
                        Gradients& gradients, const MicroBatch& batch, device::ConstMat dx_NC) {
  const LayerDropout dropout(batch, RandomUse::dropout_embedding, 0);
  context.ops.embedding_backward(context.stream, {.ids_N = batch.ids_N,
                                                  .dx_NC = dx_NC,
                                                  .T = context.config.context,
                                                  .dropout = dropout.spec(),
                                                  .dwte_VC = gradients.sink(inventory.wte()),
                                                  .dwpe_TC = gradients.sink(inventory.wpe())});
}

}  // namespace elaswave::layers
