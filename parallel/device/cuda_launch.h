// How a kernel is put on a stream. For .cu files. A kernel's arguments are copied when it is
// launched. The emulator of the tests has a file of the same name that runs kernels on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
#include <type_traits>

#include "parallel/device/cuda_check.h"
#include "parallel/device/cuda_device.h"

namespace elaswave::device {

struct LaunchShape {
  unsigned blocks_x = 1;  // at most 2^31 - 1
  unsigned blocks_y = 1;  // at most 65535, as blocks_z
  unsigned blocks_z = 1;
  unsigned threads = 256;        // of a block, at most 1024
  std::size_t shared_bytes = 0;  // of dynamic_shared(), at most 227 KiB with the static ones
};

// What a block may use without asking (CUDA C++ Programming Guide, "Compute Capabilities", 9.x).
inline constexpr std::size_t kSharedBytesUnasked = 48 * 1024;

inline std::string kernel_text(const void* kernel) {
  const char* name = nullptr;
  return cudaFuncGetName(&name, kernel) == cudaSuccess ? "launch of " + std::string(name)
                                                       : "launch of a kernel";
}

/// `arguments` points to one pointer for each parameter of `kernel`. Throws DeviceLost.
inline void launch_kernel(CudaStream& stream, const LaunchShape& shape, const void* kernel,
                          void** arguments) {
  stream.device().select();
  if (shape.shared_bytes > kSharedBytesUnasked)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               "cudaFuncSetAttribute");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.blocks_x, shape.blocks_y, shape.blocks_z);
  config.blockDim = dim3(shape.threads, 1, 1);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle();
  const cudaError_t status = cudaLaunchKernelExC(&config, kernel, arguments);
  if (status != cudaSuccess) check_cuda(status, kernel_text(kernel));
}

/// Enqueues. Throws DeviceLost, also for what an earlier kernel did.
template <typename... Params>
void launch(CudaStream& stream, const LaunchShape& shape, void (*kernel)(Params...),
            std::type_identity_t<Params>... args) {
  void* arguments[sizeof...(Params) + 1] = {const_cast<void*>(static_cast<const void*>(&args))...,
                                            nullptr};
  launch_kernel(stream, shape, reinterpret_cast<const void*>(kernel), arguments);
}

#if defined(__CUDACC__)
/// The block's LaunchShape::shared_bytes, 16-byte aligned, not cleared.
template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ float4 elaswave_dynamic_shared[];
  return reinterpret_cast<T*>(elaswave_dynamic_shared);
}
#endif

}  // namespace elaswave::device
