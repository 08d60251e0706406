// Compiled once per instruction set, like the kernels.
#include "model/kernels/simd.h"
#include "tests/reference/simd_math.h"

namespace elaswave::kernels {

void ELASWAVE_ISA_NAME(exp)(const float* x, float* y, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) { store(y + i, exp(load(x + i, lanes)), lanes); });
}
void ELASWAVE_ISA_NAME(log)(const float* x, float* y, std::int64_t n) {
  sweep(n, [&](std::int64_t i, auto lanes) { store(y + i, log(load(x + i, lanes)), lanes); });
}

}  // namespace elaswave::kernels
