// Canonical blocks: every tensor is cut into fixed-size ranges from its own start. A block is the
// unit of ownership, backup, digest and movement. Pure index math.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace elaswave::layout {

/// 64 KiB of f32: small enough to deal a layer evenly over many replicas, large enough to send and
/// digest at speed. Part of the state digest's definition.
inline constexpr std::int64_t kBlockElems = 16384;

/// A tensor as layout sees it. Tensors are numbered by their place in the inventory and ordered by
/// layer.
struct TensorExtent {
  std::int32_t layer = 0;
  std::int64_t elems = 0;
};

struct Block {
  std::int32_t tensor = 0;
  std::int32_t layer = 0;
  std::int64_t begin = 0;  // first element, from the start of the tensor
  std::int64_t elems = 0;
};

/// All blocks in order of (layer, tensor, begin).
class BlockTable {
 public:
  BlockTable() = default;
  /// REQUIRES: tensors ordered by layer, layers numbered from 0 without gaps, every tensor
  /// non-empty.
  explicit BlockTable(std::vector<TensorExtent> tensors);

  std::int64_t count() const { return static_cast<std::int64_t>(blocks_.size()); }
  std::int32_t layers() const { return static_cast<std::int32_t>(layer_begin_.size()) - 1; }
  std::int32_t tensors() const { return static_cast<std::int32_t>(tensors_.size()); }
  const TensorExtent& tensor(std::int32_t index) const {
    return tensors_[static_cast<std::size_t>(index)];
  }
  const Block& block(std::int64_t index) const { return blocks_[static_cast<std::size_t>(index)]; }

  /// Blocks of one layer: indices [layer_begin(l), layer_begin(l + 1)).
  std::int64_t layer_begin(std::int32_t layer) const {
    return layer_begin_[static_cast<std::size_t>(layer)];
  }

  std::int64_t total_elems() const;

 private:
  std::vector<TensorExtent> tensors_;
  std::vector<Block> blocks_;
  std::vector<std::int64_t> layer_begin_;
};

}  // namespace elaswave::layout
