#include "model/kernels/cuda_attention.h"
#include "tests/bench/cuda_kernel_bench.h"

int main(int argc, char** argv) {
  return elaswave::bench::cuda_kernel_bench(argc, argv,
                                            &elaswave::kernels::cuda::make_cudnn_attention);
}
