// The tables of vector routines, one per instruction set. Plain structs, pointers and sizes only:
// this header is compiled into both sets of objects (simd.h says why). Everything is f32 and works
// on one task's share of an operation; the
// *_cpu.cpp files cut operations into tasks and hand storage views over as pointers and strides (in
// elements).
//
// THREADS: any; a routine touches its arguments alone.
#pragma once

#include <cstdint>

namespace elaswave::kernels {

/// Where words of a dropout mask come from: a RandomStream (io/base/philox.h) in plain words.
struct DropoutMask {
  std::uint32_t key[2] = {}, high[2] = {};
  std::uint32_t threshold = 0;  // an element is kept when its word is at least this
  float keep_scale = 1;         // 1 / (1 - rate)
  std::uint64_t first_element = 0;
};

struct AdamWArgs {
  float *master = nullptr, *moment1 = nullptr, *moment2 = nullptr;
  const float* grad = nullptr;
  float lr = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
  float clip = 0, correction1 = 0, correction2 = 0;
  float* working_f32 = nullptr;  // at most one of the two
  std::uint16_t* working_bf16 = nullptr;
};

struct ElementwiseKernels {
  void (*add)(const float* a, const float* b, float* out, std::int64_t n);
  /// out[i] = mask(first_element + i) * in[i], plus add[i] when add is not null. out may alias
  /// either.
  void (*dropout)(const DropoutMask& mask, const float* add, const float* in, float* out,
                  std::int64_t n);
  void (*gelu_forward)(const float* x, float* y, std::int64_t n);
  void (*gelu_backward)(const float* x, const float* dy, float* dx, std::int64_t n);
  void (*adamw)(const AdamWArgs& args, std::int64_t n);
  /// mean[i] = float(double(sums[i]) * scale).
  void (*mean_exact)(const std::int64_t* sums, double scale, float* mean, std::int64_t n);
  void (*mean_fast)(const float* sums, double scale, float* mean, std::int64_t n);
  /// Sum of x[i]^2 in double: kSquareLanes interleaved chains, then a fixed tree
  /// (elementwise_simd.cpp).
  double (*sum_squares)(const float* x, std::int64_t n);
  /// The sum of Ops::digest over words first .. first + n - 1 of a range; `words` points at word
  /// `first`.
  std::uint64_t (*digest)(const float* words, std::uint64_t key, std::int64_t first,
                          std::int64_t n);
  /// bf16 (io/base/bf16.h) to f32, exactly, and back, rounded to nearest even.
  void (*widen)(const std::uint16_t* in, float* out, std::int64_t n);
  void (*narrow)(const float* in, std::uint16_t* out, std::int64_t n);
};

/// Rows of a layer norm, forward. mean and rstd have one element a row.
struct NormForwardRows {
  const float* x = nullptr;
  float* y = nullptr;
  std::int64_t x_stride = 0, y_stride = 0;
  const float *gamma = nullptr, *beta = nullptr;
  float *mean = nullptr, *rstd = nullptr;
  float epsilon = 0;
  std::int64_t rows = 0, C = 0;
};
/// Rows of a layer norm, backward. dgamma and dbeta (C each) receive the sums over these rows.
struct NormBackwardRows {
  const float *dy = nullptr, *x = nullptr;
  const float* dresidual = nullptr;  // or null; may alias dx
  float* dx = nullptr;
  std::int64_t dy_stride = 0, x_stride = 0, dresidual_stride = 0, dx_stride = 0;
  const float *gamma = nullptr, *mean = nullptr, *rstd = nullptr;
  float *dgamma = nullptr, *dbeta = nullptr;
  std::int64_t rows = 0, C = 0;
};
struct NormKernels {
  void (*forward)(const NormForwardRows& rows);
  void (*backward)(const NormBackwardRows& rows);
};

/// Causal attention of one head of one sample: T positions of D elements. q, k, v rows lie
/// `qkv_stride` apart.
struct AttentionHeadForward {
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  float* out = nullptr;
  float* lse = nullptr;  // T
  std::int64_t qkv_stride = 0, out_stride = 0;
  std::int64_t T = 0, D = 0;
  float scale = 1;                    // of scores
  const DropoutMask* mask = nullptr;  // or null; element query * T + key
  float* scratch = nullptr;           // forward_scratch_elems(T, D), 64-byte aligned
};
struct AttentionHeadBackward {
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  const float *out = nullptr, *dout = nullptr;
  const float* lse = nullptr;
  float *dq = nullptr, *dk = nullptr, *dv = nullptr;
  std::int64_t qkv_stride = 0, out_stride = 0, dout_stride = 0, dqkv_stride = 0;
  std::int64_t T = 0, D = 0;
  float scale = 1;
  const DropoutMask* mask = nullptr;
  float* scratch = nullptr;  // backward_scratch_elems(T, D), 64-byte aligned
};
struct AttentionKernels {
  std::int64_t (*forward_scratch_elems)(std::int64_t T, std::int64_t D);
  std::int64_t (*backward_scratch_elems)(std::int64_t T, std::int64_t D);
  void (*forward)(const AttentionHeadForward& head);
  void (*backward)(const AttentionHeadBackward& head);
};

/// Consecutive new positions of one head against cached keys and values. The first of them attends
/// to `first_keys` rows, each further one to one row more.
struct CachedAttentionRows {
  const float* q = nullptr;
  const float *keys = nullptr, *values = nullptr;
  float* out = nullptr;
  std::int64_t q_stride = 0, keys_stride = 0, values_stride = 0, out_stride = 0;
  std::int64_t rows = 0, first_keys = 0, D = 0;
  float scale = 1;           // of scores
  float* scratch = nullptr;  // scratch_elems(first_keys + rows - 1, D)
};
struct CachedAttentionKernels {
  std::int64_t (*scratch_elems)(std::int64_t keys, std::int64_t D);
  void (*rows)(const CachedAttentionRows& rows);
};

const ElementwiseKernels& elementwise_kernels_avx2();
const ElementwiseKernels& elementwise_kernels_avx512();
const NormKernels& norm_kernels_avx2();
const NormKernels& norm_kernels_avx512();
const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();
const CachedAttentionKernels& cached_attention_kernels_avx2();
const CachedAttentionKernels& cached_attention_kernels_avx512();

}  // namespace elaswave::kernels
