// What .cu files of the emulated libraries find instead of the header of the same name: a launch
// gives the kernel to the emulator.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <source_location>
#include <type_traits>

#include "parallel/device/cuda_check.h"
#include "parallel/device/cuda_device.h"
#include "tests/support/cuda/emulator.h"

namespace elaswave::device {

struct LaunchShape {
  unsigned blocks_x = 1;
  unsigned blocks_y = 1;
  unsigned blocks_z = 1;
  unsigned threads = 256;
  std::size_t shared_bytes = 0;
  std::source_location at = std::source_location::current();  // for messages
};

template <typename... Params>
void launch(CudaStream& stream, const LaunchShape& shape, void (*kernel)(Params...),
            std::type_identity_t<Params>... args) {
  stream.device().select();
  (emulator::check_argument(&args, emulator::members_of<Params>().data(), sizeof args, shape.at),
   ...);
  check_cuda(emulator::enqueue_kernel(stream.handle(),
                                      {.grid = dim3(shape.blocks_x, shape.blocks_y, shape.blocks_z),
                                       .threads = shape.threads,
                                       .shared_bytes = shape.shared_bytes,
                                       .body = [kernel, args...] { kernel(args...); },
                                       .at = shape.at}),
             "launch of a kernel", shape.at);
}

template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::current.dynamic_shared);
}

}  // namespace elaswave::device
