// Text token by token against PyTorch's logits and against the stage that trains. Values, formulas
// and the tolerance: tests/reference/pytorch/README.md.
#include "model/gpt/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "io/base/philox.h"
#include "model/gpt/init.h"
#include "model/gpt/whole_model.h"
#include "model/kernels/cpu_ops.h"
#include "tests/reference/pytorch/reference_data.h"

namespace elaswave {
namespace {

using Values = std::vector<double>;
using Ids = std::vector<std::int32_t>;

Result<void> at_once(std::int32_t) {
  return {};
}

/// A model with its weights, a decoder, and a stage for whole samples of one.
class Rig {
 public:
  explicit Rig(const spec::ModelConfig& config, int threads = 2)
      : config_(config),
        ops_(std::move(kernels::make_cpu_ops(kernels::Isa::automatic)).value()),
        stream_(threads),
        inventory_(config_, DType::f32),
        blocks_(inventory_.blocks()),
        working_(blocks_, std::vector<std::int64_t>(inventory_.tensors().size(), 4)),
        parameters_(inventory_, working_),
        decoder_(*ops_, stream_, config_, inventory_, parameters_) {}

  std::span<float> weights(std::int32_t tensor) {
    return {reinterpret_cast<float*>(working_.part(tensor)),
            static_cast<std::size_t>(inventory_.tensor(tensor).elems())};
  }
  const spec::Inventory& inventory() const { return inventory_; }
  gpt::Decoder& decoder() { return decoder_; }

  /// Large enough that a wrong key, position or order shows in the logits.
  void randomize() {
    for (std::int32_t t = 0; t < static_cast<std::int32_t>(inventory_.tensors().size()); ++t) {
      gpt::initial_values(inventory_.tensor(t), config_.layers, 11, 0, weights(t));
      if (inventory_.tensor(t).dims == 2)
        for (float& weight : weights(t)) weight *= 8;
    }
  }

  /// Logits of every position of one sample, by the path that trains.
  Values stage_logits(const Ids& ids) {
    zero::GradSums sums(blocks_, zero::SumMode::exact);
    const layers::Context context{.ops = *ops_,
                                  .stream = stream_,
                                  .config = config_,
                                  .micro_batch = 1,
                                  .loss_chunk_tokens = kernels::kCpuLossChunkTokens};
    layers::Gradients gradients(inventory_, sums, 1, 1);
    gpt::WholeModel model(context, inventory_, parameters_, gradients);
    const std::vector<std::int64_t> positions = {0};
    const Ids targets(ids.size(), 0);
    EXPECT_TRUE(model.evaluate({0, Step{1}, positions, ids, targets, 0}, at_once).has_value());
    std::vector<float> logits(ids.size() * static_cast<std::size_t>(config_.vocab));
    ops_->linear_backward_input(
        stream_, {.dy_ND = model.head_input_NC(),
                  .w_CD = parameters_.matrix(inventory_.wte()),
                  .dx_NC = device::mat(std::span(logits), context.tokens(), config_.vocab)});
    return {logits.begin(), logits.end()};
  }

  /// Appends the ids in the pieces that `next_piece(tokens left)` names; the logits of the last.
  template <typename NextPiece>
  std::span<const float> feed(std::span<const std::int32_t> ids, const NextPiece& next_piece) {
    std::span<const float> logits;
    while (!ids.empty()) {
      const auto piece = static_cast<std::size_t>(next_piece(std::ssize(ids)));
      auto result = decoder_.advance(ids.first(piece));
      EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().text());
      if (!result) return {};
      logits = *result;
      ids = ids.subspan(piece);
    }
    return logits;
  }

