#include "model/layers/embedding.h"

namespace elaswave::layers {
namespace {

/// First token of this slice's rows of wte.
std::int64_t vocab_begin(const LayerCall& call) {
  const std::int32_t part = call.inventory.part_of(call.inventory.wte(), call.context.slice());
  return call.inventory.part(part).map.row_begin;
}

/// Each slice looks up the tokens it has, for all rows; the sum over slices is the row of the
/// token, and each slice goes on with its own rows of it.
Result<void> sliced_forward(const LayerCall& call, const kernels::Dropout& dropout,
                            device::Mat x_NC) {
  const Context& context = call.context;
  const device::Mat looked_up_NC = call.scratch.branch_NC.view();
  context.ops.embedding_lookup(context.stream,
                               {.ids_N = call.batch.ids_N,
                                .wte_VC = call.parameters.matrix(call.inventory.wte()),
                                .vocab_begin = vocab_begin(call),
                                .out_NC = term_of_sum(call, looked_up_NC)});
  EW_ASSIGN(const device::Mat own_NC, sum_rows(call, looked_up_NC, "sum of the embedding"));
  context.ops.embedding_positions(context.stream,
                                  {.x_NC = own_NC,
                                   .wpe_TC = call.parameters.matrix(call.inventory.wpe()),
                                   .T = context.config.context,
                                   .row_begin = context.rows().begin,
                                   .dropout = dropout,
                                   .out_NC = x_NC});
  return {};
}

/// Positions are summed over own rows, an addend of each slice; tokens over all rows, by the slice
/// that has them.
Result<void> sliced_backward(const LayerCall& call, const kernels::Dropout& dropout,
                             device::ConstMat dx_NC) {
  const Context& context = call.context;
  const device::Mat all_NC = call.scratch.branch_NC.view(), own_NC = own_rows(context, all_NC);
  context.ops.embedding_positions_backward(context.stream,
                                           {.dx_NC = dx_NC,
                                            .T = context.config.context,
                                            .row_begin = context.rows().begin,
                                            .dropout = dropout,
                                            .dwpe_TC = call.gradients.sink(call.inventory.wpe()),
                                            .masked_NC = own_NC});
  EW_TRY(gather_rows(context, own_NC, all_NC, "gradient of the embedding"));
  context.ops.embedding_lookup_backward(context.stream,
                                        {.ids_N = call.batch.ids_N,
                                         .dx_NC = all_NC,
                                         .vocab_begin = vocab_begin(call),
                                         .dwte_VC = call.gradients.sink(call.inventory.wte())});
  return {};
}

}  // namespace

Result<void> embedding_forward(const LayerCall& call, device::Mat x_NC) {
  const LayerDropout dropout(call.batch, RandomUse::dropout_embedding, 0);
  if (call.context.slices() > 1) return sliced_forward(call, dropout.spec(), x_NC);
  call.context.ops.embedding_forward(call.context.stream,
                                     {.ids_N = call.batch.ids_N,
                                      .wte_VC = call.parameters.matrix(call.inventory.wte()),
                                      .wpe_TC = call.parameters.matrix(call.inventory.wpe()),
                                      .T = call.context.config.context,
                                      .dropout = dropout.spec(),
                                      .x_NC = x_NC});
  return {};
}

Result<void> embedding_backward(const LayerCall& call, device::ConstMat dx_NC) {
  const LayerDropout dropout(call.batch, RandomUse::dropout_embedding, 0);
  if (call.context.slices() > 1) return sliced_backward(call, dropout.spec(), dx_NC);
  call.context.ops.embedding_backward(call.context.stream,
                                      {.ids_N = call.batch.ids_N,
                                       .dx_NC = dx_NC,
                                       .T = call.context.config.context,
                                       .dropout = dropout.spec(),
                                       .dwte_VC = call.gradients.sink(call.inventory.wte()),
                                       .dwpe_TC = call.gradients.sink(call.inventory.wpe())});
  return {};
}

}  // namespace elaswave::layers
