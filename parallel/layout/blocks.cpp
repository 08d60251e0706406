#include "parallel/layout/blocks.h"

#include <algorithm>

#include "io/base/error.h"

namespace elaswave::layout {

BlockTable::BlockTable(std::vector<PartExtent> parts) : parts_(std::move(parts)) {
  layer_begin_.push_back(0);
  std::int32_t layer = 0;
  for (std::int32_t index = 0; index < this->parts(); ++index) {
    const PartExtent& extent = part(index);
    EW_CHECK(extent.elems > 0, "part {} has {} elements", index, extent.elems);
    EW_CHECK(extent.layer == layer || extent.layer == layer + 1,
             "part {} of layer {} after layer {}", index, extent.layer, layer);
    if (extent.layer != layer) {
      layer_begin_.push_back(count());
      layer = extent.layer;
    }
    part_begin_.push_back(count());
    for (std::int64_t begin = 0; begin < extent.elems; begin += kBlockElems)
      blocks_.push_back({index, layer, begin, std::min(kBlockElems, extent.elems - begin)});
  }
  layer_begin_.push_back(count());
  part_begin_.push_back(count());
}

std::int64_t BlockTable::total_elems() const {
  std::int64_t total = 0;
  for (const PartExtent& extent : parts_) total += extent.elems;
  return total;
}

}  // namespace elaswave::layout
