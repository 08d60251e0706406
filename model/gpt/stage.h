// A stage: the chunks of layers that one rank computes, one call for each action of a schedule, in
// whatever order the schedule has them. Implements the executor's StageOps.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "io/base/exact_sum.h"
#include "model/layers/block.h"
#include "model/layers/context.h"
#include "model/layers/head.h"
#include "model/layers/parameters.h"
#include "parallel/layout/plan.h"
#include "parallel/pipeline/program.h"
#include "parallel/pipeline/stage_ops.h"

namespace elaswave::gpt {

/// Called before the working weights of a layer are read, in every action that reads them: returns
/// when they are there.
using LayerReady = std::function<Result<void>(std::int32_t layer)>;
/// The samples of a micro-batch, in host memory. What it points to stays until the next call.
using BatchSource = std::function<Result<layers::MicroBatch>(std::int32_t micro_batch)>;
/// Token losses of a micro-batch in nats, out of F of the last chunk. On every slice. Told by
/// tell_losses() in the order of the actions: they come from the device, and no action waits for
/// it.
using LossSink = std::function<void(std::span<const float> loss_N)>;

struct StageHooks {
  BatchSource batch;  // not called by W, which draws nothing at random
  LayerReady ready;
  pipeline::SumsDone done;
  LossSink losses;
};

/// One chunk of the stage: layer 0 is the embedding, the last one the head; any of the three kinds
/// may be missing, but a chunk has at least one layer.
struct StageChunk {
  layout::LayerRange layers;
  pipeline::Slots slots;  // with the chunk's number
};

/// Memory of a stage by purpose, bytes.
struct ActivationBytes {
  std::int64_t stash = 0, keep = 0, weight_stash = 0, scratch = 0;
  std::int64_t total() const { return stash + keep + weight_stash + scratch; }
};

class Stage final : public pipeline::StageOps {
 public:
  /// Allocates everything it will ever need. The references must outlive it. REQUIRES: chunks
  /// ascending; on a slice, no fewer rows than slices.
  Stage(const layers::Context& context, const spec::Inventory& inventory,
        const layers::Parameters& parameters, layers::Gradients& gradients,
        std::span<const StageChunk> chunks, StageHooks hooks);

  /// Errors are those of the hooks and, on a slice, of the exchanges: COLLECTIVE over the slices
  /// there. An action without the one it follows, or on another's slot, is a bug. F with `evaluate`
  /// takes no slots and uses slots 0 as it likes: REQUIRES that no micro-batch is between its
  /// forward and its backward then.
  Result<void> run(const pipeline::Task& task) override;
  /// So that a pass of so many forwards of the head takes no more memory.
  void expect_losses(std::int64_t forwards);
  /// A pass begins: losses of one that was given up are forgotten.
  void begin_pass() { untold_ = 0; }
  /// Waits for the device and tells the losses of all actions since begin_pass().
  void tell_losses();

  /// Of the matrices between chunks: own rows.
  pipeline::BoundaryShape boundary() const;
  /// What the tied head multiplies with: the normed last activations of the last F of the last
  /// chunk, N x C, until the next action.
  device::ConstMat head_input_NC() { return scratch_.norm_NC.view(); }
  /// As allocated.
  ActivationBytes activation_bytes() const;
  std::int64_t id_bytes() const { return ids_N_.size_bytes() + targets_N_.size_bytes(); }
  /// Of the host: tokens and losses on their way.
  std::int64_t host_bytes() const;

 private:
  /// Slots of one kind, each with the micro-batch whose data it holds.
  template <typename Memory>
  struct SlotsOf {
    std::vector<Memory> memory;
    std::vector<std::int32_t> micro_batch;
  };
  struct Chunk {
    std::int32_t number = 0;
    bool embedding = false, head = false;
    std::int32_t first_block = 0, blocks = 0;
    SlotsOf<std::vector<layers::BlockStash>> stash;
    SlotsOf<layers::HeadStash> keep;
    SlotsOf<std::vector<layers::ProductGradients>> weight_stash;
  };
  /// One action on the way.
  struct Run {
    const pipeline::Task& task;
    Chunk& chunk;
    layers::LayerCall call;
  };
  enum class BlockPass { keep, pass };

  void add_chunk(const StageChunk& chunk);
  Chunk& find_chunk(std::int32_t number);
  /// Ids and targets on their way to the device.
  struct Outgoing {
    device::Array<std::int32_t> tokens;  // of the host, both
    device::Mark sent{};
    bool used = false;
  };
  Outgoing& next_outgoing();
  layers::MicroBatch on_device(layers::MicroBatch batch);
  void keep_losses();
  Result<void> forward(const Run& run);
  Result<void> forward_blocks(const Run& run, BlockPass pass, device::Mat out_NC);
  Result<void> recompute(const Run& run);
  Result<void> backward(const Run& run);
  Result<void> weight_gradients(const Run& run);

  layers::KeptBlock kept_block(const Run& run, std::int32_t block);
  layers::ProductGradients& product_gradients(const Run& run, std::int32_t block);
  static device::ConstMat head_input(const Run& run, layers::HeadStash& head) {
    return run.chunk.blocks > 0 ? head.x_NC.view() : run.task.input;
  }
  /// Memory for a block of which nothing is kept.
  layers::BlockStash& passing_stash();

  layers::Context context_;
  const spec::Inventory& inventory_;
  const layers::Parameters& parameters_;
  layers::Gradients& gradients_;
  StageHooks hooks_;
  layers::LayerScratch scratch_;
  device::Array<std::int32_t> ids_N_, targets_N_;  // of the action under way, on the device
  std::vector<Outgoing> outgoing_;                 // used in turn
  std::size_t next_outgoing_ = 0;
  std::vector<device::Array<float>> losses_;  // of the host; the first untold_ are in use
  std::size_t untold_ = 0;
  std::vector<Chunk> chunks_;
  std::optional<layers::BlockStash> passing_;  // none where validation borrows a stash
};

/// Adds token losses exactly; false when one is not finite (nothing is added then).
bool add_losses(std::span<const float> losses, ExactSum& sum);

}  // namespace elaswave::gpt
