// What a device reaches at best, measured in the run that is compared with it: bytes a second of a
// copy (bytes read and bytes written both count), FLOPs a second of the library's large bf16
// product (2 a multiply and add). Medians by the device's own clock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "io/base/clock.h"
#include "model/kernels/gemm_cuda.h"
#include "parallel/device/buffer.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::bench {

struct Ceilings {
  double bytes_per_second = 0;
  double flops_per_second = 0;
};
struct CeilingSizes {
  std::int64_t copy_bytes = std::int64_t{1} << 30;
  std::int64_t product = 8192;  // of its three sizes
  int rounds = 5;
};

/// THREADS: the stream's. Throws DeviceLost, OutOfMemory.
Ceilings measure_ceilings(const kernels::cuda::CudaContext& context, kernels::cuda::Gemm& gemm,
                          const CeilingSizes& sizes = {});

/// Times work on a stream that finds nothing of its operands in the device's cache.
class ColdTimer {
 public:
  /// `flush_bytes`: several times the cache (50 MiB on Hopper). The stream must outlive it.
  ColdTimer(device::CudaStream& stream, std::int64_t flush_bytes);
  /// Median seconds of `rounds` runs of `work`, after one that does not count. What is issued to
  /// clear the cache keeps the device busy while the host issues the work.
  double seconds(int rounds, const std::function<void()>& work);

 private:
  device::CudaStream& stream_;
  device::Buffer flush_;
  const RealClock clock_;  // not read: the device has a time of its own
  std::unique_ptr<device::Stopwatch> watch_;
};

}  // namespace elaswave::bench
