#include "model/gpt/stage.h"

#include <algorithm>
#include <cmath>

#include "model/layers/embedding.h"

namespace elaswave::gpt {

Stage::Stage(const layers::Context& context, const spec::Inventory& inventory,
             const layers::Parameters& parameters, layers::Gradients& gradients)
    : context_(context),
      inventory_(inventory),
      parameters_(parameters),
      gradients_(gradients),
      head_(context),
      scratch_(context),
      dx_NC_(context.tokens(), context.config.hidden, context.storage) {
  for (std::int64_t block = 0; block < context.config.layers; ++block)
    blocks_.emplace_back(context);
}

Result<void> Stage::forward_blocks(const layers::MicroBatch& batch, const LayerReady& ready) {
  EW_TRY(ready(0));
  layers::embedding_forward(context_, inventory_, parameters_, batch, blocks_.front().x_NC.view());
  for (std::size_t block = 0; block < blocks_.size(); ++block) {
    EW_TRY(ready(static_cast<std::int32_t>(block) + 1));
    layers::Activation& out = block + 1 < blocks_.size() ? blocks_[block + 1].x_NC : head_.x_NC;
    layers::block_forward(context_, inventory_, parameters_, batch,
                          static_cast<std::int64_t>(block), blocks_[block], scratch_, out.view());
  }
  return ready(head_layer());
}

Result<void> Stage::forward(const layers::MicroBatch& batch, const LayerReady& ready) {
  EW_TRY(forward_blocks(batch, ready));
  layers::head_forward_backward(context_, inventory_, parameters_, gradients_, batch, head_);
  return {};
}

Result<void> Stage::evaluate(const layers::MicroBatch& batch, const LayerReady& ready) {
  EW_TRY(forward_blocks(batch, ready));
  layers::head_forward(context_, inventory_, parameters_, batch, head_);
  return {};
}

Result<void> Stage::backward(const layers::MicroBatch& batch, const LayerDone& done) {
  const device::Mat dx_NC = dx_NC_.view();
  layers::head_backward(context_, inventory_, parameters_, gradients_, head_, dx_NC);
  EW_TRY(done(head_layer()));
  for (std::size_t block = blocks_.size(); block-- > 0;) {
    layers::block_backward(context_, inventory_, parameters_, gradients_, batch,
                           static_cast<std::int64_t>(block), blocks_[block], scratch_, dx_NC);
    EW_TRY(done(static_cast<std::int32_t>(block) + 1));
  }
  layers::embedding_backward(context_, inventory_, gradients_, batch, dx_NC);
  return done(0);
}

std::int64_t Stage::activation_bytes() const {
  std::int64_t bytes = head_.memory_bytes() + dx_NC_.memory_bytes() +
                       scratch_.branch_NC.memory_bytes() + scratch_.dln_NC.memory_bytes() +
                       scratch_.wide_N4C.memory_bytes();
  for (const layers::BlockStash& block : blocks_) bytes += block.memory_bytes();
  return bytes;
}

bool add_losses(std::span<const float> losses, ExactSum& sum) {
  if (!std::all_of(losses.begin(), losses.end(), [](float loss) { return std::isfinite(loss); }))
    return false;
  for (const float loss : losses) sum.add(static_cast<double>(loss));
  return true;
}

}  // namespace elaswave::gpt
