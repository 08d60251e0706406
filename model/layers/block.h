// One transformer block of GPT-2: x + proj(attention(ln_1(x))), then x + proj(gelu(fc(ln_2(x)))).
#pragma once

#include <vector>

#include "model/layers/activation.h"
#include "model/layers/context.h"
#include "model/layers/parameters.h"

namespace elaswave::layers {

/// What forward keeps for backward, for one micro-batch. `x_NC` is the block's input, written by
/// the layer before.
struct BlockStash {
  explicit BlockStash(const Context& context);

  Activation x_NC, ln1_NC, qkv_N3C, attention_NC, mid_NC, ln2_NC, fc_N4C, act_N4C;
  std::vector<float> mean1_N, rstd1_N, mean2_N, rstd2_N, lse_NH;

  std::int64_t memory_bytes() const;
};

/// Memory that one call at a time uses, shared by all blocks.
struct BlockScratch {
  explicit BlockScratch(const Context& context);

  Activation branch_NC, dln_NC, wide_N4C;  // wide also holds the gradient of qkv
};

void block_forward(const Context& context, const spec::Inventory& inventory,
                   const Parameters& parameters, const MicroBatch& batch, std::int64_t block,
                   BlockStash& stash, BlockScratch& scratch, device::Mat out_NC);

/// `dx_NC` holds the gradient of the block's output and becomes that of its input.
void block_backward(const Context& context, const spec::Inventory& inventory,
                    const Parameters& parameters, Gradients& gradients, const MicroBatch& batch,
                    std::int64_t block, BlockStash& stash, BlockScratch& scratch,
                    device::Mat dx_NC);

}  // namespace elaswave::layers
