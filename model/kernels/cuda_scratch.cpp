#include "model/kernels/cuda_scratch.h"

#include <exception>

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
  // Work on the old memory may be under way, and both at once might not fit.
  if (memory.data() != nullptr) stream_.synchronize();
  memory = device::Buffer();
  memory = device::Buffer(stream_.device(), round_up(bytes, kAlignment), space);
}

void Scratch::reserve_list(ScratchUse use, std::int64_t bytes) {
  grow(device_[static_cast<std::size_t>(use)], device::Space::device, bytes);
  for (Slot& slot : rings_[static_cast<std::size_t>(use)].slots)
    grow(slot.memory, device::Space::host, bytes);
}

void Scratch::release() {
  stream_.synchronize();
  device_ = {};
  rings_ = {};
}

KeptMemory Scratch::kept() const {
  KeptMemory kept;
  for (const device::Buffer& memory : device_) kept.device_bytes += memory.size_bytes();
  kept.logits_bytes = device_[static_cast<std::size_t>(ScratchUse::logits)].size_bytes();
  for (const Ring& ring : rings_)
    for (const Slot& slot : ring.slots) kept.host_bytes += slot.memory.size_bytes();
  return kept;
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
  // All slots at once: otherwise a list as long as one before would still need memory.
  if (slot.memory.size_bytes() < bytes) reserve_list(use, bytes);
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
