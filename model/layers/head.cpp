#include "model/layers/head.h"

#include <algorithm>

namespace elaswave::layers {
namespace {

/// The final norm of all rows.
Result<device::ConstMat> final_norm(const LayerCall& call, device::ConstMat x_NC,
                                    HeadStash& stash) {
  const device::Mat all_NC = call.scratch.norm_NC.view(), own_NC = own_rows(call.context, all_NC);
  call.context.ops.layernorm_forward(
      call.context.stream, {.x_NC = x_NC,
                            .gamma_C = call.parameters.vector(call.inventory.ln_f_weight()),
                            .beta_C = call.parameters.vector(call.inventory.ln_f_bias()),
                            .y_NC = own_NC,
                            .mean_N = stash.mean_N,
                            .rstd_N = stash.rstd_N});
  return gather_rows(call.context, own_NC, all_NC, "rows of the head");
}

/// The gradient is of the mean over the tokens of a micro-batch.
float loss_scale(const Context& context) {
  return 1.0f / static_cast<float>(context.tokens());
}

/// Losses of all rows on a slice of the vocabulary, chunk by chunk: what each slice's logits come
/// to is gathered and combined in slice order, the same on all of them. With `dw_VC` also the
/// gradients: this slice's term of dx, and of dW.
Result<void> sliced_loss(const LayerCall& call, device::ConstMat ln_NC, kernels::GradSink* dw_VC) {
  const Context& context = call.context;
  SlicedHeadScratch& scratch = call.scratch.sliced_head;
  const std::int32_t part = call.inventory.part_of(call.inventory.wte(), context.slice());
  const std::int64_t vocab_begin = call.inventory.part(part).map.row_begin, N = context.tokens();
  const device::ConstMat w_VC = call.parameters.matrix(call.inventory.wte());
  for (std::int64_t first = 0; first < N; first += context.loss_chunk_tokens) {
    const std::int64_t tokens = std::min(context.loss_chunk_tokens, N - first);
    const auto offset = static_cast<std::size_t>(first), count = static_cast<std::size_t>(tokens);
    const auto targets_N = call.batch.targets_N.subspan(offset, count);
    const std::span stats_N = scratch.stats_N.span().first(count);
    const std::span stats_SN =
        scratch.stats_SN.span().first(count * static_cast<std::size_t>(context.slices()));
    const std::span total_N = scratch.total_N.span().first(count);
    const device::ConstMat x_NC = ln_NC.rows_from(first, tokens);
    const device::Mat logits_NV =
        scratch.logits_NV.view().rows_from(0, tokens).cols_from(0, w_VC.rows);

    context.ops.head_logits(context.stream, {.x_NC = x_NC,
                                             .w_VC = w_VC,
                                             .targets_N = targets_N,
                                             .vocab_begin = vocab_begin,
                                             .logits_NV = logits_NV,
                                             .stats_N = stats_N});
    EW_TRY(context.slice_group->gather(std::as_bytes(stats_N), std::as_writable_bytes(stats_SN),
                                       "statistics of the head"));
    context.ops.head_combine(context.stream,
                             {.stats_SN = stats_SN,
                              .total_N = total_N,
                              .loss_N = call.scratch.loss_N.span().subspan(offset, count)});
    if (dw_VC == nullptr) continue;
    context.ops.head_gradient(
        context.stream,
        {.logits_NV = logits_NV,
         .x_NC = x_NC,
         .w_VC = w_VC,
         .targets_N = targets_N,
         .vocab_begin = vocab_begin,
         .total_N = total_N,
         .scale = loss_scale(context),
         .dx_NC = term_of_sum(call, call.scratch.branch_NC.view()).rows_from(first, tokens),
         .dw_VC = *dw_VC});
    dw_VC->overwrite = false;
  }
  return {};
}

}  // namespace

HeadStash::HeadStash(const Context& context, HeadInput input)
    : dln_NC(context.device(), context.rows().count(), context.config.hidden, context.storage),
      mean_N(context.device(), context.rows().count()),
      rstd_N(context.device(), context.rows().count()) {
  if (input == HeadInput::own)
    x_NC = Activation(context.device(), context.rows().count(), context.config.hidden,
                      context.storage);
}

std::int64_t HeadStash::memory_bytes() const {
  return x_NC.memory_bytes() + dln_NC.memory_bytes() + 2 * mean_N.size_bytes();
}

Result<void> head_forward(const LayerCall& call, device::ConstMat x_NC, HeadStash& stash) {
  EW_ASSIGN(const device::ConstMat ln_NC, final_norm(call, x_NC, stash));
  if (call.context.slices() > 1) return sliced_loss(call, ln_NC, nullptr);
  call.context.ops.head_loss(call.context.stream,
                             {.x_NC = ln_NC,
                              .w_VC = call.parameters.matrix(call.inventory.wte()),
                              .targets_N = call.batch.targets_N,
                              .loss_N = call.scratch.loss_N,
                              .chunk_tokens = call.context.loss_chunk_tokens});
  return {};
}

Result<void> head_forward_backward(const LayerCall& call, device::ConstMat x_NC, HeadStash& stash) {
  EW_ASSIGN(const device::ConstMat ln_NC, final_norm(call, x_NC, stash));
  kernels::GradSink dw_VC = call.gradients.sink(call.inventory.wte());
  if (call.context.slices() > 1) {
    EW_TRY(sliced_loss(call, ln_NC, &dw_VC));
    return call.context.slice_group->scatter_sum(term_of_sum(call, call.scratch.branch_NC.view()),
                                                 stash.dln_NC.view(), "gradient of the head");
  }
  call.context.ops.head_loss(call.context.stream,
                             {.x_NC = ln_NC,
                              .w_VC = call.parameters.matrix(call.inventory.wte()),
                              .targets_N = call.batch.targets_N,
                              .loss_N = call.scratch.loss_N,
                              .scale = loss_scale(call.context),
                              .dx_NC = stash.dln_NC.view(),
                              .dw_VC = dw_VC,
                              .chunk_tokens = call.context.loss_chunk_tokens});
  return {};
}

void head_backward(const LayerCall& call, device::ConstMat x_NC, HeadStash& stash,
                   device::Mat dx_NC) {
  call.context.ops.layernorm_backward(
      call.context.stream, {.dy_NC = stash.dln_NC.view(),
                            .x_NC = x_NC,
                            .gamma_C = call.parameters.vector(call.inventory.ln_f_weight()),
                            .mean_N = stash.mean_N,
                            .rstd_N = stash.rstd_N,
                            .dx_NC = dx_NC,
                            .dgamma_C = call.gradients.sink(call.inventory.ln_f_weight()),
                            .dbeta_C = call.gradients.sink(call.inventory.ln_f_bias())});
}

}  // namespace elaswave::layers
