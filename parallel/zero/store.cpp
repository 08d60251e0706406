#include "parallel/zero/store.h"

#include "io/base/error.h"

namespace elaswave::zero {
namespace {

constexpr std::int64_t sum_bytes(SumMode mode) {
  return mode == SumMode::exact ? 8 : 4;
}

std::vector<std::int64_t> sum_bytes(const std::vector<bool>& held, SumMode mode) {
  std::vector<std::int64_t> bytes;
  bytes.reserve(held.size());
  for (const bool mine : held) bytes.push_back(mine ? sum_bytes(mode) : 0);
  return bytes;
}

}  // namespace

TensorStore::TensorStore(const layout::BlockTable& blocks, std::span<const std::int64_t> elem_bytes,
                         device::Device& device)
    : elem_bytes_(elem_bytes.begin(), elem_bytes.end()) {
  EW_CHECK(std::ssize(elem_bytes_) == blocks.parts(), "{} element sizes for {} parts",
           elem_bytes_.size(), blocks.parts());
  std::int64_t bytes = 0;
  for (std::int32_t index = 0; index < blocks.parts(); ++index) {
    offset_bytes_.push_back(bytes);
    bytes += round_up(blocks.part(index).elems * elem_bytes_[static_cast<std::size_t>(index)], 64);
  }
  memory_ = device::Buffer(device, bytes);
}

std::byte* TensorStore::part(std::int32_t index) {
  EW_CHECK(holds(index), "part {} is not held by this rank", index);
  return memory_.data() + offset_bytes_[static_cast<std::size_t>(index)];
}

std::span<std::byte> TensorStore::bytes(const layout::Block& block) {
  const std::int64_t size = elem_bytes_[static_cast<std::size_t>(block.part)];
  return {part(block.part) + block.begin * size, static_cast<std::size_t>(block.elems * size)};
}

GradSums::GradSums(const layout::BlockTable& blocks, SumMode mode)
    : GradSums(blocks, mode, std::vector<bool>(static_cast<std::size_t>(blocks.parts()), true)) {}

GradSums::GradSums(const layout::BlockTable& blocks, SumMode mode, const std::vector<bool>& held,
                   device::Arithmetic& arithmetic)
    : mode_(mode),
      touched_(static_cast<std::size_t>(blocks.parts()), 0),
      arithmetic_(&arithmetic),
      store_(blocks, sum_bytes(held, mode), arithmetic.device()) {
  for (std::int32_t index = 0; index < blocks.parts(); ++index)
    elems_.push_back(blocks.part(index).elems);
}

void GradSums::begin_step() {
  touched_.assign(touched_.size(), 0);
}

bool GradSums::first_touch(std::int32_t part) {
  char& touched = touched_[static_cast<std::size_t>(part)];
  const bool first = touched == 0;
  touched = 1;
  return first;
}

void GradSums::settle(std::int32_t part) {
  if (!first_touch(part)) return;
  const std::int64_t bytes = elems_[static_cast<std::size_t>(part)] * sum_bytes(mode_);
  arithmetic_->zero({data(part), static_cast<std::size_t>(bytes)});
}

}  // namespace elaswave::zero
