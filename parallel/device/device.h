// A device as the model sees it: where memory comes from and where work is issued. The host is one;
// a GPU is another (device_cuda.h). Host code must not touch device memory unless host_reads():
// it copies through a stream. THREADS: any, unless a member says otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace elaswave::device {

class Stream;

enum class Space : std::uint8_t {
  device,  // where kernels read and write at full speed
  host     // read and written by both: page-locked where the device has memory of its own
};

/// The device has no room. `what()` names how much was asked and how much there is.
class OutOfMemory : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
/// The device failed and nothing issued on it can be trusted any more: the process has to go (exit
/// 10). `what()` names the call and the device's own error.
class DeviceLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Device {
 public:
  virtual ~Device() = default;

  /// Zeroed, at least 64-byte aligned, not null unless `bytes` is 0. Throws OutOfMemory (a GPU) or
  /// std::bad_alloc (the host).
  virtual std::byte* allocate(Space space, std::int64_t bytes) = 0;
  /// Waits for nothing: whoever frees knows that no work on the memory is under way.
  virtual void free(Space space, std::byte* memory) noexcept = 0;
  /// May host code read and write memory of Space::device?
  virtual bool host_reads() const = 0;
  /// Is this memory of Space::device that host code must not touch? Any part of an allocation will
  /// do.
  virtual bool hides(const void* memory) const = 0;
  /// For people: "NVIDIA H200, 132 SMs", "host".
  virtual std::string name() const = 0;
};

/// Memory of this process; both spaces are the same.
Device& host_device();

}  // namespace elaswave::device
