#include "tests/support/blind_device.h"

#include <sys/mman.h>

#include <thread>
#include <utility>

#include "io/base/error.h"
#include "io/base/types.h"

namespace elaswave::testing {
namespace {

using device::Space;

constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kAlignment = 64;  // what Device promises

void set_protection(std::byte* memory, std::int64_t bytes, int protection) {
  EW_CHECK(::mprotect(memory, static_cast<std::size_t>(bytes), protection) == 0,
           "mprotect of {} bytes failed", bytes);
}

}  // namespace

std::byte* BlindDevice::allocate(Space space, std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::int64_t room = round_up(bytes, kPage);
  void* mapped = ::mmap(nullptr, static_cast<std::size_t>(room + kPage), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw device::OutOfMemory("no room for a test's device memory");
  auto* begin = static_cast<std::byte*>(mapped);
  if (space == Space::host) set_protection(begin, room, PROT_READ | PROT_WRITE);
  std::byte* memory = begin + room - round_up(bytes, kAlignment);
  regions_.emplace(memory, Region{space, begin, room, bytes});
  return memory;
}

void BlindDevice::free(Space, std::byte* memory) noexcept {
  const auto region = regions_.find(memory);
  if (region == regions_.end()) return;
  ::munmap(region->second.mapped, static_cast<std::size_t>(region->second.room + kPage));
  regions_.erase(region);
}

bool BlindDevice::holds(Space space, const void* memory, std::int64_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(memory);
  auto after = regions_.upper_bound(begin);
  if (after == regions_.begin()) return false;
  const auto& [first, region] = *--after;
  return region.space == space && begin + bytes <= first + region.bytes;
}

void BlindDevice::protect(Reach reach) {
  for (const auto& [memory, region] : regions_)
    if (region.space == Space::device)
      set_protection(region.mapped, region.room,
                     reach == Reach::all ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void BlindStream::synchronize() {
  std::this_thread::sleep_for(delay_);
  for (const auto& delivery : std::exchange(late_, {})) delivery();
}

void BlindStream::copy(void* to, const void* from, std::int64_t bytes) {
  const BlindDevice::Opened opened(device_);
  cpu_.copy(to, from, bytes);
}

std::unique_ptr<device::Stream> BlindStream::beside() {
  return std::make_unique<BlindStream>(device_, 1, device_.delay_beside());
}

void BlindStream::zero(void* at, std::int64_t bytes) {
  const BlindDevice::Opened opened(device_);
  EW_CHECK(bytes == 0 || device_.holds(Space::device, at, bytes), "zero() of foreign memory");
  cpu_.zero(at, bytes);
}

}  // namespace elaswave::testing
