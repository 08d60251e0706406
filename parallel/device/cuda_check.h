// Every call of the CUDA runtime is checked here. Vendor headers appear in cuda_* and *_cuda files
// alone. THREADS: any.
#pragma once

#include <cuda_runtime_api.h>

#include <source_location>
#include <string>
#include <string_view>

namespace elaswave::device {

/// What a failed call means to the caller.
enum class CudaFailure {
  out_of_memory,  // nothing is broken; ask for less
  lost,           // the context is poisoned: every later call fails too
  misused,        // we called it wrongly, or the build does not fit the device: a bug of ours
};

/// REQUIRES: status is not cudaSuccess. Which statuses poison a context: CUDA Runtime API, "Data
/// types", cudaError ("the process must be terminated and relaunched").
CudaFailure triage(cudaError_t status);

/// "cudaMalloc at FILE:LINE: out of memory (cudaErrorMemoryAllocation)".
std::string failure_text(cudaError_t status, std::string_view call, std::source_location at);

/// Returns on success. Throws OutOfMemory or DeviceLost otherwise: after a failure of any other
/// kind it is unknown what was issued, so the process has to go as if the device were lost.
/// `call` names the function that returned `status`.
inline void check_cuda(cudaError_t status, std::string_view call,
                       std::source_location at = std::source_location::current());

/// The slow way out of check_cuda(). REQUIRES: status is not cudaSuccess.
[[noreturn]] void throw_cuda(cudaError_t status, std::string_view call, std::source_location at);

inline void check_cuda(cudaError_t status, std::string_view call, std::source_location at) {
  if (status != cudaSuccess) [[unlikely]]
    throw_cuda(status, call, at);
}

/// For destructors: a failure is logged, never thrown. After a loss nothing is said: the loss has
/// been reported and every call fails then.
void release_cuda(cudaError_t status, std::string_view call,
                  std::source_location at = std::source_location::current()) noexcept;

}  // namespace elaswave::device
