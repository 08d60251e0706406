#include "parallel/zero/shard.h"

namespace elaswave::zero {

Shard::Shard(const layout::BlockTable& blocks, const layout::Plan& plan, std::int32_t world_rank)
    : version{Step{0}, plan.generation}, blocks_(&blocks) {
  for (std::int32_t layer = 0; layer < blocks.layers(); ++layer) {
    layer_begin_.push_back(owned_.size());
    for (std::int64_t index = blocks.layer_begin(layer); index < blocks.layer_begin(layer + 1);
         ++index) {
      if (plan.owner_rank(blocks, index) != world_rank) continue;
      owned_.push_back({index, elems_});
      elems_ += round_up(blocks.block(index).elems, 16);  // every block starts on a 64-byte line
    }
  }
  layer_begin_.push_back(owned_.size());
  const std::int64_t bytes = elems_ * static_cast<std::int64_t>(sizeof(float));
  master_ = device::Buffer(bytes);
  moment1_ = device::Buffer(bytes);
  moment2_ = device::Buffer(bytes);
  log_ = device::Buffer(bytes);
}

std::span<const OwnedBlock> Shard::of_layer(std::int32_t layer) const {
  const auto index = static_cast<std::size_t>(layer);
  return std::span(owned_).subspan(layer_begin_[index],
                                   layer_begin_[index + 1] - layer_begin_[index]);
}

std::int64_t Shard::size_bytes() const {
  return master_.size_bytes() + moment1_.size_bytes() + moment2_.size_bytes() + log_.size_bytes();
}

std::span<float> Shard::range(device::Buffer& buffer, const OwnedBlock& owned) {
  return buffer.as<float>().subspan(static_cast<std::size_t>(owned.offset),
                                    static_cast<std::size_t>(blocks_->block(owned.block).elems));
}

}  // namespace elaswave::zero
