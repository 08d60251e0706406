#include "model/gpt/whole_model.h"

#include <array>

namespace elaswave::gpt {
namespace {

constexpr std::int32_t kOnlySlot = 0;

StageChunk all_layers(const spec::Inventory& inventory) {
  return {.layers = {0, inventory.layers()}, .slots = {.chunk = 0, .stash = 1, .keep = 1}};
}

}  // namespace

WholeModel::WholeModel(const layers::Context& context, const spec::Inventory& inventory,
                       const layers::Parameters& parameters, layers::Gradients& gradients)
    : stage_(context, inventory, parameters, gradients, std::array{all_layers(inventory)},
             hooks()) {
  const pipeline::BoundaryShape shape = stage_.boundary();
  x_NC_ = layers::Activation(context.device(), shape.rows, shape.cols, shape.dtype);
  dx_NC_ = layers::Activation(context.device(), shape.rows, shape.cols, shape.dtype);
}

StageHooks WholeModel::hooks() {
  return {.batch = [this](std::int32_t) -> Result<layers::MicroBatch> { return *call_.batch; },
          .ready =
              [this](std::int32_t layer) {
                return call_.ready != nullptr ? (*call_.ready)(layer) : Result<void>();
              },
          .done =
              [this](std::int32_t layer, bool tied) {
                // The contribution of the head to the tied embedding comes before any other: not
                // told.
                return call_.done != nullptr && !tied ? (*call_.done)(layer) : Result<void>();
              },
          .losses = [this](std::span<const float> loss_N) { losses_ = loss_N; }};
}

Result<void> WholeModel::run(const pipeline::Task& task, const Call& call) {
  call_ = call;
  stage_.begin_pass();
  Result<void> result = stage_.run(task);
  stage_.tell_losses();
  call_ = {};
  return result;
}

Result<void> WholeModel::forward(const layers::MicroBatch& batch, const LayerReady& ready) {
  return run({.action = {layout::Op::forward, 0, 0},
              .input = x_NC_.view(),
              .stash = kOnlySlot,
              .keep = kOnlySlot},
             {.batch = &batch, .ready = &ready});
}

Result<void> WholeModel::backward(const layers::MicroBatch& batch, const LayerDone& done) {
  return run({.action = {layout::Op::backward, 0, 0},
              .input = x_NC_.view(),
              .gradient = dx_NC_.view(),
              .stash = kOnlySlot,
              .keep = kOnlySlot,
              .final = true},
             {.batch = &batch, .done = &done});
}

Result<void> WholeModel::evaluate(const layers::MicroBatch& batch, const LayerReady& ready) {
  return run({.action = {layout::Op::forward, 0, 0}, .input = x_NC_.view(), .evaluate = true},
             {.batch = &batch, .ready = &ready});
}

std::int64_t WholeModel::activation_bytes() const {
  return stage_.activation_bytes().total() + x_NC_.memory_bytes() + dx_NC_.memory_bytes();
}

}  // namespace elaswave::gpt
