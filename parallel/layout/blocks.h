// Canonical parts and blocks. A *part* is a tensor, or one tensor-parallel slice of it: what one
// rank holds as one dense array. Every part is cut into fixed-size blocks from its own start; a
// block is the unit of ownership, backup and movement. Pure index math.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace elaswave::layout {

/// 64 KiB of f32: small enough to deal a layer evenly over many replicas, large enough to send and
/// digest at speed. Part of the state digest's definition.
inline constexpr std::int64_t kBlockElems = 16384;

/// A part as layout sees it. Parts are numbered by their place in the inventory and ordered by
/// layer.
struct PartExtent {
  std::int32_t layer = 0;  // home
  std::int64_t elems = 0;
  std::int32_t slice = -1;       // the slice that holds it; -1: every slice holds all of it
  std::int32_t tied_layer = -1;  // also adds to its gradient and reads its weights; -1: none
};

struct Block {
  std::int32_t part = 0;
  std::int32_t layer = 0;
  std::int64_t begin = 0;  // first element, from the start of the part
  std::int64_t elems = 0;
};

/// All blocks in order of (layer, part, begin).
class BlockTable {
 public:
  BlockTable() = default;
  /// REQUIRES: parts ordered by layer, layers numbered from 0 without gaps, every part non-empty.
  explicit BlockTable(std::vector<PartExtent> parts);

  std::int64_t count() const { return static_cast<std::int64_t>(blocks_.size()); }
  std::int32_t layers() const { return static_cast<std::int32_t>(layer_begin_.size()) - 1; }
  std::int32_t parts() const { return static_cast<std::int32_t>(parts_.size()); }
  const PartExtent& part(std::int32_t index) const {
    return parts_[static_cast<std::size_t>(index)];
  }
  const Block& block(std::int64_t index) const { return blocks_[static_cast<std::size_t>(index)]; }

  /// Blocks of one layer: indices [layer_begin(l), layer_begin(l + 1)).
  std::int64_t layer_begin(std::int32_t layer) const {
    return layer_begin_[static_cast<std::size_t>(layer)];
  }
  /// Blocks of one part: indices [part_begin(p), part_begin(p + 1)).
  std::int64_t part_begin(std::int32_t part) const {
    return part_begin_[static_cast<std::size_t>(part)];
  }

  std::int64_t total_elems() const;

 private:
  std::vector<PartExtent> parts_;
  std::vector<Block> blocks_;
  std::vector<std::int64_t> layer_begin_, part_begin_;
};

}  // namespace elaswave::layout
