// The model against PyTorch: logits, loss and every gradient of step 1, loss and gradient norms of
// 20 steps. Values, formulas and the derivation of the tolerance:
// tests/reference/pytorch/README.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "elastic/plan/healthy.h"
#include "io/base/philox.h"
#include "model/gpt/init.h"
#include "model/gpt/whole_model.h"
#include "model/kernels/cpu_ops.h"
#include "model/optim/update.h"
#include "tests/reference/pytorch/reference_data.h"

namespace elaswave {
namespace {

using reference::Quantity;
using reference::ReferenceData;

/// One rank that holds the whole model, driven step by step with the reference's weights and
/// tokens.
class Rig {
 public:
  Rig(const ReferenceData& data, DType storage)
      : recipe_(data.recipe),
        config_{.layers = recipe_.layers,
                .heads = recipe_.heads,
                .hidden = recipe_.hidden,
                .context = recipe_.context,
                .vocab = recipe_.vocab,
                .dropout = 0},
        ops_(std::move(kernels::make_cpu_ops(kernels::Isa::automatic)).value()),
        stream_(2),
        inventory_(config_, storage),
        blocks_(inventory_.blocks()),
        plan_(plan::healthy_plan(blocks_, 1, 3, Generation{0}).value()),
        shard_(blocks_, plan_, 0),
        owned_(blocks_, shard_, stream_),
        working_(blocks_, stored_bytes(inventory_)),
        sums_(blocks_, zero::SumMode::exact),
        context_{.ops = *ops_,
                 .stream = stream_,
                 .config = config_,
                 .micro_batch = recipe_.micro_batch,
                 .storage = storage,
                 .loss_chunk_tokens = kernels::kCpuLossChunkTokens},
        parameters_(inventory_, working_),
        gradients_(inventory_, sums_, recipe_.samples / recipe_.micro_batch,
                   kernels::loss_contributions(context_.tokens(), kernels::kCpuLossChunkTokens)),
        stage_(context_, inventory_, parameters_, gradients_) {
    load(data);
  }

  /// Forward and backward of all micro-batches of `step`; mean gradients end in the shard's log.
  void compute(std::int64_t step) {
    vote_ = {};
    token_losses_.clear();
    sums_.begin_step();
    const std::int64_t micro_batches = recipe_.samples / recipe_.micro_batch;
    for (std::int64_t index = 0; index < micro_batches; ++index) {
      const layers::MicroBatch batch = micro_batch(step, index);
      ASSERT_TRUE(stage_.forward(batch, [](std::int32_t) { return Result<void>{}; }).has_value());
      ASSERT_TRUE(stage_.backward(batch, [](std::int32_t) { return Result<void>{}; }).has_value());
      ASSERT_TRUE(gpt::add_losses(stage_.losses(), vote_.loss));
      vote_.tokens += context_.tokens();
      token_losses_.insert(token_losses_.end(), stage_.losses().begin(), stage_.losses().end());
    }
    ASSERT_TRUE(gradients_.bad_tensors().empty());
    optim::log_gradients(machine(), blocks_, shard_, owned_, sums_, micro_batches, vote_);
  }

  optim::CommitRecord update(std::int64_t step) {
    const optim::AdamWConfig adamw{
        .lr = {.schedule = optim::LrSchedule::constant, .peak = recipe_.lr},
        .beta1 = recipe_.beta1,
        .beta2 = recipe_.beta2,
        .epsilon = recipe_.epsilon,
        .weight_decay = recipe_.weight_decay,
        .clip = recipe_.clip};
    const optim::CommitRecord record =
        optim::decide(vote_, {Step{step}, Generation{0}}, step - 1, 0, adamw);
    optim::apply(machine(), inventory_, blocks_, shard_, owned_, {}, record, working_);
    return record;
  }

  /// Mean gradient of one tensor.
  std::vector<double> gradient(const std::string& name) {
    std::vector<double> values;
    for (const zero::HeldBlock& owned : shard_.owned()) {
      if (inventory_.tensor(blocks_.block(owned.block).part).name != name) continue;
      const std::span<float> log = shard_.log(owned);
      values.insert(values.end(), log.begin(), log.end());
    }
    return values;
  }

  /// Logits of all samples of `step`: the head's input times the tied embedding.
  std::vector<double> logits(std::int64_t step) {
    std::vector<double> all;
    std::vector<float> chunk(static_cast<std::size_t>(context_.tokens() * recipe_.vocab));
    for (std::int64_t index = 0; index < recipe_.samples / recipe_.micro_batch; ++index) {
      const layers::MicroBatch batch = micro_batch(step, index);
      EXPECT_TRUE(stage_.evaluate(batch, [](std::int32_t) { return Result<void>{}; }).has_value());
      ops_->linear_backward_input(
          stream_, {.dy_ND = stage_.head_input_NC(),
                    .w_CD = parameters_.matrix(inventory_.wte()),
                    .dx_NC = device::mat(std::span(chunk), context_.tokens(), recipe_.vocab)});
      all.insert(all.end(), chunk.begin(), chunk.end());
    }
    return all;
  }

  const std::vector<double>& token_losses() const { return token_losses_; }
  const spec::Inventory& inventory() const { return inventory_; }
  const reference::Recipe& recipe() const { return recipe_; }

