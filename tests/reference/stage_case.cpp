#include "tests/reference/stage_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "model/gpt/whole_model.h"

namespace elaswave::test {
namespace {

using layout::Op;
using pipeline::Task;

constexpr float kNotWritten = std::numeric_limits<float>::quiet_NaN();

/// One weight: large enough that any mistake shows in the losses.
float weight(const SmallModel& model, const spec::TensorSpec& tensor, std::int64_t element) {
  const auto draw = [&](std::uint64_t which) {
    const RandomStream stream =
        random_stream(model.seed, RandomUse::test, hash_text(tensor.name), which);
    return 2 * uniform01(random_word(stream, static_cast<std::uint64_t>(element))) - 1;
  };
  const float value = draw(0);
  const float whole = tensor.init == spec::InitRule::ones
                          ? 1 + 0.5f * value
                          : (tensor.dims == 2 ? 0.5f : 0.25f) * value;
  return whole * (1 + model.perturbation * draw(1));
}

/// Tokens and names of samples of the micro-batches of one step. What is handed out is valid until
/// the next is asked for, and then overwritten.
class Samples {
 public:
  explicit Samples(const SmallModel& model) : model_(model) {}

  layers::MicroBatch get(std::int32_t micro_batch, float dropout) {
    const auto tokens = static_cast<std::size_t>(model_.samples * model_.config.context);
    const RandomStream stream =
        random_stream(model_.seed, RandomUse::test, 77, static_cast<std::uint64_t>(micro_batch));
    const auto token = [&](std::uint64_t index) {
      return static_cast<std::int32_t>(random_word(stream, index) %
                                       static_cast<std::uint64_t>(model_.config.vocab));
    };
    ids_.resize(tokens);
    targets_.resize(tokens);
    for (std::size_t i = 0; i < tokens; ++i) {
      ids_[i] = token(2 * i);
      targets_[i] = token(2 * i + 1);
    }
    positions_.resize(static_cast<std::size_t>(model_.samples));
    for (std::size_t i = 0; i < positions_.size(); ++i)
      positions_[i] = micro_batch * model_.samples + static_cast<std::int64_t>(i);
    return {model_.seed, Step{3}, positions_, ids_, targets_, dropout};
  }

 private:
  const SmallModel& model_;
  std::vector<std::int64_t> positions_;
  std::vector<std::int32_t> ids_, targets_;
};

/// Weights and sums of one slice of the model.
struct Weights {
  Weights(const SmallModel& model, comm::SliceGroup* slices)
      : ops(std::move(kernels::make_cpu_ops(kernels::Isa::automatic)).value()),
        stream(1),
        inventory(model.config, DType::f32, slices == nullptr ? 1 : slices->slices()),
        blocks(inventory.blocks()),
        working(blocks, std::vector<std::int64_t>(inventory.parts().size(), 4)),
        parameters(inventory, working, slices == nullptr ? 0 : slices->slice()) {
    for (std::size_t index = 0; index < inventory.parts().size(); ++index) {
      const spec::PartSpec& part = inventory.parts()[index];
      auto* values = reinterpret_cast<float*>(working.part(static_cast<std::int32_t>(index)));
      for (std::int64_t i = 0; i < part.elems(); ++i)
        values[i] = weight(model, inventory.tensor(part.tensor), part.map.canonical(i));
    }
  }

  std::unique_ptr<kernels::Ops> ops;
  device::CpuStream stream;
  spec::Inventory inventory;
  layout::BlockTable blocks;
  zero::TensorStore working;
  layers::Parameters parameters;
};

/// Sums of this slice's parts, each element in its canonical place, added to `sums`.
void add_parts(const spec::Inventory& inventory, std::int32_t slice, zero::GradSums& store,
               CanonicalSums& sums) {
  for (std::int32_t tensor = 0; tensor < std::ssize(inventory.tensors()); ++tensor) {
    const std::int32_t index = inventory.part_of(tensor, slice);
    const spec::PartSpec& part = inventory.part(index);
    store.settle(index);
    const auto* values = reinterpret_cast<const std::int64_t*>(store.data(index));
    auto& canonical = sums[static_cast<std::size_t>(tensor)];
    for (std::int64_t i = 0; i < part.elems(); ++i)
      canonical[static_cast<std::size_t>(part.map.canonical(i))] += values[i];
  }
}

CanonicalSums no_sums(const spec::Inventory& inventory) {
  CanonicalSums sums;
  for (const spec::TensorSpec& tensor : inventory.tensors())
    sums.emplace_back(static_cast<std::size_t>(tensor.elems()), 0);
  return sums;
}

/// One rank of the pipeline: its chunks, its sums, and what it announced.
class Rank {
 public:
  Rank(const SmallModel& model, const StepPlan& plan, std::int32_t number, Weights& weights,
       comm::SliceGroup* slices)
      : weights_(weights),
        slice_(slices == nullptr ? 0 : slices->slice()),
        samples_(model),
        rate_(model.config.dropout),
        sums_(weights.blocks, zero::SumMode::exact),
        gradients_(weights.inventory, sums_, model.micro_batches, head_addends(model), slice_),
        stage_({.ops = *weights.ops,
                .stream = weights.stream,
                .config = model.config,
                .micro_batch = model.samples,
                .recompute = plan.recompute,
                .loss_chunk_tokens = model.loss_chunk_tokens,
                .slice_group = slices},
               weights.inventory, weights.parameters, gradients_, chunks_of(plan, number),
               hooks()) {
    sums_.begin_step();
  }

