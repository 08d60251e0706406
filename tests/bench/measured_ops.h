// Operations that are timed where they are called: whatever runs on these is measured at its own
// shapes, strides and types, without a list of them that could be wrong. A call like none before is
// run several times with the device's cache cleared before each; every call is counted. What
// operations compute is that of the real ones, run again on what they left: for measuring alone.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/ceilings.h"
#include "tests/bench/kernel_costs.h"

namespace elaswave::bench {

struct Measurement {
  std::string operation;
  Cost cost;
  double seconds = 0;  // median
  std::int64_t calls = 0;
};

/// What is measured: operations whose name and shape have both parts; empty parts are in all.
struct MeasureFilter {
  std::string part, other_part;
  bool sinks_alone = false;  // operations that add to sums of gradients
  bool wants(const std::string& text, bool sink) const {
    return text.find(part) != std::string::npos && text.find(other_part) != std::string::npos &&
           (sink || !sinks_alone);
  }
};

/// Told each new measurement when it is made.
using MeasureListener = std::function<void(const Measurement&)>;

/// THREADS: the stream's. References must outlive it.
class MeasuredOps final : public kernels::Ops {
 public:
  struct Parts {
    kernels::Ops& ops;
    kernels::Ops* plain_attention = nullptr;  // measured beside the other, if given
    ColdTimer& timer;
    int rounds = 5;
    MeasureFilter filter;
    MeasureListener listener;
  };
  explicit MeasuredOps(Parts parts) : parts_(std::move(parts)) {}

  /// In the order in which they came first.
  const std::vector<Measurement>& measurements() const { return list_; }

  /// A call of anything on the stream, measured as operations are. `sink`: adds to sums of
  /// gradients; `counted`: 1, or 0 for what is measured beside a call.
  void measure(const std::string& operation, bool sink, const Cost& cost, std::int64_t counted,
               const std::function<void()>& call);

  using Stream = kernels::Stream;
  void embedding_forward(Stream&, const kernels::EmbeddingForward&) override;
  void embedding_backward(Stream&, const kernels::EmbeddingBackward&) override;
  void embedding_lookup(Stream&, const kernels::EmbeddingLookup&) override;
  void embedding_lookup_backward(Stream&, const kernels::EmbeddingLookupBackward&) override;
  void embedding_positions(Stream&, const kernels::EmbeddingPositions&) override;
  void embedding_positions_backward(Stream&, const kernels::EmbeddingPositionsBackward&) override;
  void layernorm_forward(Stream&, const kernels::LayerNormForward&) override;
  void layernorm_backward(Stream&, const kernels::LayerNormBackward&) override;
  void linear_forward(Stream&, const kernels::LinearForward&) override;
  void linear_backward_input(Stream&, const kernels::LinearBackwardInput&) override;
  void linear_backward_weight(Stream&, const kernels::LinearBackwardWeight&) override;
  void attention_forward(Stream&, const kernels::AttentionForward&) override;
  void attention_backward(Stream&, const kernels::AttentionBackward&) override;
  void attention_cached(Stream&, const kernels::AttentionCached&) override;
  void gelu_forward(Stream&, const kernels::GeluForward&) override;
  void gelu_backward(Stream&, const kernels::GeluBackward&) override;
  void residual_forward(Stream&, const kernels::ResidualForward&) override;
  void residual_backward(Stream&, const kernels::ResidualBackward&) override;
  void head_loss(Stream&, const kernels::HeadLoss&) override;
  void head_logits(Stream&, const kernels::HeadLogits&) override;
  void head_combine(Stream&, const kernels::HeadCombine&) override;
  void head_gradient(Stream&, const kernels::HeadGradient&) override;
  void adamw(Stream&, std::span<const kernels::AdamW>) override;
  void mean_gradient(Stream&, std::span<const kernels::MeanGradient>) override;
  void store_weights(Stream&, std::span<const kernels::StoreWeights>) override;
  void sum_squares(Stream&, std::span<const std::span<const float>> ranges,
                   std::span<double> out) override;
  void digest(Stream&, std::span<const std::span<const float>> ranges,
              std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) override;
  std::string numeric_class() const override { return parts_.ops.numeric_class(); }

 private:
  template <typename Args>
  void measured(std::string operation, Stream& stream,
                void (kernels::Ops::*function)(Stream&, const Args&), const Args& args);

  Parts parts_;
  std::vector<Measurement> list_;
  std::map<std::string, std::size_t> known_;
};

}  // namespace elaswave::bench
