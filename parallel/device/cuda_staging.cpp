#include "parallel/device/cuda_staging.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "parallel/device/cuda_check.h"

namespace elaswave::device {

CudaStaging::CudaStaging(CudaDevice& device)
    : device_(device),
      memory_(device, kPieceBytes * static_cast<std::int64_t>(kSlots), Space::host) {}

CudaStaging::~CudaStaging() {
  for (cudaEvent_t passed : passed_) {
    if (passed == nullptr) continue;
    release_cuda(cudaEventSynchronize(passed), "cudaEventSynchronize");
    release_cuda(cudaEventDestroy(passed), "cudaEventDestroy");
  }
}

void CudaStaging::send(CUstream_st* stream, void* to, const void* from, std::int64_t bytes) {
  device_.select();
  for (std::int64_t begin = 0; begin < bytes; begin += kPieceBytes) {
    const auto piece = static_cast<std::size_t>(std::min(kPieceBytes, bytes - begin));
    cudaEvent_t& passed = passed_[next_];
    if (passed == nullptr)
      check_cuda(cudaEventCreateWithFlags(&passed, cudaEventBlockingSync | cudaEventDisableTiming),
                 "cudaEventCreateWithFlags");
    else
      check_cuda(cudaEventSynchronize(passed), "cudaEventSynchronize");
    std::byte* const slot = memory_.data() + static_cast<std::int64_t>(next_) * kPieceBytes;
    std::memcpy(slot, static_cast<const std::byte*>(from) + begin, piece);
    check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(to) + begin, slot, piece, cudaMemcpyDefault,
                               stream),
               "cudaMemcpyAsync");
    check_cuda(cudaEventRecord(passed, stream), "cudaEventRecord");
    next_ = (next_ + 1) % kSlots;
  }
}

}  // namespace elaswave::device