  void run(const Task& task) {
    ready_.clear();
    dropout_ = task.evaluate ? 0 : rate_;
    stage_.begin_pass();
    const auto result = stage_.run(task);
    stage_.tell_losses();
    EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().text());
    if (task.action.op != Op::forward) return;
    EXPECT_FALSE(ready_.empty()) << layout::to_text(task.action);
    EXPECT_TRUE(std::is_sorted(ready_.begin(), ready_.end()));
  }

  /// What was announced must have been complete then, and everything must have been announced.
  void finish(CanonicalSums& sums, std::vector<std::pair<std::int32_t, bool>>& announced) {
    CanonicalSums mine = no_sums(weights_.inventory);
    add_parts(weights_.inventory, slice_, sums_, mine);
    for (const Announced& event : announced_) {
      announced.emplace_back(event.layer, event.tied);
      for (std::size_t tensor = 0; tensor < mine.size(); ++tensor) {
        if (!belongs(event.layer, event.tied, tensor)) continue;
        EXPECT_EQ(event.sums[tensor], mine[tensor])
            << "layer " << event.layer << (event.tied ? " (tied)" : "") << " was not complete";
      }
    }
    EXPECT_TRUE(gradients_.bad_tensors().empty());
    add_slice(sums, mine);
  }

  const std::vector<float>& losses() const { return losses_; }
  pipeline::BoundaryShape boundary() const { return stage_.boundary(); }

 private:
  struct Announced {
    std::int32_t layer = 0;
    bool tied = false;
    CanonicalSums sums;
  };

  static std::vector<gpt::StageChunk> chunks_of(const StepPlan& plan, std::int32_t number) {
    std::vector<gpt::StageChunk> chunks;
    for (std::size_t chunk = 0; chunk < plan.cut.size(); ++chunk)
      if (plan.stage_of_chunk[chunk] == number)
        chunks.push_back({plan.cut[chunk], plan.slots[chunk]});
    return chunks;
  }

  /// The tied sums of a rank that has the embedding too go on growing after its head is done.
  bool belongs(std::int32_t layer, bool tied, std::size_t tensor) const {
    if (tied) return tensor == 0 && !has_embedding_;
    return weights_.inventory.tensors()[tensor].layer == layer;
  }

  gpt::StageHooks hooks() {
    return {.batch = [this](std::int32_t micro_batch) -> Result<layers::MicroBatch> {
              return samples_.get(micro_batch, dropout_);
            },
            .ready = [this](std::int32_t layer) -> Result<void> {
              ready_.push_back(layer);
              has_embedding_ = has_embedding_ || layer == 0;
              return {};
            },
            .done = [this](std::int32_t layer, bool tied) -> Result<void> {
              CanonicalSums now = no_sums(weights_.inventory);
              add_parts(weights_.inventory, slice_, sums_, now);
              announced_.push_back({layer, tied, std::move(now)});
              return {};
            },
            .losses =
                [this](std::span<const float> loss_N) {
                  losses_.assign(loss_N.begin(), loss_N.end());
                }};
  }

  Weights& weights_;
  std::int32_t slice_;
  Samples samples_;
  float rate_;
  float dropout_ = 0;
  std::vector<std::int32_t> ready_;
  std::vector<float> losses_;
  std::vector<Announced> announced_;
  bool has_embedding_ = false;
  zero::GradSums sums_;
  layers::Gradients gradients_;
  gpt::Stage stage_;
};

/// A boundary matrix of one (chunk, micro-batch), poisoned until it is written.
layers::Activation poisoned(const pipeline::BoundaryShape& shape) {
  layers::Activation matrix(device::host_device(), shape.rows, shape.cols, shape.dtype);
  std::fill_n(matrix.view().f32(), shape.rows * shape.cols, kNotWritten);
  return matrix;
}

/// Runs a plan over its ranks, handing boundary matrices from chunk to chunk.
class Pipeline {
 public:
  Pipeline(const SmallModel& model, const StepPlan& plan, comm::SliceGroup* slices)
      : model_(model), plan_(plan), weights_(model, slices) {
    const std::int32_t stages =
        1 + *std::max_element(plan.stage_of_chunk.begin(), plan.stage_of_chunk.end());
    for (std::int32_t stage = 0; stage < stages; ++stage)
      ranks_.push_back(std::make_unique<Rank>(model, plan, stage, weights_, slices));
    reset_boundaries();
  }

