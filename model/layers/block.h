// One transformer block of GPT-2: x + proj(attention(ln_1(x))), then x + proj(gelu(fc(ln_2(x)))).
#pragma once

#include "model/layers/call.h"

namespace elaswave::layers {

/// Where a block's input is: in its own stash, written by the block before, or in the boundary
/// matrix of the chunk.
enum class BlockInput { own, boundary };

/// What forward keeps for backward, for one micro-batch. On a slice: own rows of the residual
/// stream and of what a norm writes, all rows and own columns inside attention and MLP. The
/// selective mode leaves ln1, ln2 and act out.
struct BlockStash {
  BlockStash(const Context& context, BlockInput input);

  Activation x_NC, ln1_NC, qkv_N3C, attention_NC, mid_NC, ln2_NC, fc_N4C, act_N4C;
  device::Array<float> mean1_N, rstd1_N, mean2_N, rstd2_N, lse_NH;

  std::int64_t memory_bytes() const;
};

/// Gradients of the outputs of the four products, all rows: with the stash, what the gradients of
/// their weights are made of when they come later than those of the input.
struct ProductGradients {
  explicit ProductGradients(const Context& context);

  Activation attn_proj_NC, qkv_N3C, mlp_proj_NC, fc_N4C;

  std::int64_t memory_bytes() const;
};

/// A block of the model and what is kept of it.
struct KeptBlock {
  std::int64_t index = 0;  // in [0, L)
  device::ConstMat x_NC;   // its input, own rows
  BlockStash& stash;
};

// On a slice all of these are COLLECTIVE over the slices.

/// `out_NC` may be x_NC's memory. When it is empty (data == nullptr) the stash alone is filled:
/// what no backward reads is not computed.
Result<void> block_forward(const LayerCall& call, const KeptBlock& block, device::Mat out_NC);

/// `dx_NC` holds the gradient of the block's output and becomes that of its input.
Result<void> block_backward(const LayerCall& call, const KeptBlock& block, device::Mat dx_NC);

/// block_backward in two parts, with the same bits: first dx_NC and the gradients of the norms,
/// then the weights and biases of the products.
Result<void> block_input_gradient(const LayerCall& call, const KeptBlock& block,
                                  ProductGradients& products, device::Mat dx_NC);
Result<void> block_weight_gradient(const LayerCall& call, const KeptBlock& block,
                                   ProductGradients& products);

}  // namespace elaswave::layers
