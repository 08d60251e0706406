#include "model/spec/stash.h"

#include <algorithm>
#include <initializer_list>

namespace elaswave::spec {
namespace {

constexpr std::int64_t kPageBytes = 4096;
constexpr std::int64_t kPadElems = 16;  // a cache line of f32
constexpr double kFloat = sizeof(float);

double total(std::initializer_list<StashMatrix> matrices, std::int64_t statistics, DType storage) {
  double bytes = kFloat * static_cast<double>(statistics);
  for (const StashMatrix& matrix : matrices) bytes += matrix.size_bytes(storage);
  return bytes;
}

}  // namespace

std::string_view name(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
      return "none";
    case Recompute::selective:
      return "selective";
    case Recompute::full:
      return "full";
  }
  return "";
}

std::int64_t StashMatrix::stride(DType storage) const {
  const bool meets = cols * elaswave::size_bytes(storage) % kPageBytes == 0;
  return padded && meets ? cols + kPadElems : cols;
}

double StashMatrix::size_bytes(DType storage) const {
  return static_cast<double>(rows) * static_cast<double>(stride(storage)) *
         static_cast<double>(elaswave::size_bytes(storage));
}

StashShape::StashShape(const ModelConfig& config, std::int64_t micro_batch, std::int64_t degree)
    : tokens(micro_batch * config.context),
      own_rows(ceil_div(tokens, degree)),
      slices(degree),
      hidden(config.hidden),
      heads(config.heads),
      vocab(config.vocab) {}

StashShape::StashShape(const ModelConfig& config, std::int64_t micro_batch, std::int64_t degree,
                       std::int64_t slice)
    : StashShape(config, micro_batch, degree) {
  own_rows = tokens * (slice + 1) / slices - tokens * slice / slices;
}

BlockStashShape block_stash(const StashShape& shape, Recompute recompute) {
  const std::int64_t N = shape.tokens, C = shape.hidden, t = shape.slices;
  BlockStashShape stash{.ln1 = {shape.own_rows, C},
                        .qkv = {N, 3 * C / t, true},
                        .attention = {N, C / t},
                        .mid = {shape.own_rows, C},
                        .ln2 = {shape.own_rows, C},
                        .fc = {N, 4 * C / t, true},
                        .act = {N, 4 * C / t, true},
                        .statistics = 4 * shape.own_rows + N * (shape.heads / t)};
  if (recompute == Recompute::selective)
    for (StashMatrix* dropped : {&stash.ln1, &stash.ln2, &stash.act}) dropped->rows = 0;
  return stash;
}

double BlockStashShape::size_bytes(DType storage) const {
  return total({ln1, qkv, attention, mid, ln2, fc, act}, statistics, storage);
}

StashMatrix block_input(const StashShape& shape) {
  return {shape.own_rows, shape.hidden};
}

HeadStashShape head_stash(const StashShape& shape, HeadInput input) {
  return {.x = {input == HeadInput::own ? shape.own_rows : 0, shape.hidden},
          .dln = {shape.own_rows, shape.hidden},
          .statistics = 2 * shape.own_rows};
}

double HeadStashShape::size_bytes(DType storage) const {
  return total({x, dln}, statistics, storage);
}

WeightStashShape weight_stash(const StashShape& shape) {
  const std::int64_t N = shape.tokens, C = shape.hidden, t = shape.slices;
  return {.qkv = {N, 3 * C / t, true},
          .attn_proj = {N, C},
          .fc = {N, 4 * C / t, true},
          .mlp_proj = {N, C}};
}

double WeightStashShape::size_bytes(DType storage) const {
  return total({qkv, attn_proj, fc, mlp_proj}, 0, storage);
}

ScratchShape layer_scratch(const StashShape& shape, Recompute recompute, const LayerKinds& kinds) {
  const std::int64_t N = shape.tokens, C = shape.hidden, t = shape.slices;
  const bool any = kinds.blocks || kinds.head;
  const bool again = kinds.blocks && recompute == Recompute::selective;
  // With slices the embedding, too, sums over them.
  return {.branch = {any || t > 1 ? N : 0, C},
          .norm = {any ? N : 0, C},
          .wide = {kinds.blocks ? N : 0, 4 * C / t, true},
          .act = {again ? N : 0, 4 * C / t, true},
          .term = {t > 1 ? N : 0, C},
          .statistics = kinds.head ? N : 0};
}

double ScratchShape::size_bytes(DType storage) const {
  return total({branch, norm, wide, act}, statistics, storage) +
         (storage == DType::f32 ? 0 : term.size_bytes(DType::f32));
}

double widened_elems(const StashShape& shape, const LayerKinds& kinds,
                     std::int64_t loss_chunk_tokens) {
  const auto t = static_cast<double>(shape.slices), C = static_cast<double>(shape.hidden);
  const auto N = static_cast<double>(shape.tokens), V = static_cast<double>(shape.vocab);
  // The embedding: its rows, and as many of positions at most.
  double most = 3 * static_cast<double>(shape.own_rows) * C;
  if (kinds.blocks) {
    const double wide = 4 * C / t;
    most = std::max(most, N * C + C * wide + 2 * N * wide);  // back through a product and GELU
  }
  if (kinds.head) {  // with slices a chunk at a time, and the term of dx is f32
    const double rows =
        shape.slices > 1 ? std::min(N, static_cast<double>(loss_chunk_tokens)) : 2 * N;
    most = std::max(most, rows * C + V / t * C);
  }
  return most;
}

SlicedHeadShape sliced_head(const StashShape& shape, std::int64_t loss_chunk_tokens) {
  if (shape.slices == 1) return {};
  const std::int64_t tokens = std::min(shape.tokens, loss_chunk_tokens);
  return {.logits = {tokens, logits_stride(ceil_div(shape.vocab, shape.slices))},
          .statistics = 3 * (shape.slices + 2) * tokens};
}

double SlicedHeadShape::size_bytes() const {
  return total({logits}, statistics, DType::f32);
}

}  // namespace elaswave::spec
