#include "parallel/zero/store.h"

#include <cstring>

namespace elaswave::zero {
namespace {

std::vector<std::int64_t> sum_bytes(const layout::BlockTable& blocks, SumMode mode) {
  return std::vector<std::int64_t>(static_cast<std::size_t>(blocks.tensors()),
                                   mode == SumMode::exact ? 8 : 4);
}

}  // namespace

TensorStore::TensorStore(const layout::BlockTable& blocks, std::span<const std::int64_t> elem_bytes)
    : elem_bytes_(elem_bytes.begin(), elem_bytes.end()) {
  std::int64_t bytes = 0;
  for (std::int32_t index = 0; index < blocks.tensors(); ++index) {
    offset_bytes_.push_back(bytes);
    bytes +=
        round_up(blocks.tensor(index).elems * elem_bytes_[static_cast<std::size_t>(index)], 64);
  }
  memory_ = device::Buffer(bytes);
}

std::span<std::byte> TensorStore::bytes(const layout::Block& block) {
  const std::int64_t size = elem_bytes_[static_cast<std::size_t>(block.tensor)];
  return {tensor(block.tensor) + block.begin * size, static_cast<std::size_t>(block.elems * size)};
}

GradSums::GradSums(const layout::BlockTable& blocks, SumMode mode)
    : mode_(mode),
      touched_(static_cast<std::size_t>(blocks.tensors()), 0),
      store_(blocks, sum_bytes(blocks, mode)) {
  for (std::int32_t index = 0; index < blocks.tensors(); ++index)
    elems_.push_back(blocks.tensor(index).elems);
}

void GradSums::begin_step() {
  touched_.assign(touched_.size(), 0);
}

bool GradSums::first_touch(std::int32_t tensor) {
  char& touched = touched_[static_cast<std::size_t>(tensor)];
  const bool first = touched == 0;
  touched = 1;
  return first;
}

void GradSums::settle(std::int32_t tensor) {
  if (!first_touch(tensor)) return;
  const std::int64_t elem_bytes = mode_ == SumMode::exact ? 8 : 4;
  std::memset(data(tensor), 0,
              static_cast<std::size_t>(elems_[static_cast<std::size_t>(tensor)] * elem_bytes));
}

}  // namespace elaswave::zero
