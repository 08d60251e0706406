#include "model/layers/block.h"

namespace elaswave::layers {
namespace {

using spec::BlockTensor;

/// The tensors of one block by name.
struct Tensors {
  const spec::Inventory& inventory;
  const Parameters& parameters;
  std::int64_t block;

  std::int32_t id(BlockTensor tensor) const { return inventory.block_tensor(block, tensor); }
  device::ConstMat matrix(BlockTensor tensor) const { return parameters.matrix(id(tensor)); }
  std::span<const float> vector(BlockTensor tensor) const { return parameters.vector(id(tensor)); }
};

// Layer numbers in random streams are inventory layers: the first block is 1.
LayerDropout dropout_of(const MicroBatch& batch, RandomUse use, std::int64_t block) {
  return LayerDropout(batch, use, block + 1);
}

}  // namespace

BlockStash::BlockStash(const Context& context) {
  const std::int64_t N = context.tokens(), C = context.config.hidden;
  for (Activation* narrow : {&x_NC, &ln1_NC, &attention_NC, &mid_NC, &ln2_NC})
    *narrow = Activation(N, C, context.storage);
  qkv_N3C = Activation::padded(N, 3 * C, context.storage);
  fc_N4C = Activation::padded(N, 4 * C, context.storage);
  act_N4C = Activation::padded(N, 4 * C, context.storage);
  for (std::vector<float>* statistic : {&mean1_N, &rstd1_N, &mean2_N, &rstd2_N})
    statistic->resize(static_cast<std::size_t>(N));
  lse_NH.resize(static_cast<std::size_t>(N * context.config.heads));
}

std::int64_t BlockStash::memory_bytes() const {
  std::int64_t bytes =
      static_cast<std::int64_t>((4 * mean1_N.size() + lse_NH.size()) * sizeof(float));
  for (const Activation* activation :
       {&x_NC, &ln1_NC, &qkv_N3C, &attention_NC, &mid_NC, &ln2_NC, &fc_N4C, &act_N4C})
    bytes += activation->memory_bytes();
  return bytes;
}

BlockScratch::BlockScratch(const Context& context)
    : branch_NC(context.tokens(), context.config.hidden, context.storage),
      dln_NC(context.tokens(), context.config.hidden, context.storage),
      wide_N4C(Activation::padded(context.tokens(), 4 * context.config.hidden, context.storage)) {}

void block_forward(const Context& context, const spec::Inventory& inventory,
                   const Parameters& parameters, const MicroBatch& batch, std::int64_t block,
                   BlockStash& stash, BlockScratch& scratch, device::Mat out_NC) {
  kernels::Ops& ops = context.ops;
  device::Stream& stream = context.stream;
  const Tensors w{inventory, parameters, block};
  const std::int64_t T = context.config.context, H = context.config.heads;

  ops.layernorm_forward(stream, {.x_NC = stash.x_NC.view(),
                                 .gamma_C = w.vector(BlockTensor::ln_1_weight),
                                 .beta_C = w.vector(BlockTensor::ln_1_bias),
                                 .y_NC = stash.ln1_NC.view(),
                                 .mean_N = stash.mean1_N,
                                 .rstd_N = stash.rstd1_N});
  ops.linear_forward(stream, {.x_NC = stash.ln1_NC.view(),
                              .w_CD = w.matrix(BlockTensor::c_attn_weight),
                              .b_D = w.vector(BlockTensor::c_attn_bias),
                              .y_ND = stash.qkv_N3C.view()});
  const LayerDropout attention_dropout = dropout_of(batch, RandomUse::dropout_attention, block);
  ops.attention_forward(stream, {.qkv_N3C = stash.qkv_N3C.view(),
                                 .T = T,
                                 .H = H,
                                 .dropout = attention_dropout.spec(),
                                 .out_NC = stash.attention_NC.view(),
                                 .lse_NH = stash.lse_NH});
  ops.linear_forward(stream, {.x_NC = stash.attention_NC.view(),
                              .w_CD = w.matrix(BlockTensor::attn_proj_weight),
                              .b_D = w.vector(BlockTensor::attn_proj_bias),
                              .y_ND = scratch.branch_NC.view()});
  const LayerDropout residual_dropout =
      dropout_of(batch, RandomUse::dropout_attention_residual, block);
  ops.residual_forward(stream, {.residual_NC = stash.x_NC.view(),
                                .branch_NC = scratch.branch_NC.view(),
                                .T = T,
                                .dropout = residual_dropout.spec(),
                                .out_NC = stash.mid_NC.view()});

  ops.layernorm_forward(stream, {.x_NC = stash.mid_NC.view(),
                                 .gamma_C = w.vector(BlockTensor::ln_2_weight),
                                 .beta_C = w.vector(BlockTensor::ln_2_bias),
                                 .y_NC = stash.ln2_NC.view(),
                                 .mean_N = stash.mean2_N,
                                 .rstd_N = stash.rstd2_N});
  ops.linear_forward(stream, {.x_NC = stash.ln2_NC.view(),
                              .w_CD = w.matrix(BlockTensor::c_fc_weight),
                              .b_D = w.vector(BlockTensor::c_fc_bias),
                              .y_ND = stash.fc_N4C.view()});
  ops.gelu_forward(stream, {.x = stash.fc_N4C.view(), .y = stash.act_N4C.view()});
  ops.linear_forward(stream, {.x_NC = stash.act_N4C.view(),
                              .w_CD = w.matrix(BlockTensor::mlp_proj_weight),
                              .b_D = w.vector(BlockTensor::mlp_proj_bias),
                              .y_ND = scratch.branch_NC.view()});
  const LayerDropout mlp_dropout = dropout_of(batch, RandomUse::dropout_mlp_residual, block);
  ops.residual_forward(stream, {.residual_NC = stash.mid_NC.view(),
                                .branch_NC = scratch.branch_NC.view(),
                                .T = T,
                                .dropout = mlp_dropout.spec(),
                                .out_NC = out_NC});
}

void block_backward(const Context& context, const spec::Inventory& inventory,
                    const Parameters& parameters, Gradients& gradients, const MicroBatch& batch,
                    std::int64_t block, BlockStash& stash, BlockScratch& scratch,
                    device::Mat dx_NC) {
  kernels::Ops& ops = context.ops;
  device::Stream& stream = context.stream;
  const Tensors w{inventory, parameters, block};
  const auto sink = [&](BlockTensor tensor) { return gradients.sink(w.id(tensor)); };
  const std::int64_t T = context.config.context, H = context.config.heads,
                     C = context.config.hidden;
  const device::Mat dbranch_NC = scratch.branch_NC.view(), dln_NC = scratch.dln_NC.view();
  const device::Mat dwide_N4C = scratch.wide_N4C.view();

  // Backward of out = mid + dropout(act W + b).
  const LayerDropout mlp_dropout = dropout_of(batch, RandomUse::dropout_mlp_residual, block);
  ops.residual_backward(
      stream, {.dout_NC = dx_NC, .T = T, .dropout = mlp_dropout.spec(), .dbranch_NC = dbranch_NC});
  ops.linear_backward_weight(stream, {.x_NC = stash.act_N4C.view(),
                                      .dy_ND = dbranch_NC,
                                      .dw_CD = sink(BlockTensor::mlp_proj_weight),
                                      .db_D = sink(BlockTensor::mlp_proj_bias)});
  ops.linear_backward_input(
      stream,
      {.dy_ND = dbranch_NC, .w_CD = w.matrix(BlockTensor::mlp_proj_weight), .dx_NC = dwide_N4C});
  ops.gelu_backward(stream, {.x = stash.fc_N4C.view(), .dy = dwide_N4C, .dx = dwide_N4C});
  ops.linear_backward_weight(stream, {.x_NC = stash.ln2_NC.view(),
                                      .dy_ND = dwide_N4C,
                                      .dw_CD = sink(BlockTensor::c_fc_weight),
                                      .db_D = sink(BlockTensor::c_fc_bias)});
  ops.linear_backward_input(
      stream, {.dy_ND = dwide_N4C, .w_CD = w.matrix(BlockTensor::c_fc_weight), .dx_NC = dln_NC});
  ops.layernorm_backward(stream, {.dy_NC = dln_NC,
                                  .x_NC = stash.mid_NC.view(),
                                  .gamma_C = w.vector(BlockTensor::ln_2_weight),
                                  .mean_N = stash.mean2_N,
                                  .rstd_N = stash.rstd2_N,
                                  .dresidual_NC = dx_NC,
                                  .dx_NC = dx_NC,
                                  .dgamma_C = sink(BlockTensor::ln_2_weight),
                                  .dbeta_C = sink(BlockTensor::ln_2_bias)});

  // Backward of mid = x + dropout(attention W + b).
  const LayerDropout residual_dropout =
      dropout_of(batch, RandomUse::dropout_attention_residual, block);
  ops.residual_backward(
      stream,
      {.dout_NC = dx_NC, .T = T, .dropout = residual_dropout.spec(), .dbranch_NC = dbranch_NC});
  ops.linear_backward_weight(stream, {.x_NC = stash.attention_NC.view(),
                                      .dy_ND = dbranch_NC,
                                      .dw_CD = sink(BlockTensor::attn_proj_weight),
                                      .db_D = sink(BlockTensor::attn_proj_bias)});
  ops.linear_backward_input(
      stream,
      {.dy_ND = dbranch_NC, .w_CD = w.matrix(BlockTensor::attn_proj_weight), .dx_NC = dln_NC});
  const LayerDropout attention_dropout = dropout_of(batch, RandomUse::dropout_attention, block);
  // The wide scratch holds 4C columns; the gradient of qkv uses its memory as a dense N x 3C
  // matrix.
  device::Mat dqkv_N3C = dwide_N4C;
  dqkv_N3C.cols = 3 * C;
  ops.attention_backward(stream, {.qkv_N3C = stash.qkv_N3C.view(),
                                  .out_NC = stash.attention_NC.view(),
                                  .dout_NC = dln_NC,
                                  .lse_NH = stash.lse_NH,
                                  .T = T,
                                  .H = H,
                                  .dropout = attention_dropout.spec(),
                                  .dqkv_N3C = dqkv_N3C});
  ops.linear_backward_weight(stream, {.x_NC = stash.ln1_NC.view(),
                                      .dy_ND = dqkv_N3C,
                                      .dw_CD = sink(BlockTensor::c_attn_weight),
                                      .db_D = sink(BlockTensor::c_attn_bias)});
  ops.linear_backward_input(
      stream, {.dy_ND = dqkv_N3C, .w_CD = w.matrix(BlockTensor::c_attn_weight), .dx_NC = dln_NC});
  ops.layernorm_backward(stream, {.dy_NC = dln_NC,
                                  .x_NC = stash.x_NC.view(),
                                  .gamma_C = w.vector(BlockTensor::ln_1_weight),
                                  .mean_N = stash.mean1_N,
                                  .rstd_N = stash.rstd1_N,
                                  .dresidual_NC = dx_NC,
                                  .dx_NC = dx_NC,
                                  .dgamma_C = sink(BlockTensor::ln_1_weight),
                                  .dbeta_C = sink(BlockTensor::ln_1_bias)});
}

}  // namespace elaswave::layers
