#include "model/kernels/cuda_scratch.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace elaswave::kernels::cuda {

namespace {

constexpr std::int64_t kAlignment = 256;  // what a GPU's own allocations keep

}  // namespace

Scratch::~Scratch() {
  try {
    stream_.synchronize();
  } catch (const std::exception&) {
    // A lost device works on nothing any more, and whoever uses it next is told.
  }
}

void Scratch::grow(device::Buffer& memory, device::Space space, std::int64_t bytes) {
  if (memory.size_bytes() >= bytes) return;
  // Freeing may wait for the whole device, hence only here, where allocating does so anyway.
  std::erase_if(retired_, [&](const Retired& old) { return stream_.reached(old.last_use); });
  device::Buffer larger(stream_.device(), round_up(bytes, kAlignment), space);
  if (memory.data() != nullptr) retired_.push_back({std::move(memory), stream_.mark()});
  memory = std::move(larger);
}

std::byte* Scratch::device_bytes(ScratchUse use, std::int64_t bytes) {
  device::Buffer& memory = device_[static_cast<std::size_t>(use)];
  grow(memory, device::Space::device, bytes);
  return memory.data();
}

std::byte* Scratch::stage(ScratchUse use, std::int64_t bytes) {
  Ring& ring = rings_[static_cast<std::size_t>(use)];
  Slot& slot = ring.slots[ring.next];
  if (slot.used && !stream_.reached(slot.sent)) stream_.synchronize();
  slot.used = false;
  grow(slot.memory, device::Space::host, bytes);
  return slot.memory.data();
}

const std::byte* Scratch::send(ScratchUse use, std::int64_t bytes) {
  Ring& ring = rings_[static_cast<std::size_t>(use)];
  Slot& slot = ring.slots[ring.next];
  std::byte* to = device_bytes(use, bytes);
  if (bytes > 0) stream_.copy(to, slot.memory.data(), bytes);
  slot.sent = stream_.mark();
  slot.used = true;
  ring.next = (ring.next + 1) % kSlots;
  return to;
}

}  // namespace elaswave::kernels::cuda