 private:
  static std::vector<std::int64_t> stored_bytes(const spec::Inventory& inventory) {
    std::vector<std::int64_t> bytes;
    for (const spec::TensorSpec& tensor : inventory.tensors())
      bytes.push_back(size_bytes(tensor.storage));
    return bytes;
  }
  kernels::Machine machine() { return kernels::host_machine(*ops_, stream_); }
  void load(const ReferenceData& data) {
    for (const zero::HeldBlock& owned : shard_.owned()) {
      const layout::Block& block = blocks_.block(owned.block);
      const spec::TensorSpec& tensor = inventory_.tensor(block.part);
      const auto weight =
          std::find_if(data.weights.begin(), data.weights.end(),
                       [&](const reference::Weight& w) { return w.name == tensor.name; });
      ASSERT_NE(weight, data.weights.end()) << tensor.name;
      ASSERT_EQ(static_cast<std::int64_t>(weight->values.size()), tensor.elems()) << tensor.name;
      std::copy_n(weight->values.begin() + block.begin, block.elems, shard_.master(owned).begin());
    }
    optim::store_weights(machine(), inventory_, blocks_, shard_, owned_, working_);
  }

  layers::MicroBatch micro_batch(std::int64_t step, std::int64_t index) {
    ids_.clear();
    targets_.clear();
    for (std::int64_t slot = 0; slot < recipe_.micro_batch; ++slot)
      for (std::int64_t t = 0; t < recipe_.context; ++t) {
        const std::int64_t sample = index * recipe_.micro_batch + slot;
        ids_.push_back(reference::token(recipe_, step, sample, t));
        targets_.push_back(reference::token(recipe_, step, sample, t + 1));
      }
    positions_.assign(static_cast<std::size_t>(recipe_.micro_batch), 0);
    return {0, Step{step}, positions_, ids_, targets_, 0};
  }

  reference::Recipe recipe_;
  spec::ModelConfig config_;
  std::unique_ptr<kernels::Ops> ops_;
  device::CpuStream stream_;
  spec::Inventory inventory_;
  layout::BlockTable blocks_;
  layout::Plan plan_;
  zero::Shard shard_;
  optim::OwnedState owned_;
  zero::TensorStore working_;
  zero::GradSums sums_;
  layers::Context context_;
  layers::Parameters parameters_;
  layers::Gradients gradients_;
  gpt::WholeModel stage_;
  optim::CommitVote vote_;
  std::vector<double> token_losses_;
  std::vector<std::int32_t> ids_, targets_;
  std::vector<std::int64_t> positions_;
};

/// In both storage types. With bf16, what is stored is rounded by up to 2^-9 of itself instead of
/// 2^-24, and errors are linear in that: 2^15 times as large at most, since sums stay in f32. The
/// weights, exact in f32, are rounded, too: each product of two rounded numbers instead of one,
/// another factor of 2.
class PyTorch : public testing::TestWithParam<DType> {
 protected:
  PyTorch()
      : data_(reference::read_reference(ELASWAVE_REFERENCE_FILE).value()),
        rig_(data_, GetParam()) {}
  static double factor() { return GetParam() == DType::f32 ? 1 : 0x1p16; }

  void expect_close(const std::string& name, const std::vector<double>& ours) {
    const Quantity& quantity = data_.quantities.at(name);
    ASSERT_EQ(static_cast<std::int64_t>(ours.size()), quantity.elems()) << name;
    const double error = reference::relative_error(quantity, ours);
    EXPECT_LE(error, factor() * reference::tolerance(quantity)) << name;
    largest_ = std::max(largest_, error);
  }
  void expect_close_at(const std::string& name, std::int64_t step, double ours) {
    const Quantity& quantity = data_.quantities.at(name);
    const double expected = quantity.f64.at(static_cast<std::size_t>(step - 1));
    EXPECT_LE(std::abs(ours - expected) / std::abs(expected),
              factor() * reference::tolerance(quantity, step - 1))
        << name << " step " << step << ": " << ours << ", PyTorch " << expected;
  }

  ReferenceData data_;
  Rig rig_;
  double largest_ = 0;  // error
};
INSTANTIATE_TEST_SUITE_P(Storage, PyTorch, testing::Values(DType::f32, DType::bf16),
                         [](const testing::TestParamInfo<DType>& i) {
                           return std::string(name(i.param));
                         });

TEST_P(PyTorch, Logits) {
  expect_close("logits", rig_.logits(1));
  if (GetParam() == DType::bf16) {
    EXPECT_GT(largest_, 0x1p-12);  // or nothing was rounded
  }
}

TEST_P(PyTorch, FirstStepLossAndEveryGradient) {
  rig_.compute(1);
  const optim::CommitRecord record = rig_.update(1);
  expect_close("token_loss", rig_.token_losses());
  expect_close("loss", {record.loss});
  std::size_t compared = 0;
  for (const spec::TensorSpec& tensor : rig_.inventory().tensors()) {
    expect_close("grad/" + tensor.name, rig_.gradient(tensor.name));
    ++compared;
  }
  EXPECT_EQ(compared, data_.weights.size());
}

TEST_P(PyTorch, TwentyStepsOfTraining) {
  for (std::int64_t step = 1; step <= rig_.recipe().steps; ++step) {
    rig_.compute(step);
    for (const spec::TensorSpec& tensor : rig_.inventory().tensors()) {
      double squares = 0;
      for (const double g : rig_.gradient(tensor.name)) squares += g * g;
      expect_close_at("curve/grad_norm/" + tensor.name, step, std::sqrt(squares));
    }
    const optim::CommitRecord record = rig_.update(step);
    expect_close_at("curve/loss", step, record.loss);
    expect_close_at("curve/grad_norm", step, record.grad_norm);
  }
}

}  // namespace
}  // namespace elaswave
