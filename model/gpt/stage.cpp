#include "model/gpt/stage.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/layers/embedding.h"
#include "model/spec/device_memory.h"

namespace elaswave::gpt {
namespace {

using layout::Op;
using pipeline::Task;

constexpr std::int32_t kNothing = -1;  // held by a slot

layers::LayerKinds kinds_of(std::span<const StageChunk> chunks, const spec::Inventory& inventory) {
  layers::LayerKinds kinds;
  const std::int32_t head = inventory.layers() - 1;
  for (const StageChunk& chunk : chunks) {
    kinds.embedding = kinds.embedding || chunk.layers.begin == 0;
    kinds.head = kinds.head || chunk.layers.end > head;
    kinds.blocks =
        kinds.blocks || std::max(chunk.layers.begin, 1) < std::min(chunk.layers.end, head);
  }
  return kinds;
}

/// The memory of a slot, after a look whether it is this micro-batch's.
template <typename Slots>
auto& held(Slots& slots, std::int32_t slot, std::int32_t micro_batch, const Task& task) {
  const auto index = static_cast<std::size_t>(slot);
  EW_CHECK(slot >= 0 && index < slots.memory.size(), "{} uses slot {} of {}",
           layout::to_text(task.action), slot, slots.memory.size());
  EW_CHECK(slots.micro_batch[index] == micro_batch, "{} finds micro-batch {} in slot {}",
           layout::to_text(task.action), slots.micro_batch[index], slot);
  return slots.memory[index];
}

/// Names the micro-batch that a slot holds from now on. A chunk may have no such memory.
template <typename Slots>
void hold(Slots& slots, std::int32_t slot, std::int32_t micro_batch) {
  if (slot >= 0 && static_cast<std::size_t>(slot) < slots.micro_batch.size())
    slots.micro_batch[static_cast<std::size_t>(slot)] = micro_batch;
}

/// What the slots of a task hold: nothing that stays, in validation.
std::int32_t micro_batch_of(const Task& task) {
  return task.evaluate ? kNothing : task.action.micro_batch;
}
std::int32_t keep_slot(const Task& task) {
  return task.evaluate ? 0 : task.keep;
}

}  // namespace

Stage::Stage(const layers::Context& context, const spec::Inventory& inventory,
             const layers::Parameters& parameters, layers::Gradients& gradients,
             std::span<const StageChunk> chunks, StageHooks hooks)
    : context_(context),
      inventory_(inventory),
      parameters_(parameters),
      gradients_(gradients),
      hooks_(std::move(hooks)),
      scratch_(context, kinds_of(chunks, inventory)),
      ids_N_(context.device(), context.tokens()),
      targets_N_(context.device(), context.tokens()) {
  EW_CHECK(context.tokens() >= context.slices(), "{} rows for {} slices", context.tokens(),
           context.slices());
  for (const StageChunk& chunk : chunks) add_chunk(chunk);
  const layers::LayerKinds kinds = kinds_of(chunks, inventory);
  if (kinds.embedding || kinds.head)
    for (std::int64_t i = 0; i < (context.device().host_reads() ? 1 : spec::kTokensAhead); ++i)
      outgoing_.push_back(
          {.tokens = {context.device(), 2 * context.tokens(), device::Space::host}, .sent = {}});
  // For F under full recompute, and for validation of a rank that has no micro-batch to train on.
  const bool stashes = std::any_of(chunks_.begin(), chunks_.end(), [](const Chunk& chunk) {
    return chunk.blocks > 0 && !chunk.stash.memory.empty();
  });
  if (kinds.blocks && (!stashes || context.recompute == layers::Recompute::full))
    passing_.emplace(context, layers::BlockInput::boundary);
}

void Stage::add_chunk(const StageChunk& from) {
  const std::int32_t head = inventory_.layers() - 1;
  Chunk chunk{.number = from.slots.chunk,
              .embedding = from.layers.begin == 0,
              .head = from.layers.end > head,
              .first_block = std::max(from.layers.begin, 1) - 1,
              .blocks = 0,
              .stash = {},
              .keep = {},
              .weight_stash = {}};
  chunk.blocks = std::max(0, std::min(from.layers.end, head) - 1 - chunk.first_block);
  EW_CHECK(from.layers.begin < from.layers.end && from.layers.end <= head + 1,
           "chunk {} has layers [{}, {}) of {}", chunk.number, from.layers.begin, from.layers.end,
           head + 1);
  for (std::int32_t slot = 0; slot < from.slots.stash; ++slot) {
    auto& blocks = chunk.stash.memory.emplace_back();
    for (std::int32_t block = 0; block < chunk.blocks; ++block)
      blocks.emplace_back(context_,
                          block == 0 ? layers::BlockInput::boundary : layers::BlockInput::own);
  }
  // Validation needs the head's memory too, where no micro-batch is trained on.
  const std::int32_t keeps = chunk.head ? std::max(from.slots.keep, 1) : 0;
  for (std::int32_t slot = 0; slot < keeps; ++slot)
    chunk.keep.memory.emplace_back(
        context_, chunk.blocks > 0 ? layers::HeadInput::own : layers::HeadInput::boundary);
  for (std::int32_t slot = 0; slot < from.slots.weight_stash; ++slot) {
    auto& blocks = chunk.weight_stash.memory.emplace_back();
    for (std::int32_t block = 0; block < chunk.blocks; ++block) blocks.emplace_back(context_);
  }
  chunk.stash.micro_batch.assign(chunk.stash.memory.size(), kNothing);
  chunk.keep.micro_batch.assign(chunk.keep.memory.size(), kNothing);
  chunk.weight_stash.micro_batch.assign(chunk.weight_stash.memory.size(), kNothing);
  chunks_.push_back(std::move(chunk));
}

Stage::Chunk& Stage::find_chunk(std::int32_t number) {
  const auto found = std::find_if(chunks_.begin(), chunks_.end(),
                                  [&](const Chunk& chunk) { return chunk.number == number; });
  EW_CHECK(found != chunks_.end(), "chunk {} is not one of this stage", number);
  return *found;
}

Result<void> Stage::run(const Task& task) {
  Chunk& chunk = find_chunk(task.action.chunk);
  layers::MicroBatch batch;
  if (task.action.op != Op::weight_gradient) {
    EW_ASSIGN(batch, hooks_.batch(task.action.micro_batch));
    if (chunk.embedding || chunk.head) batch = on_device(batch);
  }
  const Run run{task, chunk, {context_, inventory_, parameters_, gradients_, batch, scratch_}};
  switch (task.action.op) {
    case Op::forward:
      return forward(run);
    case Op::recompute:
      return recompute(run);
    case Op::backward:
    case Op::input_gradient:
      return backward(run);
    case Op::weight_gradient:
      return weight_gradients(run);
  }
  return {};
}

/// The host runs ahead of the device and waits for none of its actions: what it sends leaves from
/// memory that a stream copies without it, and stays there until it has been copied.
Stage::Outgoing& Stage::next_outgoing() {
  Outgoing& outgoing = outgoing_[next_outgoing_];
  next_outgoing_ = (next_outgoing_ + 1) % outgoing_.size();
  if (outgoing.used && !context_.stream.reached(outgoing.sent)) context_.stream.synchronize();
  return outgoing;
}

layers::MicroBatch Stage::on_device(layers::MicroBatch batch) {
  Outgoing& outgoing = next_outgoing();
  const std::span<std::int32_t> tokens = outgoing.tokens;
  const auto copy = [&](std::span<const std::int32_t> from, std::span<std::int32_t> by,
                        device::Array<std::int32_t>& to) {
    std::ranges::copy(from, by.begin());
    const auto there = to.span().first(from.size());
    context_.stream.copy(there.data(), by.data(), static_cast<std::int64_t>(from.size_bytes()));
    return there;
  };
  batch.ids_N = copy(batch.ids_N, tokens.first(batch.ids_N.size()), ids_N_);
  batch.targets_N = copy(batch.targets_N, tokens.last(batch.targets_N.size()), targets_N_);
  outgoing.sent = context_.stream.mark();
  outgoing.used = true;
  return batch;
}

void Stage::expect_losses(std::int64_t forwards) {
  if (scratch_.loss_N.size() == 0) return;  // no head
  while (std::ssize(losses_) < forwards)
    losses_.emplace_back(context_.device(), scratch_.loss_N.size(), device::Space::host);
}

std::int64_t Stage::host_bytes() const {
  std::int64_t bytes = 0;
  for (const Outgoing& outgoing : outgoing_) bytes += outgoing.tokens.size_bytes();
  for (const device::Array<float>& losses : losses_) bytes += losses.size_bytes();
  return bytes;
}

void Stage::keep_losses() {
  expect_losses(static_cast<std::int64_t>(untold_) + 1);
  device::Array<float>& host_N = losses_[untold_++];
  context_.stream.copy(host_N.span().data(), scratch_.loss_N.span().data(), host_N.size_bytes());
}

void Stage::tell_losses() {
  context_.stream.synchronize();
  for (std::size_t index = 0; index < untold_; ++index) hooks_.losses(losses_[index]);
  untold_ = 0;
}

Result<void> Stage::forward(const Run& run) {
  const auto& [task, chunk, call] = run;
  if (chunk.embedding) {
    EW_TRY(hooks_.ready(0));
    EW_TRY(layers::embedding_forward(call, chunk.blocks > 0 ? task.input : task.output));
  }
  const bool keeps = !task.evaluate && task.stash >= 0;
  EW_CHECK(
      keeps || task.evaluate || chunk.blocks == 0 || context_.recompute == layers::Recompute::full,
      "{} has nowhere to keep its activations", layout::to_text(task.action));
  if (keeps) hold(chunk.stash, task.stash, task.action.micro_batch);
  layers::HeadStash* head = nullptr;
  if (chunk.head) {
    hold(chunk.keep, keep_slot(task), micro_batch_of(task));
    head = &held(chunk.keep, keep_slot(task), micro_batch_of(task), task);
  }
  EW_TRY(forward_blocks(run, keeps ? BlockPass::keep : BlockPass::pass,
                        head != nullptr ? head->x_NC.view() : task.output));
  if (head == nullptr) return {};

  const std::int32_t layer = inventory_.layers() - 1;
  EW_TRY(hooks_.ready(layer));
  EW_TRY(task.evaluate ? layers::head_forward(call, head_input(run, *head), *head)
                       : layers::head_forward_backward(call, head_input(run, *head), *head));
  keep_losses();
  return task.final_tied && !task.evaluate ? hooks_.done(layer, true) : Result<void>();
}

Result<void> Stage::forward_blocks(const Run& run, BlockPass pass, device::Mat out_NC) {
  const auto& [task, chunk, call] = run;
  if (chunk.blocks == 0) return {};
  std::vector<layers::BlockStash>* const kept =
      pass == BlockPass::keep ? &held(chunk.stash, task.stash, task.action.micro_batch, task)
                              : nullptr;
  device::Mat x_NC = task.input;
  for (std::int32_t block = 0; block < chunk.blocks; ++block) {
    const std::int32_t index = chunk.first_block + block;
    EW_TRY(hooks_.ready(index + 1));
    // A block of which nothing is kept may work in place; the input of the chunk is needed later.
    const bool last = block + 1 == chunk.blocks;
    const device::Mat next_NC =
        last || kept == nullptr ? out_NC : (*kept)[static_cast<std::size_t>(block) + 1].x_NC.view();
    layers::BlockStash& stash =
        kept == nullptr ? passing_stash() : (*kept)[static_cast<std::size_t>(block)];
    EW_TRY(layers::block_forward(call, {index, x_NC, stash}, next_NC));
    x_NC = next_NC;
  }
  return {};
}

Result<void> Stage::recompute(const Run& run) {
  hold(run.chunk.stash, run.task.stash, run.task.action.micro_batch);
  // The output is kept already, or another chunk's input.
  return forward_blocks(run, BlockPass::keep, device::Mat());
}

Result<void> Stage::backward(const Run& run) {
  const auto& [task, chunk, call] = run;
  const bool split = task.action.op == Op::input_gradient;
  const std::int32_t micro_batch = task.action.micro_batch;
  const device::Mat dx_NC = task.gradient;
  const auto done = [&](std::int32_t layer) {
    return run.task.final && !split ? hooks_.done(layer, false) : Result<void>();
  };
  if (chunk.head) {
    const std::int32_t layer = inventory_.layers() - 1;
    EW_TRY(hooks_.ready(layer));
    layers::HeadStash& head = held(chunk.keep, task.keep, micro_batch, task);
    layers::head_backward(call, head_input(run, head), head, dx_NC);
    EW_TRY(done(layer));
  }
  if (split) hold(chunk.weight_stash, task.weight_stash, micro_batch);
  for (std::int32_t block = chunk.blocks; block-- > 0;) {
    const layers::KeptBlock kept = kept_block(run, block);
    const std::int32_t layer = chunk.first_block + block + 1;
    EW_TRY(hooks_.ready(layer));
    EW_TRY(split ? layers::block_input_gradient(call, kept, product_gradients(run, block), dx_NC)
                 : layers::block_backward(call, kept, dx_NC));
    EW_TRY(done(layer));
  }
  if (!chunk.embedding) return {};
  EW_TRY(layers::embedding_backward(call, dx_NC));
  return done(0);
}

Result<void> Stage::weight_gradients(const Run& run) {
  const Chunk& chunk = run.chunk;
  const auto done = [&](std::int32_t layer) {
    return run.task.final ? hooks_.done(layer, false) : Result<void>();
  };
  if (chunk.head) EW_TRY(done(inventory_.layers() - 1));
  for (std::int32_t block = chunk.blocks; block-- > 0;) {
    EW_TRY(hooks_.ready(chunk.first_block + block + 1));  // selective computes the norms again
    EW_TRY(layers::block_weight_gradient(run.call, kept_block(run, block),
                                         product_gradients(run, block)));
    EW_TRY(done(chunk.first_block + block + 1));
  }
  return chunk.embedding ? done(0) : Result<void>();
}

layers::KeptBlock Stage::kept_block(const Run& run, std::int32_t block) {
  auto& stash = held(run.chunk.stash, run.task.stash, run.task.action.micro_batch, run.task);
  layers::BlockStash& kept = stash[static_cast<std::size_t>(block)];
  return {run.chunk.first_block + block, block == 0 ? run.task.input : kept.x_NC.view(), kept};
}

layers::ProductGradients& Stage::product_gradients(const Run& run, std::int32_t block) {
  auto& products =
      held(run.chunk.weight_stash, run.task.weight_stash, run.task.action.micro_batch, run.task);
  return products[static_cast<std::size_t>(block)];
}

layers::BlockStash& Stage::passing_stash() {
  if (passing_) return *passing_;
  for (Chunk& chunk : chunks_) {
    if (chunk.blocks == 0 || chunk.stash.memory.empty()) continue;
    hold(chunk.stash, 0, kNothing);
    return chunk.stash.memory.front().front();
  }
  EW_CHECK(false, "a stage of {} chunks without memory for a block", chunks_.size());
}

pipeline::BoundaryShape Stage::boundary() const {
  return {context_.rows().count(), context_.config.hidden, context_.storage};
}

ActivationBytes Stage::activation_bytes() const {
  ActivationBytes bytes{.scratch = scratch_.memory_bytes()};
  if (passing_) bytes.scratch += passing_->memory_bytes();
  for (const Chunk& chunk : chunks_) {
    for (const auto& slot : chunk.stash.memory)
      for (const layers::BlockStash& block : slot) bytes.stash += block.memory_bytes();
    for (const layers::HeadStash& head : chunk.keep.memory) bytes.keep += head.memory_bytes();
    for (const auto& slot : chunk.weight_stash.memory)
      for (const layers::ProductGradients& block : slot) bytes.weight_stash += block.memory_bytes();
  }
  return bytes;
}

bool add_losses(std::span<const float> losses, ExactSum& sum) {
  if (!std::all_of(losses.begin(), losses.end(), [](float loss) { return std::isfinite(loss); }))
    return false;
  for (const float loss : losses) sum.add(static_cast<double>(loss));
  return true;
}

}  // namespace elaswave::gpt
