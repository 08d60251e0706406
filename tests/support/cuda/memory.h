// Memory of the emulated device and page-locked memory of the host. Internal to the emulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace elaswave::emulator {

enum class Place : std::uint8_t { device, pinned };

class DeviceMemory {
 public:
  struct Allocation {
    Place place = Place::device;
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
    std::byte* pages = nullptr;
    std::size_t page_bytes = 0;
  };

  DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// Filled with 0xFF. Addresses are never used twice.
  std::byte* allocate(Place place, std::size_t bytes);
  /// False: no allocation of this place begins there.
  bool release(Place place, void* at);
  /// The live allocation that holds [at, at + bytes), or null.
  const Allocation* find(const void* at, std::size_t bytes) const;
  /// Of this memory, live or not.
  bool owns(const void* at) const;

  /// Device memory may be touched between open() and close(); they nest.
  void open();
  void close();
  bool is_open() const { return open_ > 0; }

  std::size_t used_bytes() const { return used_bytes_; }
  std::size_t pinned_bytes() const { return pinned_bytes_; }
  std::size_t live() const { return live_.size(); }

 private:
  void protect(const Allocation& allocation, int protection) const;
  static void check_slack(const Allocation& allocation);

  std::byte* arena_ = nullptr;
  std::size_t next_ = 0;                         // offset of what was never used
  std::map<const std::byte*, Allocation> live_;  // by `begin`
  std::size_t used_bytes_ = 0;                   // of the device
  std::size_t pinned_bytes_ = 0;
  int open_ = 0;
};

}  // namespace elaswave::emulator
