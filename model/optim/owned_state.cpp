#include "model/optim/owned_state.h"

namespace elaswave::optim {
namespace {

constexpr std::int64_t kKinds = 4;       // master, both moments, log
constexpr std::int64_t kLineElems = 16;  // 64 bytes: where every block starts
constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

}  // namespace

OwnedState::OwnedState(const layout::BlockTable& blocks, zero::Shard& shard, device::Device& device)
    : blocks_(blocks), shard_(shard) {
  if (device.host_reads()) return;
  std::int64_t elems = 0;
  for (const zero::HeldBlock& owned : shard.owned()) {
    offsets_.push_back(elems);
    elems += round_up(blocks.block(owned.block).elems, kLineElems);
  }
  offsets_.push_back(elems);
  memory_ = device::Buffer(device, kKinds * elems * kFloatBytes);
}

std::span<float> OwnedState::in_shard(std::size_t index, std::int64_t kind) {
  const zero::HeldBlock& owned = shard_.owned()[index];
  switch (kind) {
    case 0:
      return shard_.master(owned);
    case 1:
      return shard_.moment1(owned);
    case 2:
      return shard_.moment2(owned);
    default:
      return shard_.log(owned);
  }
}

std::span<float> OwnedState::range(std::size_t index, std::int64_t kind) {
  if (!mirrored()) return in_shard(index, kind);
  const std::int64_t elems = blocks_.block(shard_.owned()[index].block).elems;
  return memory_.as<float>().subspan(
      static_cast<std::size_t>(kind * offsets_.back() + offsets_[index]),
      static_cast<std::size_t>(elems));
}

void OwnedState::load(device::Stream& stream) {
  if (!mirrored()) return;
  for (std::size_t index = 0; index < shard_.owned().size(); ++index)
    for (std::int64_t kind = 0; kind < kKinds - 1; ++kind) {
      const std::span<const float> from = in_shard(index, kind);
      stream.copy(range(index, kind).data(), from.data(),
                  static_cast<std::int64_t>(from.size_bytes()));
    }
}

void OwnedState::store_log(device::Stream& stream) {
  if (!mirrored()) return;
  for (std::size_t index = 0; index < shard_.owned().size(); ++index) {
    const std::span<const float> from = log(index);
    stream.copy(in_shard(index, 3).data(), from.data(),
                static_cast<std::int64_t>(from.size_bytes()));
  }
}

}  // namespace elaswave::optim
