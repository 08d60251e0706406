#include "model/layers/head.h"

namespace elaswave::layers {
namespace {

void final_norm(const Context& context, const spec::Inventory& inventory,
                const Parameters& parameters, HeadStash& stash) {
  context.ops.layernorm_forward(context.stream,
                                {.x_NC = stash.x_NC.view(),
                                 .gamma_C = parameters.vector(inventory.ln_f_weight()),
                                 .beta_C = parameters.vector(inventory.ln_f_bias()),
                                 .y_NC = stash.ln_NC.view(),
                                 .mean_N = stash.mean_N,
                                 .rstd_N = stash.rstd_N});
}

}  // namespace

HeadStash::HeadStash(const Context& context)
    : x_NC(context.tokens(), context.config.hidden, context.storage),
      ln_NC(context.tokens(), context.config.hidden, context.storage),
      dln_NC(context.tokens(), context.config.hidden, context.storage),
      mean_N(static_cast<std::size_t>(context.tokens())),
      rstd_N(static_cast<std::size_t>(context.tokens())),
      loss_N(static_cast<std::size_t>(context.tokens())) {}

std::int64_t HeadStash::memory_bytes() const {
  return x_NC.memory_bytes() + ln_NC.memory_bytes() + dln_NC.memory_bytes() +
         static_cast<std::int64_t>(3 * loss_N.size() * sizeof(float));
}

void head_forward(const Context& context, const spec::Inventory& inventory,
                  const Parameters& parameters, const MicroBatch& batch, HeadStash& stash) {
  final_norm(context, inventory, parameters, stash);
  context.ops.head_loss(context.stream, {.x_NC = stash.ln_NC.view(),
                                         .w_VC = parameters.matrix(inventory.wte()),
                                         .targets_N = batch.targets_N,
                                         .loss_N = stash.loss_N});
}

void head_forward_backward(const Context& context, const spec::Inventory& inventory,
                           const Parameters& parameters, Gradients& gradients,
                           const MicroBatch& batch, HeadStash& stash) {
  final_norm(context, inventory, parameters, stash);
  context.ops.head_loss(context.stream, {.x_NC = stash.ln_NC.view(),
                                         .w_VC = parameters.matrix(inventory.wte()),
                                         .targets_N = batch.targets_N,
                                         .loss_N = stash.loss_N,
                                         .scale = 1.0f / static_cast<float>(context.tokens()),
                                         .dx_NC = stash.dln_NC.view(),
                                         .dw_VC = gradients.sink(inventory.wte())});
}

void head_backward(const Context& context, const spec::Inventory& inventory,
                   const Parameters& parameters, Gradients& gradients, HeadStash& stash,
                   device::Mat dx_NC) {
  context.ops.layernorm_backward(context.stream,
                                 {.dy_NC = stash.dln_NC.view(),
                                  .x_NC = stash.x_NC.view(),
                                  .gamma_C = parameters.vector(inventory.ln_f_weight()),
                                  .mean_N = stash.mean_N,
                                  .rstd_N = stash.rstd_N,
                                  .dx_NC = dx_NC,
                                  .dgamma_C = gradients.sink(inventory.ln_f_weight()),
                                  .dbeta_C = gradients.sink(inventory.ln_f_bias())});
}

}  // namespace elaswave::layers
