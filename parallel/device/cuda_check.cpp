#include "parallel/device/cuda_check.h"

#include <fmt/format.h>

#include <exception>

#include "io/base/log.h"
#include "parallel/device/device.h"

namespace elaswave::device {

CudaFailure triage(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return CudaFailure::out_of_memory;
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsServerNotReady:
    case cudaErrorDevicesUnavailable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown:
      return CudaFailure::lost;
    default:
      return CudaFailure::misused;
  }
}

std::string failure_text(cudaError_t status, std::string_view call, std::source_location at) {
  return fmt::format("{} at {}:{}: {} ({})", call, at.file_name(), at.line(),
                     cudaGetErrorString(status), cudaGetErrorName(status));
}

void throw_cuda(cudaError_t status, std::string_view call, std::source_location at) {
  // The runtime keeps the last error for whoever asks; libraries that do must not find ours.
  static_cast<void>(cudaGetLastError());
  const std::string text = failure_text(status, call, at);
  switch (triage(status)) {
    case CudaFailure::out_of_memory:
      throw OutOfMemory(text);
    case CudaFailure::lost:
      throw DeviceLost(text);
    case CudaFailure::misused:
      break;
  }
  throw DeviceLost(text + "; not a fault of the device but a bug of elaswave");
}

void release_cuda(cudaError_t status, std::string_view call, std::source_location at) noexcept {
  if (status == cudaSuccess || triage(status) == CudaFailure::lost) return;
  try {
    log_error("{}", failure_text(status, call, at));
  } catch (const std::exception&) {
    return;  // no memory for the text: nothing is left to be done here
  }
}

}  // namespace elaswave::device
