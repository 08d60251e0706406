// Rows of any length and alignment, read and written by CUDA kernels a vector at a time: element by
// element where 16-byte accesses do not fit, with the elements in the same threads, so that bits do
// not depend on strides. Included by .cu files only.
#pragma once

#include "model/kernels/cuda_device.h"

namespace elaswave::kernels::cuda {

template <typename T>
__device__ inline float element(const T* p) {
  float value[1];
  load(p, value);
  return value[0];
}

/// x = the first `count` elements at p (at most kWidth; none when negative), then zeros. `vectors`
/// as vectors_fit() has it for the whole row, and then `count` is never between 0 and kWidth.
template <typename T, typename Count, int kWidth>
__device__ inline void load_part(const T* p, Count count, bool vectors, float (&x)[kWidth]) {
  if (vectors && count > 0) {
    load(p, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    x[i] = i < count ? element(p + i) : 0.0f;
  }
}
template <typename T, typename Count, int kWidth>
__device__ inline void store_part(T* p, Count count, bool vectors, const float (&x)[kWidth]) {
  if (vectors && count > 0) {
    store(p, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float value[1] = {x[i]};
    if (i < count) store(p + i, value);
  }
}

/// body(zero of the storage type).
template <typename Body>
void with_type(DType dtype, const Body& body) {
  if (dtype == DType::f32)
    body(float{});
  else
    body(bf16{});
}
/// The elements of a view. REQUIRES: T is its storage type.
template <typename T>
const T* typed(const ConstMat& view) {
  EW_CHECK(view.dtype == (sizeof(T) == 4 ? DType::f32 : DType::bf16), "a matrix of {} among others",
           name(view.dtype));
  return reinterpret_cast<const T*>(view.data);
}
template <typename T>
T* typed(const Mat& view) {
  return const_cast<T*>(typed<T>(ConstMat(view)));
}

}  // namespace elaswave::kernels::cuda
