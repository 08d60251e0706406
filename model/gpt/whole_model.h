// The whole model as one chunk, one micro-batch at a time: for the fingerprint, tests, and whatever
// else needs no schedule. The layers run through Stage as everywhere.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "model/gpt/stage.h"

namespace elaswave::gpt {

/// Called when a layer's weight gradients of a micro-batch are complete.
using LayerDone = std::function<Result<void>(std::int32_t layer)>;

class WholeModel {
 public:
  /// Allocates everything it will ever need. The references must outlive it.
  WholeModel(const layers::Context& context, const spec::Inventory& inventory,
             const layers::Parameters& parameters, layers::Gradients& gradients);
  ~WholeModel() = default;
  WholeModel(const WholeModel&) = delete;
  WholeModel& operator=(const WholeModel&) = delete;

  /// Forward of one micro-batch, the head's gradients included; token losses are left in losses().
  Result<void> forward(const layers::MicroBatch& batch, const LayerReady& ready);
  /// Backward of the micro-batch that forward() saw last. `done` is called layer by layer, last
  /// layer first.
  Result<void> backward(const layers::MicroBatch& batch, const LayerDone& done);
  /// Forward without gradients. Not between forward() and its backward().
  Result<void> evaluate(const layers::MicroBatch& batch, const LayerReady& ready);

  /// Token losses of the last forward or evaluate, in nats.
  std::span<const float> losses() const { return losses_; }
  /// Stage::head_input_NC().
  device::ConstMat head_input_NC() { return stage_.head_input_NC(); }
  std::int64_t activation_bytes() const;

 private:
  struct Call {
    const layers::MicroBatch* batch = nullptr;
    const LayerReady* ready = nullptr;  // null: nothing to wait for
    const LayerDone* done = nullptr;    // null: nobody to tell
  };
  Result<void> run(const pipeline::Task& task, const Call& call);
  StageHooks hooks();

  Call call_;  // under way
  std::span<const float> losses_;
  Stage stage_;
  layers::Activation x_NC_, dx_NC_;
};

}  // namespace elaswave::gpt
