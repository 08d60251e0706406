// The program itself with compute that takes modelled time: linked with the linker's --wrap, this
// stands in for make_cpu_ops(), and the attention of every layer sleeps before it computes
// (EMULATED_LAYER_US microseconds a layer and micro-batch, backward twice that). Everything else,
// from the launcher to the recovery, is the program's own; with a tiny model the sleeps are nearly
// all of a step, so that many ranks on few cores behave like a cluster.
#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "model/kernels/cpu_ops.h"

namespace elaswave::kernels {
namespace {

class EmulatedOps final : public Ops {
 public:
  EmulatedOps(std::unique_ptr<Ops> real, std::chrono::microseconds layer)
      : real_(std::move(real)), layer_(layer) {}

  void attention_forward(Stream& stream, const AttentionForward& op) override {
    std::this_thread::sleep_for(layer_);
    real_->attention_forward(stream, op);
  }
  void attention_backward(Stream& stream, const AttentionBackward& op) override {
    std::this_thread::sleep_for(2 * layer_);
    real_->attention_backward(stream, op);
  }

  void embedding_forward(Stream& stream, const EmbeddingForward& op) override {
    real_->embedding_forward(stream, op);
  }
  void embedding_backward(Stream& stream, const EmbeddingBackward& op) override {
    real_->embedding_backward(stream, op);
  }
  void embedding_lookup(Stream& stream, const EmbeddingLookup& op) override {
    real_->embedding_lookup(stream, op);
  }
  void embedding_lookup_backward(Stream& stream, const EmbeddingLookupBackward& op) override {
    real_->embedding_lookup_backward(stream, op);
  }
  void embedding_positions(Stream& stream, const EmbeddingPositions& op) override {
    real_->embedding_positions(stream, op);
  }
  void embedding_positions_backward(Stream& stream, const EmbeddingPositionsBackward& op) override {
    real_->embedding_positions_backward(stream, op);
  }
  void layernorm_forward(Stream& stream, const LayerNormForward& op) override {
    real_->layernorm_forward(stream, op);
  }
  void layernorm_backward(Stream& stream, const LayerNormBackward& op) override {
    real_->layernorm_backward(stream, op);
  }
  void linear_forward(Stream& stream, const LinearForward& op) override {
    real_->linear_forward(stream, op);
  }
  void linear_backward_input(Stream& stream, const LinearBackwardInput& op) override {
    real_->linear_backward_input(stream, op);
  }
  void linear_backward_weight(Stream& stream, const LinearBackwardWeight& op) override {
    real_->linear_backward_weight(stream, op);
  }
  void attention_cached(Stream& stream, const AttentionCached& op) override {
    real_->attention_cached(stream, op);
  }
  void gelu_forward(Stream& stream, const GeluForward& op) override {
    real_->gelu_forward(stream, op);
  }
  void gelu_backward(Stream& stream, const GeluBackward& op) override {
    real_->gelu_backward(stream, op);
  }
  void residual_forward(Stream& stream, const ResidualForward& op) override {
    real_->residual_forward(stream, op);
  }
  void residual_backward(Stream& stream, const ResidualBackward& op) override {
    real_->residual_backward(stream, op);
  }
  void head_loss(Stream& stream, const HeadLoss& op) override { real_->head_loss(stream, op); }
  void head_logits(Stream& stream, const HeadLogits& op) override {
    real_->head_logits(stream, op);
  }
  void head_combine(Stream& stream, const HeadCombine& op) override {
    real_->head_combine(stream, op);
  }
  void head_gradient(Stream& stream, const HeadGradient& op) override {
    real_->head_gradient(stream, op);
  }
  void adamw(Stream& stream, std::span<const AdamW> blocks) override {
    real_->adamw(stream, blocks);
  }
  void mean_gradient(Stream& stream, std::span<const MeanGradient> blocks) override {
    real_->mean_gradient(stream, blocks);
  }
  void store_weights(Stream& stream, std::span<const StoreWeights> blocks) override {
    real_->store_weights(stream, blocks);
  }
  void sum_squares(Stream& stream, std::span<const std::span<const float>> ranges,
                   std::span<double> out) override {
    real_->sum_squares(stream, ranges, out);
  }
  void digest(Stream& stream, std::span<const std::span<const float>> ranges,
              std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) override {
    real_->digest(stream, ranges, keys, out);
  }
  std::string numeric_class() const override { return real_->numeric_class(); }

 private:
  std::unique_ptr<Ops> real_;
  std::chrono::microseconds layer_;
};

}  // namespace

// The linker's names for the two sides of --wrap: what callers of make_cpu_ops() get, and what
// they would have got. The names are make_cpu_ops(Isa) as the ABI of this compiler spells it.
Result<std::unique_ptr<Ops>> real_make_cpu_ops(Isa isa) asm(
    "__real__ZN8elaswave7kernels12make_cpu_opsENS0_3IsaE");
Result<std::unique_ptr<Ops>> wrapped_make_cpu_ops(Isa isa) asm(
    "__wrap__ZN8elaswave7kernels12make_cpu_opsENS0_3IsaE");

Result<std::unique_ptr<Ops>> wrapped_make_cpu_ops(Isa isa) {
  EW_ASSIGN(std::unique_ptr<Ops> real, real_make_cpu_ops(isa));
  const char* text = std::getenv("EMULATED_LAYER_US");
  const std::chrono::microseconds layer(text != nullptr ? std::atoll(text) : 0);
  if (layer.count() <= 0) return real;
  return std::make_unique<EmulatedOps>(std::move(real), layer);
}

}  // namespace elaswave::kernels
