#include "model/layers/block.h"

namespace elaswave::layers {
namespace {

using device::ConstMat;
using device::Mat;
using spec::BlockTensor;

/// One call on one block, with the tensors of the block by name.
struct Site {
  const LayerCall& call;
  const KeptBlock& block;

  const Context& context() const { return call.context; }
  kernels::Ops& ops() const { return call.context.ops; }
  device::Stream& stream() const { return call.context.stream; }
  BlockStash& stash() const { return block.stash; }
  LayerScratch& scratch() const { return call.scratch; }

  std::int32_t id(BlockTensor tensor) const {
    return call.inventory.block_tensor(block.index, tensor);
  }
  ConstMat matrix(BlockTensor tensor) const { return call.parameters.matrix(id(tensor)); }
  std::span<const float> vector(BlockTensor tensor) const {
    return call.parameters.vector(id(tensor));
  }
  kernels::GradSink sink(BlockTensor tensor) const { return call.gradients.sink(id(tensor)); }
  // Layer numbers in random streams are inventory layers: the first block is 1.
  LayerDropout dropout(RandomUse use) const {
    return LayerDropout(call.batch, use, block.index + 1);
  }
};

/// One of the two norms of a block.
struct Norm {
  BlockTensor weight, bias;
  ConstMat x_NC;  // own rows
  Mat kept_NC;    // own rows; empty where they are computed again
  std::span<float> mean_N, rstd_N;
};
Norm first_norm(const Site& at) {
  return {BlockTensor::ln_1_weight, BlockTensor::ln_1_bias, at.block.x_NC,
          at.stash().ln1_NC.view(), at.stash().mean1_N,     at.stash().rstd1_N};
}
Norm second_norm(const Site& at) {
  return {BlockTensor::ln_2_weight, BlockTensor::ln_2_bias, at.stash().mid_NC.view(),
          at.stash().ln2_NC.view(), at.stash().mean2_N,     at.stash().rstd2_N};
}

enum class Pass { forward, backward };

/// What the product behind a norm reads: all rows. Backward gathers them again instead of keeping
/// them.
Result<ConstMat> normed_rows(const Site& at, const Norm& norm, Pass pass) {
  const Mat all_NC = at.scratch().norm_NC.view();
  const bool kept = norm.kept_NC.data != nullptr;
  const Mat own_NC = kept ? norm.kept_NC : own_rows(at.context(), all_NC);
  if (pass == Pass::forward || !kept)
    at.ops().layernorm_forward(at.stream(), {.x_NC = norm.x_NC,
                                             .gamma_C = at.vector(norm.weight),
                                             .beta_C = at.vector(norm.bias),
                                             .y_NC = own_NC,
                                             .mean_N = norm.mean_N,
                                             .rstd_N = norm.rstd_N});
  return gather_rows(at.context(), own_NC, all_NC, "rows of a norm");
}

void norm_backward(const Site& at, const Norm& norm, ConstMat dy_NC, Mat dx_NC) {
  at.ops().layernorm_backward(at.stream(), {.dy_NC = dy_NC,
                                            .x_NC = norm.x_NC,
                                            .gamma_C = at.vector(norm.weight),
                                            .mean_N = norm.mean_N,
                                            .rstd_N = norm.rstd_N,
                                            .dresidual_NC = dx_NC,
                                            .dx_NC = dx_NC,
                                            .dgamma_C = at.sink(norm.weight),
                                            .dbeta_C = at.sink(norm.bias)});
}

/// gelu(fc), what the MLP's second product reads.
ConstMat activated(const Site& at, Pass pass) {
  const Mat kept_N4C = at.stash().act_N4C.view();
  const bool kept = kept_N4C.data != nullptr;
  const Mat act_N4C = kept ? kept_N4C : at.scratch().act_N4C.view();
  if (pass == Pass::forward || !kept)
    at.ops().gelu_forward(at.stream(), {.x = at.stash().fc_N4C.view(), .y = act_N4C});
  return act_N4C;
}

/// out = residual + dropout(x W + b) on own rows, W split by rows over the slices. The bias enters
/// the sum over slices once, with the first.
struct Projection {
  BlockTensor weight, bias;
  RandomUse dropout;
};
constexpr Projection kAttentionProjection = {BlockTensor::attn_proj_weight,
                                             BlockTensor::attn_proj_bias,
                                             RandomUse::dropout_attention_residual};
constexpr Projection kMlpProjection = {BlockTensor::mlp_proj_weight, BlockTensor::mlp_proj_bias,
                                       RandomUse::dropout_mlp_residual};

Result<void> project(const Site& at, const Projection& projection, ConstMat x, ConstMat residual_NC,
                     Mat out_NC) {
  const bool first_slice = at.context().slice() == 0;
  const Mat branch_NC = at.scratch().branch_NC.view();
  at.ops().linear_forward(
      at.stream(), {.x_NC = x,
                    .w_CD = at.matrix(projection.weight),
                    .b_D = first_slice ? at.vector(projection.bias) : std::span<const float>(),
                    .y_ND = term_of_sum(at.call, branch_NC)});
  EW_ASSIGN(const Mat own_NC, sum_rows(at.call, branch_NC, "sum of a projection"));
  const LayerDropout dropout = at.dropout(projection.dropout);
  at.ops().residual_forward(at.stream(), {.residual_NC = residual_NC,
                                          .branch_NC = own_NC,
                                          .T = at.context().config.context,
                                          .dropout = dropout.spec(),
                                          .out_NC = out_NC,
                                          .row_begin = at.context().rows().begin});
  return {};
}

/// Gradient of x W + b, all rows, into `dbranch_NC`; of x into `dx`.
Result<void> project_back(const Site& at, const Projection& projection, ConstMat dout_NC,
                          Mat dbranch_NC, Mat dx) {
  const Mat own_NC = own_rows(at.context(), dbranch_NC);
  const LayerDropout dropout = at.dropout(projection.dropout);
  at.ops().residual_backward(at.stream(), {.dout_NC = dout_NC,
                                           .T = at.context().config.context,
                                           .dropout = dropout.spec(),
                                           .dbranch_NC = own_NC,
                                           .row_begin = at.context().rows().begin});
  EW_TRY(gather_rows(at.context(), own_NC, dbranch_NC, "gradient of a projection"));
  at.ops().linear_backward_input(
      at.stream(), {.dy_ND = dbranch_NC, .w_CD = at.matrix(projection.weight), .dx_NC = dx});
  return {};
}

void projection_weights(const Site& at, const Projection& projection, ConstMat x,
                        ConstMat dbranch_NC) {
  // Every slice has all rows of dbranch: the gradient of the bias is the first slice's alone.
  const bool first_slice = at.context().slice() == 0;
  at.ops().linear_backward_weight(
      at.stream(), {.x_NC = x,
                    .dy_ND = dbranch_NC,
                    .dw_CD = at.sink(projection.weight),
                    .db_D = first_slice ? at.sink(projection.bias) : kernels::GradSink()});
}

/// dx_NC: gradient of the residual stream, behind the MLP and then before it.
Result<void> mlp_input_gradient(const Site& at, Mat dbranch_NC, Mat dfc_N4C, Mat dx_NC) {
  EW_TRY(project_back(at, kMlpProjection, dx_NC, dbranch_NC, dfc_N4C));
  at.ops().gelu_backward(at.stream(),
                         {.x = at.stash().fc_N4C.view(), .dy = dfc_N4C, .dx = dfc_N4C});
  const Mat dln_NC = at.scratch().norm_NC.view();
  at.ops().linear_backward_input(at.stream(), {.dy_ND = dfc_N4C,
                                               .w_CD = at.matrix(BlockTensor::c_fc_weight),
                                               .dx_NC = term_of_sum(at.call, dln_NC)});
  EW_ASSIGN(const Mat own_NC, sum_rows(at.call, dln_NC, "gradient of a norm"));
  norm_backward(at, second_norm(at), own_NC, dx_NC);
  return {};
}

Result<void> mlp_weight_gradient(const Site& at, ConstMat dbranch_NC, ConstMat dfc_N4C) {
  projection_weights(at, kMlpProjection, activated(at, Pass::backward), dbranch_NC);
  EW_ASSIGN(const ConstMat ln2_NC, normed_rows(at, second_norm(at), Pass::backward));
  at.ops().linear_backward_weight(at.stream(), {.x_NC = ln2_NC,
                                                .dy_ND = dfc_N4C,
                                                .dw_CD = at.sink(BlockTensor::c_fc_weight),
                                                .db_D = at.sink(BlockTensor::c_fc_bias)});
  return {};
}

Result<void> attention_input_gradient(const Site& at, Mat dbranch_NC, Mat dqkv_N3C, Mat dx_NC) {
  const Mat dln_NC = at.scratch().norm_NC.view();
  const Mat dattention_NC = dln_NC.cols_from(0, at.context().width());
  EW_TRY(project_back(at, kAttentionProjection, dx_NC, dbranch_NC, dattention_NC));
  const LayerDropout dropout = at.dropout(RandomUse::dropout_attention);
  at.ops().attention_backward(at.stream(), {.qkv_N3C = at.stash().qkv_N3C.view(),
                                            .out_NC = at.stash().attention_NC.view(),
                                            .dout_NC = dattention_NC,
                                            .lse_NH = at.stash().lse_NH,
                                            .T = at.context().config.context,
                                            .H = at.context().heads(),
                                            .dropout = dropout.spec(),
                                            .dqkv_N3C = dqkv_N3C,
                                            .head_begin = at.context().head_begin()});
  at.ops().linear_backward_input(at.stream(), {.dy_ND = dqkv_N3C,
                                               .w_CD = at.matrix(BlockTensor::c_attn_weight),
                                               .dx_NC = term_of_sum(at.call, dln_NC)});
  EW_ASSIGN(const Mat own_NC, sum_rows(at.call, dln_NC, "gradient of a norm"));
  norm_backward(at, first_norm(at), own_NC, dx_NC);
  return {};
}

Result<void> attention_weight_gradient(const Site& at, ConstMat dbranch_NC, ConstMat dqkv_N3C) {
  projection_weights(at, kAttentionProjection, at.stash().attention_NC.view(), dbranch_NC);
  EW_ASSIGN(const ConstMat ln1_NC, normed_rows(at, first_norm(at), Pass::backward));
  at.ops().linear_backward_weight(at.stream(), {.x_NC = ln1_NC,
                                                .dy_ND = dqkv_N3C,
                                                .dw_CD = at.sink(BlockTensor::c_attn_weight),
                                                .db_D = at.sink(BlockTensor::c_attn_bias)});
  return {};
}

}  // namespace

BlockStash::BlockStash(const Context& context, BlockInput input) {
  device::Device& on = context.device();
  const std::int64_t N = context.tokens(), C = context.config.hidden, width = context.width();
  const std::int64_t rows = context.rows().count();
  const bool selective = context.recompute == Recompute::selective;
  if (input == BlockInput::own) x_NC = Activation(on, rows, C, context.storage);
  if (!selective) ln1_NC = Activation(on, rows, C, context.storage);
  qkv_N3C = Activation::padded(on, N, 3 * width, context.storage);
  attention_NC = Activation(on, N, width, context.storage);
  mid_NC = Activation(on, rows, C, context.storage);
  if (!selective) ln2_NC = Activation(on, rows, C, context.storage);
  fc_N4C = Activation::padded(on, N, 4 * width, context.storage);
  if (!selective) act_N4C = Activation::padded(on, N, 4 * width, context.storage);
  for (device::Array<float>* statistic : {&mean1_N, &rstd1_N, &mean2_N, &rstd2_N})
    *statistic = device::Array<float>(on, rows);
  lse_NH = device::Array<float>(on, N * context.heads());
}

std::int64_t BlockStash::memory_bytes() const {
  std::int64_t bytes = 4 * mean1_N.size_bytes() + lse_NH.size_bytes();
  for (const Activation* activation :
       {&x_NC, &ln1_NC, &qkv_N3C, &attention_NC, &mid_NC, &ln2_NC, &fc_N4C, &act_N4C})
    bytes += activation->memory_bytes();
  return bytes;
}

ProductGradients::ProductGradients(const Context& context) {
  device::Device& on = context.device();
  const std::int64_t N = context.tokens(), C = context.config.hidden, width = context.width();
  attn_proj_NC = Activation(on, N, C, context.storage);
  qkv_N3C = Activation::padded(on, N, 3 * width, context.storage);
  mlp_proj_NC = Activation(on, N, C, context.storage);
  fc_N4C = Activation::padded(on, N, 4 * width, context.storage);
}

std::int64_t ProductGradients::memory_bytes() const {
  return attn_proj_NC.memory_bytes() + qkv_N3C.memory_bytes() + mlp_proj_NC.memory_bytes() +
         fc_N4C.memory_bytes();
}

Result<void> block_forward(const LayerCall& call, const KeptBlock& block, Mat out_NC) {
  const Site at{call, block};
  BlockStash& stash = block.stash;
  EW_ASSIGN(const ConstMat ln1_NC, normed_rows(at, first_norm(at), Pass::forward));
  at.ops().linear_forward(at.stream(), {.x_NC = ln1_NC,
                                        .w_CD = at.matrix(BlockTensor::c_attn_weight),
                                        .b_D = at.vector(BlockTensor::c_attn_bias),
                                        .y_ND = stash.qkv_N3C.view()});
  const LayerDropout dropout = at.dropout(RandomUse::dropout_attention);
  at.ops().attention_forward(at.stream(), {.qkv_N3C = stash.qkv_N3C.view(),
                                           .T = call.context.config.context,
                                           .H = call.context.heads(),
                                           .dropout = dropout.spec(),
                                           .out_NC = stash.attention_NC.view(),
                                           .lse_NH = stash.lse_NH,
                                           .head_begin = call.context.head_begin()});
  EW_TRY(project(at, kAttentionProjection, stash.attention_NC.view(), block.x_NC,
                 stash.mid_NC.view()));

  EW_ASSIGN(const ConstMat ln2_NC, normed_rows(at, second_norm(at), Pass::forward));
  at.ops().linear_forward(at.stream(), {.x_NC = ln2_NC,
                                        .w_CD = at.matrix(BlockTensor::c_fc_weight),
                                        .b_D = at.vector(BlockTensor::c_fc_bias),
                                        .y_ND = stash.fc_N4C.view()});
  const ConstMat act_N4C = activated(at, Pass::forward);
  if (out_NC.data == nullptr) return {};
  return project(at, kMlpProjection, act_N4C, stash.mid_NC.view(), out_NC);
}

Result<void> block_backward(const LayerCall& call, const KeptBlock& block, Mat dx_NC) {
  const Site at{call, block};
  const Mat dbranch_NC = call.scratch.branch_NC.view(), dwide_N4C = call.scratch.wide_N4C.view();
  EW_TRY(mlp_input_gradient(at, dbranch_NC, dwide_N4C, dx_NC));
  EW_TRY(mlp_weight_gradient(at, dbranch_NC, dwide_N4C));
  const Mat dqkv_N3C = dwide_N4C.cols_from(0, 3 * call.context.width());
  EW_TRY(attention_input_gradient(at, dbranch_NC, dqkv_N3C, dx_NC));
  return attention_weight_gradient(at, dbranch_NC, dqkv_N3C);
}

Result<void> block_input_gradient(const LayerCall& call, const KeptBlock& block,
                                  ProductGradients& products, Mat dx_NC) {
  const Site at{call, block};
  EW_TRY(mlp_input_gradient(at, products.mlp_proj_NC.view(), products.fc_N4C.view(), dx_NC));
  return attention_input_gradient(at, products.attn_proj_NC.view(), products.qkv_N3C.view(), dx_NC);
}

Result<void> block_weight_gradient(const LayerCall& call, const KeptBlock& block,
                                   ProductGradients& products) {
  const Site at{call, block};
  EW_TRY(mlp_weight_gradient(at, products.mlp_proj_NC.view(), products.fc_N4C.view()));
  return attention_weight_gradient(at, products.attn_proj_NC.view(), products.qkv_N3C.view());
}

}  // namespace elaswave::layers
