#include "model/layers/call.h"

#include <algorithm>

namespace elaswave::layers {

// The plan counts what is allocated here.
static_assert(spec::logits_stride(37) == kernels::logits_stride(37));
static_assert(spec::logits_stride(1024) == kernels::logits_stride(1024));

SlicedHeadScratch::SlicedHeadScratch(const Context& context) {
  const spec::SlicedHeadShape shape =
      spec::sliced_head(spec::StashShape(context.config, context.micro_batch, context.slices()),
                        context.loss_chunk_tokens);
  const std::int64_t tokens = shape.logits.rows;
  device::Device& on = context.device();
  logits_NV = Activation(on, tokens, shape.logits.cols, DType::f32);
  stats_N = device::Array<kernels::LogitStats>(on, tokens);
  total_N = device::Array<kernels::LogitStats>(on, tokens);
  stats_SN = device::Array<kernels::LogitStats>(on, tokens * context.slices());
}

std::int64_t SlicedHeadScratch::memory_bytes() const {
  return logits_NV.memory_bytes() + stats_N.size_bytes() + stats_SN.size_bytes() +
         total_N.size_bytes();
}

LayerScratch::LayerScratch(const Context& context, const LayerKinds& kinds) {
  device::Device& on = context.device();
  const std::int64_t N = context.tokens(), C = context.config.hidden, width = context.width();
  if (kinds.blocks || kinds.head || context.slices() > 1)
    branch_NC = Activation(on, N, C, context.storage);
  if (kinds.blocks || kinds.head) norm_NC = Activation(on, N, C, context.storage);
  if (kinds.blocks) wide_N4C = Activation::padded(on, N, 4 * width, context.storage);
  if (kinds.blocks && context.recompute == Recompute::selective)
    act_N4C = Activation::padded(on, N, 4 * width, context.storage);
  if (context.slices() > 1 && context.storage != DType::f32)
    term_NC = Activation(on, N, C, DType::f32);
  if (kinds.head) loss_N = device::Array<float>(on, N);
  if (kinds.head && context.slices() > 1) sliced_head = SlicedHeadScratch(context);
}

std::int64_t LayerScratch::memory_bytes() const {
  std::int64_t bytes = sliced_head.memory_bytes() + loss_N.size_bytes();
  for (const Activation* activation : {&branch_NC, &norm_NC, &wide_N4C, &act_N4C, &term_NC})
    bytes += activation->memory_bytes();
  return bytes;
}

Result<device::ConstMat> gather_rows(const Context& context, device::ConstMat own_NC,
                                     device::Mat all_NC, std::string_view operation) {
  if (context.slices() == 1) return own_NC;
  EW_TRY(context.slice_group->gather_rows(own_NC, all_NC, operation));
  return device::ConstMat(all_NC);
}

device::Mat term_of_sum(const LayerCall& call, device::Mat all_NC) {
  if (call.context.slices() == 1 || all_NC.dtype == DType::f32) return all_NC;
  return call.scratch.term_NC.view();
}

Result<device::Mat> sum_rows(const LayerCall& call, device::Mat all_NC,
                             std::string_view operation) {
  const device::Mat own_NC = own_rows(call.context, all_NC);
  if (call.context.slices() > 1)
    EW_TRY(call.context.slice_group->scatter_sum(term_of_sum(call, all_NC), own_NC, operation));
  return own_NC;
}

}  // namespace elaswave::layers
