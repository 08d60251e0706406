// What the layers keep between actions and work in, as shapes. The memory model adds them up;
// tests/property/memory_test.cpp compares them with what the layers allocate. Pure.
//
// Rows: N tokens of a micro-batch; a slice's own rows are N / t of them (sequence parallelism: the
// residual stream and what norms write are divided over the slices).
// Columns: C is the width; a slice computes C / t of attention and 4 C / t of the MLP.
// Sizes in bytes are doubles: legal keys can ask for more than 2^63.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/base/types.h"
#include "model/spec/config.h"

namespace elaswave::spec {

/// What forward does not keep but computes again: nothing; the norms and the activation function of
/// each block (cheap for what they take), inside B, I and W; or all of a block, by R.
enum class Recompute : std::uint8_t { none, selective, full };

/// As written in train.recompute.
std::string_view name(Recompute recompute);

/// A row-major matrix of the storage type. A padded one has rows a few elements longer where its
/// width in bytes would be a multiple of a page (layers/activation.h says why).
struct StashMatrix {
  std::int64_t rows = 0, cols = 0;
  bool padded = false;
  bool operator==(const StashMatrix&) const = default;

  /// Elements from one row to the next.
  std::int64_t stride(DType storage) const;
  double size_bytes(DType storage) const;
};

/// The shapes of one micro-batch on one slice.
struct StashShape {
  std::int64_t tokens = 0;    // N
  std::int64_t own_rows = 0;  // of this slice, or of the largest: ceil(N / t)
  std::int64_t slices = 1;    // t
  std::int64_t hidden = 0;    // C
  std::int64_t heads = 0;     // H
  std::int64_t vocab = 0;     // V

  /// Of the largest slice.
  StashShape(const ModelConfig& config, std::int64_t micro_batch, std::int64_t slices);
  StashShape(const ModelConfig& config, std::int64_t micro_batch, std::int64_t slices,
             std::int64_t slice);
};

/// Of one block for one micro-batch, F to B (I, W). Matrices that are not kept have no rows.
struct BlockStashShape {
  StashMatrix ln1, qkv, attention, mid, ln2, fc, act;
  std::int64_t statistics = 0;  // f32: mean and reciprocal deviation of two norms, log-sum-exps

  double size_bytes(DType storage) const;
};
/// Recompute::full keeps the same as none, but only from R on.
BlockStashShape block_stash(const StashShape& shape, Recompute recompute);

/// x of every block of a chunk but its first, whose input is a boundary matrix.
StashMatrix block_input(const StashShape& shape);

/// Of the head for one micro-batch, F to B or I.
struct HeadStashShape {
  StashMatrix x;  // not kept where the input is a boundary matrix: the head is a chunk of its own
  StashMatrix dln;
  std::int64_t statistics = 0;  // f32: mean and reciprocal deviation

  double size_bytes(DType storage) const;
};
enum class HeadInput : std::uint8_t { own, boundary };
HeadStashShape head_stash(const StashShape& shape, HeadInput input);

/// Output gradients of a block's four products, I to W.
struct WeightStashShape {
  StashMatrix qkv, attn_proj, fc, mlp_proj;

  double size_bytes(DType storage) const;
};
WeightStashShape weight_stash(const StashShape& shape);

/// Kinds of layers on a rank.
struct LayerKinds {
  bool embedding = false, blocks = false, head = false;
};

/// Memory that one call at a time works in, one for all layers of a rank.
struct ScratchShape {
  StashMatrix branch, norm, wide;
  StashMatrix act;              // selective: what is computed again
  StashMatrix term;             // f32, where storage is not: of a sum over slices
  std::int64_t statistics = 0;  // f32: losses of the tokens

  double size_bytes(DType storage) const;
};
ScratchShape layer_scratch(const StashShape& shape, Recompute recompute, const LayerKinds& kinds);

/// Elements of the stored operands of the call that has most of them, padding left out.
double widened_elems(const StashShape& shape, const LayerKinds& kinds,
                     std::int64_t loss_chunk_tokens);

/// Elements from one row of logits to the next, as kernels want them (kernels::logits_stride).
constexpr std::int64_t logits_stride(std::int64_t vocab) {
  const std::int64_t stride = round_up(vocab, 16);
  return stride % 1024 == 0 ? stride + 16 : stride;
}

/// Of the head on a slice of the vocabulary, for one chunk of tokens; nothing with one slice, whose
/// logits are the kernels' own scratch.
struct SlicedHeadShape {
  StashMatrix logits;           // f32
  std::int64_t statistics = 0;  // f32: three numbers a token, own, everyone's and their sum

  double size_bytes() const;
};
SlicedHeadShape sliced_head(const StashShape& shape, std::int64_t loss_chunk_tokens);

}  // namespace elaswave::spec
