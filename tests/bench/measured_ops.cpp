#include "tests/bench/measured_ops.h"

namespace elaswave::bench {

using namespace kernels;  // NOLINT(google-build-using-namespace): every operation is named here

void MeasuredOps::measure(const std::string& operation, bool sink, const Cost& cost,
                          std::int64_t counted, const std::function<void()>& call) {
  const std::string text = operation + " " + cost.shape;
  if (!parts_.filter.wants(text, sink)) {
    call();
    return;
  }
  const auto [found, added] = known_.try_emplace(text, list_.size());
  if (!added) {
    list_[found->second].calls += counted;
    call();
    return;
  }
  Measurement made{operation, cost, parts_.timer.seconds(parts_.rounds, call), counted};
  if (parts_.listener) parts_.listener(made);
  list_.push_back(std::move(made));
}

template <typename Args>
void MeasuredOps::measured(std::string operation, Stream& stream,
                           void (Ops::*function)(Stream&, const Args&), const Args& args) {
  measure(operation, has_sink<Args>(), cost_of(args), 1,
          [&] { (parts_.ops.*function)(stream, args); });
}

void MeasuredOps::embedding_forward(Stream& stream, const EmbeddingForward& args) {
  measured("embedding forward", stream, &Ops::embedding_forward, args);
}
void MeasuredOps::embedding_backward(Stream& stream, const EmbeddingBackward& args) {
  measured("embedding backward", stream, &Ops::embedding_backward, args);
}
void MeasuredOps::embedding_lookup(Stream& stream, const EmbeddingLookup& args) {
  measured("embedding lookup", stream, &Ops::embedding_lookup, args);
}
void MeasuredOps::embedding_lookup_backward(Stream& stream, const EmbeddingLookupBackward& args) {
  measured("embedding lookup backward", stream, &Ops::embedding_lookup_backward, args);
}
void MeasuredOps::embedding_positions(Stream& stream, const EmbeddingPositions& args) {
  measured("embedding positions", stream, &Ops::embedding_positions, args);
}
void MeasuredOps::embedding_positions_backward(Stream& stream,
                                               const EmbeddingPositionsBackward& args) {
  measured("embedding positions backward", stream, &Ops::embedding_positions_backward, args);
}
void MeasuredOps::layernorm_forward(Stream& stream, const LayerNormForward& args) {
  measured("layer norm forward", stream, &Ops::layernorm_forward, args);
}
void MeasuredOps::layernorm_backward(Stream& stream, const LayerNormBackward& args) {
  measured("layer norm backward", stream, &Ops::layernorm_backward, args);
}
void MeasuredOps::linear_forward(Stream& stream, const LinearForward& args) {
  measured("linear forward", stream, &Ops::linear_forward, args);
}
void MeasuredOps::linear_backward_input(Stream& stream, const LinearBackwardInput& args) {
  measured("linear backward input", stream, &Ops::linear_backward_input, args);
}
void MeasuredOps::linear_backward_weight(Stream& stream, const LinearBackwardWeight& args) {
  measured("linear backward weight", stream, &Ops::linear_backward_weight, args);
}
void MeasuredOps::attention_forward(Stream& stream, const AttentionForward& args) {
  if (parts_.plain_attention != nullptr)
    measure("attention forward, plain kernel", false, cost_of(args), 0,
            [&] { parts_.plain_attention->attention_forward(stream, args); });
  measured("attention forward", stream, &Ops::attention_forward, args);
}
void MeasuredOps::attention_backward(Stream& stream, const AttentionBackward& args) {
  if (parts_.plain_attention != nullptr)
    measure("attention backward, plain kernel", false, cost_of(args), 0,
            [&] { parts_.plain_attention->attention_backward(stream, args); });
  measured("attention backward", stream, &Ops::attention_backward, args);
}
void MeasuredOps::attention_cached(Stream& stream, const AttentionCached& args) {
  measured("attention with a cache", stream, &Ops::attention_cached, args);
}
void MeasuredOps::gelu_forward(Stream& stream, const GeluForward& args) {
  measured("GELU forward", stream, &Ops::gelu_forward, args);
}
void MeasuredOps::gelu_backward(Stream& stream, const GeluBackward& args) {
  measured("GELU backward", stream, &Ops::gelu_backward, args);
}
void MeasuredOps::residual_forward(Stream& stream, const ResidualForward& args) {
  measured("residual forward", stream, &Ops::residual_forward, args);
}
void MeasuredOps::residual_backward(Stream& stream, const ResidualBackward& args) {
  measured("residual backward", stream, &Ops::residual_backward, args);
}
void MeasuredOps::head_loss(Stream& stream, const HeadLoss& args) {
  measured("head and loss", stream, &Ops::head_loss, args);
}
void MeasuredOps::head_logits(Stream& stream, const HeadLogits& args) {
  measured("head logits", stream, &Ops::head_logits, args);
}
void MeasuredOps::head_combine(Stream& stream, const HeadCombine& args) {
  measured("head combine", stream, &Ops::head_combine, args);
}
void MeasuredOps::head_gradient(Stream& stream, const HeadGradient& args) {
  measured("head gradient", stream, &Ops::head_gradient, args);
}

void MeasuredOps::adamw(Stream& stream, std::span<const AdamW> blocks) {
  measure("AdamW", false, cost_of(blocks), 1, [&] { parts_.ops.adamw(stream, blocks); });
}
void MeasuredOps::mean_gradient(Stream& stream, std::span<const MeanGradient> blocks) {
  measure("mean gradient", false, cost_of(blocks), 1,
          [&] { parts_.ops.mean_gradient(stream, blocks); });
}
void MeasuredOps::store_weights(Stream& stream, std::span<const StoreWeights> blocks) {
  measure("store weights", false, cost_of(blocks), 1,
          [&] { parts_.ops.store_weights(stream, blocks); });
}
void MeasuredOps::sum_squares(Stream& stream, std::span<const std::span<const float>> ranges,
                              std::span<double> out) {
  measure("sum of squares", false, cost_of(ranges), 1,
          [&] { parts_.ops.sum_squares(stream, ranges, out); });
}
void MeasuredOps::digest(Stream& stream, std::span<const std::span<const float>> ranges,
                         std::span<const std::uint64_t> keys, std::span<std::uint64_t> out) {
  measure("digest", false, cost_of(ranges), 1,
          [&] { parts_.ops.digest(stream, ranges, keys, out); });
}

}  // namespace elaswave::bench
