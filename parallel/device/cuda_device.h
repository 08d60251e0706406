// A CUDA GPU as a Device, and its streams. Built only where the CUDA toolkit is; names no vendor
// header, so that who chooses a backend can include it. THREADS: CudaDevice any, CudaStream one at
// a time. Threads need not select a device: calls here do.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "parallel/device/device.h"
#include "parallel/device/stream.h"

struct CUstream_st;
struct CUevent_st;

namespace elaswave::device {

class CudaStaging;
class CudaStream;

class CudaDevice final : public Device {
 public:
  struct MemoryInfo {
    std::int64_t free_bytes = 0;
    std::int64_t total_bytes = 0;
  };
  /// Made by make_cuda_device().
  CudaDevice(int index, std::string name);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  /// Zeroed when it returns; waits for the clearing of this memory alone. 256-byte aligned. Throws
  /// OutOfMemory with what was asked, free and there in all; DeviceLost. Space::host is page-locked
  /// and has one address for host and kernels.
  std::byte* allocate(Space space, std::int64_t bytes) override;
  void free(Space space, std::byte* memory) noexcept override;
  bool host_reads() const override { return false; }
  bool hides(const void* memory) const override;
  /// Was this memory allocated here, in either space? Any part of an allocation will do.
  bool owns(const void* memory) const { return space_of(memory).has_value(); }
  std::string name() const override { return name_; }

  /// Of the whole GPU: other processes take from `free_bytes` too. Throws DeviceLost.
  MemoryInfo memory_info() const;
  int index() const { return index_; }
  /// As the driver writes it, "0000:3b:00.0": the GPU's place in its machine. Throws DeviceLost.
  std::string bus_id() const;
  /// Selects this device for the calling thread's next calls of the CUDA runtime. Throws
  /// DeviceLost.
  void select() const;

 private:
  void* allocate_device(std::int64_t bytes);
  void* allocate_host(std::int64_t bytes);
  void remember(const void* memory, std::int64_t bytes, Space space);
  std::optional<Space> space_of(const void* memory) const;

  struct Allocation {
    std::int64_t bytes = 0;
    Space space = Space::device;
  };
  int index_;
  std::string name_;
  mutable std::mutex known_;
  std::map<const std::byte*, Allocation> allocations_;
  std::mutex clearing_;                // one allocation at a time uses the stream below
  std::unique_ptr<CudaStream> clear_;  // a stream of its own: clearing must not wait for a step
};

/// GPUs that the process sees, at least one. Code::unavailable as below.
Result<int> cuda_device_count();

/// What tells a GPU from all others, and its memory. Takes nothing of it.
struct CudaIdentity {
  std::string uuid;  // 32 hexadecimal digits
  std::int64_t total_bytes = 0;
};
/// Code::unavailable when the driver does not say.
Result<CudaIdentity> cuda_device_identity(int index);

/// GPU `index` of those the process sees. Refuses with one line when there is no NVIDIA driver, no
/// such GPU, or one older than compute capability 9.0, for which nothing is compiled.
Result<std::unique_ptr<CudaDevice>> make_cuda_device(int index);

class CudaStream final : public Stream {
 public:
  /// Non-blocking: it orders itself with no other stream unless told to. `device` must outlive it.
  explicit CudaStream(CudaDevice& device);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  CudaDevice& device() override { return *device_; }
  /// Sleeps: ranks that share cores with others must not spin.
  void synchronize() override;
  void copy(void* to, const void* from, std::int64_t bytes) override;
  void zero(void* at, std::int64_t bytes) override;
  Mark mark() override;
  bool reached(Mark mark) override;
  void follow(Stream& other, Mark mark) override;
  std::unique_ptr<Stream> beside() override { return std::make_unique<CudaStream>(*device_); }
  std::unique_ptr<Stopwatch> stopwatch(const Clock& clock) override;

  /// For kernels and libraries: a cudaStream_t.
  CUstream_st* handle() const { return handle_; }

 private:
  CUevent_st* take_event();
  bool retire_oldest();

  CudaDevice* device_;
  CUstream_st* handle_ = nullptr;
  CUevent_st* idle_ = nullptr;            // synchronize() sleeps on it
  std::unique_ptr<CudaStaging> staging_;  // made by the first copy that needs it
  // Marks are numbered from 1. pending_[i] is the event of mark passed_ + 1 + i; an event is used
  // again once the stream has passed it, so there are as many as marks were ever ahead.
  std::uint64_t passed_ = 0;
  std::deque<CUevent_st*> pending_;
  std::vector<CUevent_st*> spare_;
};

}  // namespace elaswave::device
