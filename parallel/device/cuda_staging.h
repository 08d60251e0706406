// Where host memory that is not page-locked waits for a CUDA device to fetch it. The runtime
// promises no more of such copies than that they "might be synchronous with respect to host" (CUDA
// Runtime API, "API synchronization behavior"), so what may be overwritten at once is copied first.
// Private to the device layer. THREADS: those of the stream.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "parallel/device/buffer.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::device {

class CudaStaging {
 public:
  /// `device` must outlive it.
  explicit CudaStaging(CudaDevice& device);
  /// Waits for the copies.
  ~CudaStaging();
  CudaStaging(const CudaStaging&) = delete;
  CudaStaging& operator=(const CudaStaging&) = delete;

  /// Copies in order with the work of `stream`, which must be the same every time. `from` may be
  /// overwritten when it returns; waits for the device while kSlots pieces are on their way. Throws
  /// DeviceLost.
  void send(CUstream_st* stream, void* to, const void* from, std::int64_t bytes);

  /// A piece of a copy: token ids of a micro-batch of 16 samples of 1,024. With so many slots the
  /// host may be some micro-batches ahead of the device.
  static constexpr std::int64_t kPieceBytes = 64 << 10;
  static constexpr std::size_t kSlots = 16;

 private:
  CudaDevice& device_;
  Buffer memory_;                                // page-locked, a piece for each slot
  std::array<CUevent_st*, kSlots> passed_ = {};  // by the last copy out of the slot
  std::size_t next_ = 0;
};

}  // namespace elaswave::device
