// On the emulator: shows that the benchmark runs. Its times mean nothing.
#include <cstdio>

#include "tests/bench/cuda_kernel_bench.h"
#include "tests/support/cuda/emulator.h"

int main(int argc, char** argv) {
  std::fputs("EMULATED: every kernel takes a microsecond, and no figure means anything\n", stderr);
  // Closing device memory to host code around each kernel takes most of the time.
  const elaswave::emulator::OpenDeviceMemory open;
  elaswave::emulator::kernels_take(1000);
  return elaswave::bench::cuda_kernel_bench(argc, argv, nullptr);
}
