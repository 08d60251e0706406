#include "tests/support/cuda/memory.h"

#include <sys/mman.h>

#include <cstring>

#include "tests/support/cuda/block.h"

namespace elaswave::emulator {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 256;  // what cudaMalloc promises
constexpr std::size_t kArenaBytes = std::size_t{256} << 30;
constexpr int kPattern = 0xFF;

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

DeviceMemory::DeviceMemory() {
  void* mapping =
      mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) emulator_error("no address range for device memory");
  arena_ = static_cast<std::byte*>(mapping);
}

void DeviceMemory::protect(const Allocation& allocation, int protection) const {
  if (mprotect(allocation.pages, allocation.page_bytes, protection) != 0)
    emulator_error("mprotect failed: too many allocations (vm.max_map_count)?");
}

std::byte* DeviceMemory::allocate(Place place, std::size_t bytes) {
  Allocation made{.place = place, .bytes = bytes};
  made.page_bytes = round_up(bytes, kPage);
  if (next_ + made.page_bytes + kPage > kArenaBytes)
    emulator_error("the address range for device memory is used up");
  made.pages = arena_ + next_;
  next_ += made.page_bytes + kPage;  // the page between is never opened
  made.begin = made.pages + made.page_bytes - round_up(bytes, kAlignment);
  protect(made, PROT_READ | PROT_WRITE);
  std::memset(made.pages, kPattern, made.page_bytes);
  (place == Place::device ? used_bytes_ : pinned_bytes_) += bytes;
  if (place == Place::device) {
    if (!is_open()) protect(made, PROT_NONE);
  }
  live_.emplace(made.begin, made);
  return made.begin;
}

// What lies on the allocation's pages beside it must be as it was filled.
void DeviceMemory::check_slack(const Allocation& allocation) {
  const std::byte* const end = allocation.begin + allocation.bytes;
  for (const std::byte* at = allocation.pages; at < allocation.pages + allocation.page_bytes; ++at)
    if ((at < allocation.begin || at >= end) && *at != std::byte{kPattern})
      emulator_error(at < end ? "something was written before the begin of an allocation"
                              : "something was written behind the end of an allocation");
}

bool DeviceMemory::release(Place place, void* at) {
  const auto found = live_.find(static_cast<const std::byte*>(at));
  if (found == live_.end() || found->second.place != place) return false;
  const Allocation allocation = found->second;
  protect(allocation, PROT_READ);
  check_slack(allocation);
  protect(allocation, PROT_NONE);
  madvise(allocation.pages, allocation.page_bytes, MADV_DONTNEED);
  (place == Place::device ? used_bytes_ : pinned_bytes_) -= allocation.bytes;
  live_.erase(found);
  return true;
}

const DeviceMemory::Allocation* DeviceMemory::find(const void* at, std::size_t bytes) const {
  const auto* byte = static_cast<const std::byte*>(at);
  auto after = live_.upper_bound(byte);
  if (after == live_.begin()) return nullptr;
  const Allocation& allocation = (--after)->second;
  return byte + bytes <= allocation.begin + allocation.bytes ? &allocation : nullptr;
}

bool DeviceMemory::owns(const void* at) const {
  const auto* byte = static_cast<const std::byte*>(at);
  return byte >= arena_ && byte < arena_ + kArenaBytes;
}

void DeviceMemory::open() {
  if (open_++ > 0) return;
  for (const auto& [begin, allocation] : live_)
    if (allocation.place == Place::device) protect(allocation, PROT_READ | PROT_WRITE);
}

void DeviceMemory::close() {
  if (--open_ > 0) return;
  for (const auto& [begin, allocation] : live_)
    if (allocation.place == Place::device) protect(allocation, PROT_NONE);
}

}  // namespace elaswave::emulator
