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

/// Does the gradient of a branch have to outlive that of the residual stream which it comes from?
enum class Keep { no, yes };

/// Gradient of x W + b, all rows: in `into_NC`, or `dout_NC` itself where that is the same and need
/// not be kept.
Result<ConstMat> branch_gradient(const Site& at, const Projection& projection, ConstMat dout_NC,
                                 Mat into_NC, Keep keep) {
  const LayerDropout dropout = at.dropout(projection.dropout);
  ConstMat own_NC = dout_NC;
  if (dropout.spec().rate != 0 || keep == Keep::yes) {
    const Mat masked_NC = own_rows(at.context(), into_NC);
    at.ops().residual_backward(at.stream(), {.dout_NC = dout_NC,
                                             .T = at.context().config.context,
                                             .dropout = dropout.spec(),
                                             .dbranch_NC = masked_NC,
                                             .row_begin = at.context().rows().begin});
    own_NC = masked_NC;
  }
  return gather_rows(at.context(), own_NC, into_NC, "gradient of a projection");
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

void mlp_projection_weights(const Site& at, ConstMat dbranch_NC) {
  projection_weights(at, kMlpProjection, activated(at, Pass::backward), dbranch_NC);
}
void attention_projection_weights(const Site& at, ConstMat dbranch_NC) {
  projection_weights(at, kAttentionProjection, at.stash().attention_NC.view(), dbranch_NC);
}

/// From the branch to the output of the product behind the norm.
void mlp_inner_gradient(const Site& at, ConstMat dbranch_NC, Mat dfc_N4C) {
  at.ops().linear_backward_input(at.stream(), {.dy_ND = dbranch_NC,
                                               .w_CD = at.matrix(kMlpProjection.weight),
                                               .dx_NC = dfc_N4C,
                                               .gelu_x = at.stash().fc_N4C.view()});
}
void attention_inner_gradient(const Site& at, ConstMat dbranch_NC, Mat dqkv_N3C) {
  const Mat dattention_NC = at.scratch().norm_NC.view().cols_from(0, at.context().width());
  at.ops().linear_backward_input(at.stream(), {.dy_ND = dbranch_NC,
                                               .w_CD = at.matrix(kAttentionProjection.weight),
                                               .dx_NC = dattention_NC});
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
}

/// The product behind a norm.
struct InnerProduct {
  BlockTensor weight, bias;
};
constexpr InnerProduct kMlpInner = {BlockTensor::c_fc_weight, BlockTensor::c_fc_bias};
constexpr InnerProduct kAttentionInner = {BlockTensor::c_attn_weight, BlockTensor::c_attn_bias};

/// dx_NC: gradient of the residual stream, behind the branch and then before it.
Result<void> branch_input_gradient(const Site& at, const Norm& norm, const InnerProduct& product,
                                   ConstMat dwide, Mat dx_NC) {
  const Mat dln_NC = at.scratch().norm_NC.view();
  at.ops().linear_backward_input(
      at.stream(),
      {.dy_ND = dwide, .w_CD = at.matrix(product.weight), .dx_NC = term_of_sum(at.call, dln_NC)});
  EW_ASSIGN(const Mat own_NC, sum_rows(at.call, dln_NC, "gradient of a norm"));
  norm_backward(at, norm, own_NC, dx_NC);
  return {};
}
Result<void> inner_weights(const Site& at, const Norm& norm, const InnerProduct& product,
                           ConstMat dwide) {
  EW_ASSIGN(const ConstMat normed_NC, normed_rows(at, norm, Pass::backward));
  at.ops().linear_backward_weight(at.stream(), {.x_NC = normed_NC,
                                                .dy_ND = dwide,
                                                .dw_CD = at.sink(product.weight),
                                                .db_D = at.sink(product.bias)});
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

// The weights of a projection come before the gradient of the norm: it takes the place of dx_NC,
// which may be the branch's gradient.
Result<void> block_backward(const LayerCall& call, const KeptBlock& block, Mat dx_NC) {
  const Site at{call, block};
  const Mat scratch_NC = call.scratch.branch_NC.view(), dfc_N4C = call.scratch.wide_N4C.view();
  EW_ASSIGN(const ConstMat dmlp_NC,
            branch_gradient(at, kMlpProjection, dx_NC, scratch_NC, Keep::no));
  mlp_inner_gradient(at, dmlp_NC, dfc_N4C);
  mlp_projection_weights(at, dmlp_NC);
  EW_TRY(branch_input_gradient(at, second_norm(at), kMlpInner, dfc_N4C, dx_NC));
  EW_TRY(inner_weights(at, second_norm(at), kMlpInner, dfc_N4C));

  const Mat dqkv_N3C = dfc_N4C.cols_from(0, 3 * call.context.width());
  EW_ASSIGN(const ConstMat dattention_NC,
            branch_gradient(at, kAttentionProjection, dx_NC, scratch_NC, Keep::no));
  attention_inner_gradient(at, dattention_NC, dqkv_N3C);
  attention_projection_weights(at, dattention_NC);
  EW_TRY(branch_input_gradient(at, first_norm(at), kAttentionInner, dqkv_N3C, dx_NC));
  return inner_weights(at, first_norm(at), kAttentionInner, dqkv_N3C);
}

Result<void> block_input_gradient(const LayerCall& call, const KeptBlock& block,
                                  ProductGradients& products, Mat dx_NC) {
  const Site at{call, block};
  const Mat dfc_N4C = products.fc_N4C.view(), dqkv_N3C = products.qkv_N3C.view();
  EW_ASSIGN(const ConstMat dmlp_NC,
            branch_gradient(at, kMlpProjection, dx_NC, products.mlp_proj_NC.view(), Keep::yes));
  mlp_inner_gradient(at, dmlp_NC, dfc_N4C);
  EW_TRY(branch_input_gradient(at, second_norm(at), kMlpInner, dfc_N4C, dx_NC));
  EW_ASSIGN(const ConstMat dattention_NC, branch_gradient(at, kAttentionProjection, dx_NC,
                                                          products.attn_proj_NC.view(), Keep::yes));
  attention_inner_gradient(at, dattention_NC, dqkv_N3C);
  return branch_input_gradient(at, first_norm(at), kAttentionInner, dqkv_N3C, dx_NC);
}

Result<void> block_weight_gradient(const LayerCall& call, const KeptBlock& block,
                                   ProductGradients& products) {
  const Site at{call, block};
  mlp_projection_weights(at, products.mlp_proj_NC.view());
  EW_TRY(inner_weights(at, second_norm(at), kMlpInner, products.fc_N4C.view()));
  attention_projection_weights(at, products.attn_proj_NC.view());
  return inner_weights(at, first_norm(at), kAttentionInner, products.qkv_N3C.view());
}

}  // namespace elaswave::layers
