// exp and log of model/kernels/simd.h as plain functions, one pair per instruction set.
#pragma once

#include <cstdint>

namespace elaswave::kernels {

void exp_avx2(const float* x, float* y, std::int64_t n);
void exp_avx512(const float* x, float* y, std::int64_t n);
void log_avx2(const float* x, float* y, std::int64_t n);
void log_avx512(const float* x, float* y, std::int64_t n);

}  // namespace elaswave::kernels
