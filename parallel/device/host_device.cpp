#include <cstring>
#include <vector>

#include "io/base/error.h"
#include "io/base/memory.h"
#include "parallel/device/device.h"
#include "parallel/device/stream.h"

namespace elaswave::device {
namespace {

constexpr std::int64_t kCacheLine = 64;

class HostDevice final : public Device {
 public:
  std::byte* allocate(Space, std::int64_t bytes) override {
    return elaswave::allocate(bytes, kCacheLine).release();
  }
  void free(Space, std::byte* memory) noexcept override { FreeMemory()(memory); }
  bool host_reads() const override { return true; }
  bool hides(const void*) const override { return false; }
  std::string name() const override { return "host"; }
};

class HostStopwatch final : public Stopwatch {
 public:
  explicit HostStopwatch(const Clock& clock) : clock_(clock) {}
  void clear() override { stamps_.clear(); }
  void stamp() override { stamps_.push_back(clock_.now()); }
  Nanoseconds at(std::size_t stamp) override {
    EW_CHECK(stamp < stamps_.size(), "stamp {} of {}", stamp, stamps_.size());
    return stamps_[stamp] - stamps_.front();
  }

 private:
  const Clock& clock_;
  std::vector<Nanoseconds> stamps_;
};

}  // namespace

std::unique_ptr<Stopwatch> host_stopwatch(const Clock& clock) {
  return std::make_unique<HostStopwatch>(clock);
}

Device& host_device() {
  static HostDevice device;  // without state
  return device;
}

void CpuStream::copy(void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void CpuStream::zero(void* at, std::int64_t bytes) {
  if (bytes > 0) std::memset(at, 0, static_cast<std::size_t>(bytes));
}

}  // namespace elaswave::device