 private:
  spec::ModelConfig config_;
  std::unique_ptr<kernels::Ops> ops_;
  device::CpuStream stream_;
  spec::Inventory inventory_;
  layout::BlockTable blocks_;
  zero::TensorStore working_;
  layers::Parameters parameters_;
  gpt::Decoder decoder_;
};

void append(Values& all, std::span<const float> logits) {
  all.insert(all.end(), logits.begin(), logits.end());
}

double relative_difference(const Values& a, const Values& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

class DecoderAgainstPyTorch : public testing::Test {
 protected:
  DecoderAgainstPyTorch()
      : data_(reference::read_reference(ELASWAVE_REFERENCE_FILE).value()),
        rig_({.layers = data_.recipe.layers,
              .heads = data_.recipe.heads,
              .hidden = data_.recipe.hidden,
              .context = data_.recipe.context,
              .vocab = data_.recipe.vocab}),
        logits_(data_.quantities.at("logits")) {
    for (std::int32_t t = 0; t < static_cast<std::int32_t>(data_.weights.size()); ++t) {
      const auto& name = rig_.inventory().tensor(t).name;
      const auto weight = std::find_if(data_.weights.begin(), data_.weights.end(),
                                       [&](const auto& w) { return w.name == name; });
      EXPECT_NE(weight, data_.weights.end()) << name;
      std::copy(weight->values.begin(), weight->values.end(), rig_.weights(t).begin());
    }
  }

  Ids sample(std::int64_t index) const {
    Ids ids;
    for (std::int64_t t = 0; t < data_.recipe.context; ++t)
      ids.push_back(reference::token(data_.recipe, 1, index, t));
    return ids;
  }

  reference::ReferenceData data_;
  Rig rig_;
  const reference::Quantity& logits_;
};

TEST_F(DecoderAgainstPyTorch, token_by_token) {
  Values ours, trained;
  for (std::int64_t index = 0; index < data_.recipe.samples; ++index) {
    const Ids ids = sample(index);
    rig_.decoder().reset();
    for (const std::int32_t id : ids)
      append(ours, rig_.feed(std::span(&id, 1), [](std::int64_t) { return 1; }));
    const Values whole = rig_.stage_logits(ids);
    trained.insert(trained.end(), whole.begin(), whole.end());
  }
  EXPECT_LE(reference::relative_error(logits_, ours), reference::tolerance(logits_));
  // Both are within the tolerance of the same values.
  EXPECT_LE(relative_difference(ours, trained), 2 * reference::tolerance(logits_));
}

TEST_F(DecoderAgainstPyTorch, any_cut_of_any_prefix) {
  Values ours;
  const RandomStream random = random_stream(3, RandomUse::test);
  std::uint64_t word = 0;
  for (std::int64_t index = 0; index < data_.recipe.samples; ++index) {
    const Ids ids = sample(index);
    for (std::size_t length = 1; length <= ids.size(); ++length) {
      rig_.decoder().reset();
      append(ours, rig_.feed(std::span(ids).first(length), [&](std::int64_t left) {
        return 1 + random_word(random, word++) % static_cast<std::uint64_t>(left);
      }));
      EXPECT_EQ(rig_.decoder().position(), static_cast<std::int64_t>(length));
    }
  }
  EXPECT_LE(reference::relative_error(logits_, ours), reference::tolerance(logits_));
  std::printf("campaign: %llu pieces\n", static_cast<unsigned long long>(word));
}

constexpr spec::ModelConfig kLonger = {
    .layers = 2, .heads = 3, .hidden = 24, .context = 150, .vocab = 61};

Ids random_ids(std::int64_t count) {
  const RandomStream random = random_stream(5, RandomUse::test);
  Ids ids;
  for (std::int64_t t = 0; t < count; ++t)
    ids.push_back(static_cast<std::int32_t>(random_word(random, static_cast<std::uint64_t>(t)) %
                                            static_cast<std::uint64_t>(kLonger.vocab)));
  return ids;
}

// More than one chunk of a prompt, and the last position of the context. Tolerance: this model is
// of the size and depth of PyTorch's, whose logits have an f32 error below 5e-7; two f32 paths
// differ by four times that at most (the rule's factor 2, for each).
TEST(Decoder, long_prompts_agree_with_the_stage) {
  constexpr double kTolerance = 4 * 5e-7;
  Rig rig(kLonger);
  rig.randomize();
  const Ids ids = random_ids(kLonger.context);
  const Values whole = rig.stage_logits(ids);
  for (const std::int64_t length : {1, 63, 64, 65, 128, 129, 149, 150})
    for (const std::int64_t first : {1, 64, 70, 150}) {
      rig.decoder().reset();
      Values ours;
      append(ours, rig.feed(std::span(ids).first(static_cast<std::size_t>(length)),
                            [&](std::int64_t left) {
                              return left == length ? std::min(first, left) : left;
                            }));
      const auto end = whole.begin() + length * kLonger.vocab;
      EXPECT_LE(relative_difference(ours, Values(end - kLonger.vocab, end)), kTolerance)
          << length << " tokens, " << first << " first";
      // The test could tell: one position off is far outside.
      if (length > 1) {
        EXPECT_GT(relative_difference(ours, Values(end - 2 * kLonger.vocab, end - kLonger.vocab)),
                  1000 * kTolerance);
      }
    }
}

TEST(Decoder, same_bits_for_any_thread_count_and_after_reset) {
  const Ids ids = random_ids(100);
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 8}) {
    Rig rig(kLonger, threads);
    rig.randomize();
    for (int round = 0; round < 2; ++round) {
      rig.decoder().reset();
      const auto logits = rig.feed(ids, [](std::int64_t left) { return left > 3 ? left - 3 : 1; });
      if (first.empty()) first.assign(logits.begin(), logits.end());
      EXPECT_TRUE(std::equal(first.begin(), first.end(), logits.begin(), logits.end())) << threads;
    }
  }
}

TEST(Decoder, refuses_what_does_not_fit_and_stays_as_it_was) {
  Rig rig(kLonger);
  rig.randomize();
  const Ids ids = random_ids(kLonger.context + 1);
  gpt::Decoder& decoder = rig.decoder();
  const Ids prefix(ids.begin(), ids.begin() + 10);
  ASSERT_TRUE(decoder.advance(prefix).has_value());
  for (const Ids& bad : {Ids{}, Ids{1, kLonger.vocab}, Ids{1, -1}, Ids(141, 0)}) {
    const auto result = decoder.advance(bad);
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Code::usage);
    EXPECT_FALSE(result.error().why.empty() || result.error().fix.empty());
    EXPECT_EQ(decoder.position(), 10);
  }
  const auto after = decoder.advance(std::span(ids).subspan(10, 1));
  ASSERT_TRUE(after.has_value());
  const std::vector<float> kept(after->begin(), after->end());
  decoder.reset();
  ASSERT_TRUE(decoder.advance(prefix).has_value());
  const auto fresh = decoder.advance(std::span(ids).subspan(10, 1));
  ASSERT_TRUE(fresh.has_value());
  EXPECT_TRUE(std::equal(kept.begin(), kept.end(), fresh->begin(), fresh->end()));
}

}  // namespace
}  // namespace elaswave
