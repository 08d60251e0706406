// The vectorised inner loops around matrix products, as a table with one instance per instruction
// set. Included by code of both instruction sets: plain declarations only (see simd.h).
#pragma once

#include <cstdint>

namespace elaswave::kernels {

struct GemmSimd {
  /// sums[i] (+)= llrint(g[i] * 2^kFractionBits), ties to even. False when some |g[i]| is not below
  /// `limit` (NaN included); such an element adds 0.
  bool (*add_exact)(const float* g, std::int64_t n, float limit, std::int64_t* sums);
  bool (*store_exact)(const float* g, std::int64_t n, float limit, std::int64_t* sums);
  /// sums[i] (+)= g[i]. False when some g[i] is not finite; it is added all the same.
  bool (*add_fast)(const float* g, std::int64_t n, float* sums);
  bool (*store_fast)(const float* g, std::int64_t n, float* sums);

  /// inout[i] += x[i].
  void (*add)(const float* x, std::int64_t n, float* inout);

  /// Of a row of n logits: log sum exp(logits) - logits[target], NaN when a logit is NaN or
  /// +infinity.
  float (*token_loss)(const float* logits, std::int64_t n, std::int64_t target);
  /// The same value; the row is replaced by the gradient of scale * loss:
  /// scale * (softmax(logits)_i - [i == target]).
  float (*token_loss_gradient)(float* logits, std::int64_t n, std::int64_t target, float scale);

  /// The two above in parts, with the same bits, for rows that are cut. Of a part of a row: its
  /// largest logit; returns the sum of exp(logit - largest).
  float (*token_sum)(const float* logits, std::int64_t n, float* largest);
  /// log(sum) - shifted_target: the loss, when `sum` is the whole row's and `shifted_target` the
  /// target's logit less the largest.
  float (*token_loss_of)(float sum, float shifted_target);
  /// A part of a row is replaced by the gradient, `largest` and `sum` being the whole row's. target
  /// is below 0 when it is not in this part.
  void (*token_gradient)(float* logits, std::int64_t n, std::int64_t target, float largest,
                         float sum, float scale);
  /// e^x.
  float (*exp)(float x);

  /// out[c * out_stride + r] = in[r * in_stride + c].
  void (*transpose)(const float* in, std::int64_t rows, std::int64_t cols, std::int64_t in_stride,
                    float* out, std::int64_t out_stride);
};

extern const GemmSimd gemm_simd_avx2;
extern const GemmSimd gemm_simd_avx512;

}  // namespace elaswave::kernels