  StepResult run() {
    StepResult result{.losses = std::vector<std::vector<float>>(micro_batches()),
                      .validation = std::vector<std::vector<float>>(micro_batches()),
                      .sums = no_sums(weights_.inventory)};
    for (const Task& task : plan_.tasks) run_task(task, result.losses);
    std::vector<std::pair<std::int32_t, bool>> announced;
    for (const auto& rank : ranks_) rank->finish(result.sums, announced);
    std::sort(announced.begin(), announced.end());
    std::vector<std::pair<std::int32_t, bool>> expected;
    for (std::int32_t layer = 0; layer < weights_.inventory.layers(); ++layer)
      expected.emplace_back(layer, false);
    expected.emplace_back(weights_.inventory.layers() - 1, true);
    EXPECT_EQ(announced, expected);

    reset_boundaries();
    for (std::int32_t micro_batch = 0; micro_batch < model_.micro_batches; ++micro_batch)
      for (std::int32_t chunk = 0; chunk < chunks(); ++chunk)
        run_task({.action = {Op::forward, chunk, micro_batch}, .evaluate = true},
                 result.validation);
    return result;
  }

 private:
  std::size_t micro_batches() const { return static_cast<std::size_t>(model_.micro_batches); }
  std::int32_t chunks() const { return static_cast<std::int32_t>(plan_.cut.size()); }
  Rank& rank_of(std::int32_t chunk) {
    return *ranks_[static_cast<std::size_t>(plan_.stage_of_chunk[static_cast<std::size_t>(chunk)])];
  }

  void reset_boundaries() {
    inputs_.clear();
    gradients_.clear();
    for (std::size_t i = 0; i < plan_.cut.size() * micro_batches(); ++i)
      inputs_.push_back(poisoned(ranks_.front()->boundary()));
    for (std::size_t i = 0; i < micro_batches(); ++i)
      gradients_.push_back(poisoned(ranks_.front()->boundary()));
  }
  layers::Activation& input(std::int32_t chunk, std::int32_t micro_batch) {
    return inputs_[static_cast<std::size_t>(chunk) * micro_batches() +
                   static_cast<std::size_t>(micro_batch)];
  }

  void run_task(Task task, std::vector<std::vector<float>>& losses) {
    const auto [op, chunk, micro_batch] = task.action;
    const bool last = chunk + 1 == chunks();
    task.input = input(chunk, micro_batch).view();
    if (op == Op::forward && !last) task.output = input(chunk + 1, micro_batch).view();
    if (op == Op::backward || op == Op::input_gradient)
      task.gradient = gradients_[static_cast<std::size_t>(micro_batch)].view();
    rank_of(chunk).run(task);
    if (op == Op::forward && last)
      losses[static_cast<std::size_t>(micro_batch)] = rank_of(chunk).losses();
    // Nobody may read it again: the executor gives the memory away.
    if (op == Op::backward || op == Op::weight_gradient)
      input(chunk, micro_batch) = poisoned(ranks_.front()->boundary());
  }

  const SmallModel& model_;
  const StepPlan& plan_;
  Weights weights_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::vector<layers::Activation> inputs_, gradients_;
};

}  // namespace

StepResult run_step(const SmallModel& model, const StepPlan& plan, comm::SliceGroup* slices) {
  return Pipeline(model, plan, slices).run();
}

StepResult run_whole(const SmallModel& model) {
  Weights weights(model, nullptr);
  Samples samples(model);
  zero::GradSums sums(weights.blocks, zero::SumMode::exact);
  layers::Gradients gradients(weights.inventory, sums, model.micro_batches, head_addends(model));
  gpt::WholeModel whole({.ops = *weights.ops,
                         .stream = weights.stream,
                         .config = model.config,
                         .micro_batch = model.samples,
                         .loss_chunk_tokens = model.loss_chunk_tokens},
                        weights.inventory, weights.parameters, gradients);
  const auto at_once = [](std::int32_t) { return Result<void>(); };
  const auto losses = [&] {
    return std::vector<float>(whole.losses().begin(), whole.losses().end());
  };
  StepResult result{.losses = {}, .validation = {}, .sums = no_sums(weights.inventory)};
  sums.begin_step();
  for (std::int32_t index = 0; index < model.micro_batches; ++index) {
    const layers::MicroBatch batch = samples.get(index, model.config.dropout);
    EXPECT_TRUE(whole.forward(batch, at_once).has_value());
    EXPECT_TRUE(whole.backward(batch, at_once).has_value());
    result.losses.push_back(losses());
  }
  for (std::int32_t index = 0; index < model.micro_batches; ++index) {
    EXPECT_TRUE(whole.evaluate(samples.get(index, 0), at_once).has_value());
    result.validation.push_back(losses());
  }
  add_parts(weights.inventory, 0, sums, result.sums);
  return result;
}

void add_slice(CanonicalSums& sums, const CanonicalSums& slice) {
  for (std::size_t tensor = 0; tensor < sums.size(); ++tensor)
    for (std::size_t i = 0; i < sums[tensor].size(); ++i) sums[tensor][i] += slice[tensor][i];
}

}  // namespace elaswave::test
