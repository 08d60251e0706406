// A device made of host memory that host code cannot touch, so that tests written for a GPU can be
// proven to keep to the rules of device.h, stream.h and ops.h where there is none. THREADS: one at
// a time, unless a member says otherwise.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "parallel/device/device.h"
#include "parallel/device/stream.h"

namespace elaswave::testing {

/// Memory of Space::device is out of reach (any access ends the process with SIGSEGV) except while
/// it is opened. An allocation ends at most 63 bytes before a page that is never within reach, so
/// kernels that run over the end are caught as well.
class BlindDevice final : public device::Device {
 public:
  std::byte* allocate(device::Space space, std::int64_t bytes) override;
  void free(device::Space space, std::byte* memory) noexcept override;
  bool host_reads() const override { return false; }
  bool hides(const void* memory) const override { return holds(device::Space::device, memory, 1); }
  std::string name() const override { return "host memory behind glass"; }

  /// Is all of [memory, memory + bytes) part of one allocation in `space`?
  bool holds(device::Space space, const void* memory, std::int64_t bytes) const;

  /// From now on every wait for a stream made by Stream::beside() takes so long.
  void delay_beside(std::chrono::milliseconds delay) { delay_beside_ = delay; }
  std::chrono::milliseconds delay_beside() const { return delay_beside_; }

  /// Device memory is within reach as long as this lives. Not nested. THREADS: all may reach it.
  class Opened {
   public:
    explicit Opened(BlindDevice& device) : device_(device) { device_.protect(Reach::all); }
    ~Opened() { device_.protect(Reach::none); }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

   private:
    BlindDevice& device_;
  };

 private:
  enum class Reach : std::uint8_t { none, all };
  struct Region {
    device::Space space;
    std::byte* mapped;
    std::int64_t room;  // whole pages; one more follows
    std::int64_t bytes;
  };
  void protect(Reach reach);

  std::map<const std::byte*, Region> regions_;
  std::chrono::milliseconds delay_beside_{0};
};

/// A stream of CPU threads. What operations write to host memory of the caller arrives when the
/// stream is synchronised and not before.
class BlindStream final : public device::Stream {
 public:
  BlindStream(BlindDevice& device, int threads,
              std::chrono::milliseconds delay = std::chrono::milliseconds(0))
      : device_(device), cpu_(threads), delay_(delay) {}
  BlindDevice& device() override { return device_; }
  void synchronize() override;
  void copy(void* to, const void* from, std::int64_t bytes) override;
  void zero(void* at, std::int64_t bytes) override;
  device::Mark mark() override { return cpu_.mark(); }
  bool reached(device::Mark mark) override { return cpu_.reached(mark); }
  void follow(device::Stream&, device::Mark) override {}
  std::unique_ptr<device::Stream> beside() override;
  std::unique_ptr<device::Stopwatch> stopwatch(const Clock& clock) override {
    return cpu_.stopwatch(clock);
  }

  device::CpuStream& cpu() { return cpu_; }
  void at_synchronize(std::function<void()> delivery) { late_.push_back(std::move(delivery)); }

 private:
  BlindDevice& device_;
  device::CpuStream cpu_;
  std::vector<std::function<void()>> late_;
  std::chrono::milliseconds delay_;
};

}  // namespace elaswave::testing
