// A stage: a run of layers that one replica computes. This version runs all layers of the model as
// one stage; forward and backward of one micro-batch are separate calls over a stash, as a pipeline
// schedule needs them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "io/base/exact_sum.h"
#include "model/layers/block.h"
#include "model/layers/context.h"
#include "model/layers/head.h"
#include "model/layers/parameters.h"

namespace elaswave::gpt {

/// Called before a layer's working weights are read for the first time in a step: returns when they
/// are there.
using LayerReady = std::function<Result<void>(std::int32_t layer)>;
/// Called when a layer's weight gradients of a micro-batch are complete.
using LayerDone = std::function<Result<void>(std::int32_t layer)>;

class Stage {
 public:
  /// Allocates everything it will ever need. The references must outlive it.
  Stage(const layers::Context& context, const spec::Inventory& inventory,
        const layers::Parameters& parameters, layers::Gradients& gradients);

  /// Forward of one micro-batch, the head's gradients included; token losses are left in losses().
  Result<void> forward(const layers::MicroBatch& batch, const LayerReady& ready);
  /// Backward of the micro-batch that forward() saw last. `done` is called layer by layer, last
  /// layer first.
  Result<void> backward(const layers::MicroBatch& batch, const LayerDone& done);
  /// Forward without gradients.
  Result<void> evaluate(const layers::MicroBatch& batch, const LayerReady& ready);

  /// Token losses of the last forward or evaluate, in nats.
  std::span<const float> losses() const { return head_.loss_N; }
  /// What the tied head multiplies with: the normed last activations of the last forward or
  /// evaluate, N x C.
  device::ConstMat head_input_NC() { return head_.ln_NC.view(); }
  std::int64_t activation_bytes() const;

 private:
  Result<void> forward_blocks(const layers::MicroBatch& batch, const LayerReady& ready);
  std::int32_t head_layer() const { return inventory_.layers() - 1; }

  layers::Context context_;
  const spec::Inventory& inventory_;
  const layers::Parameters& parameters_;
  layers::Gradients& gradients_;
  std::vector<layers::BlockStash> blocks_;
  layers::HeadStash head_;
  layers::BlockScratch scratch_;
  layers::Activation dx_NC_;
};

/// Adds token losses exactly; false when one is not finite (nothing is added then).
bool add_losses(std::span<const float> losses, ExactSum& sum);

}  // namespace elaswave::gpt
