// Attention of single positions of one head over cached keys and values. Each position is computed
// for itself, so its bits do not depend on which others share the call. Compiled once per
// instruction set: rules in simd.h.
//
// Order of sums, fixed by the shape: a score over D in one chain of vectors; the exponentials over
// keys in one chain of vectors; an output over keys in order.
#include "model/kernels/simd.h"
#include "model/kernels/simd_kernels.h"

namespace elaswave::kernels {
namespace {

// Vectors of a row of values that are summed in one pass over the keys. Four cover a head of 64
// (AVX2: half of one) and make enough chains to hide the latency of fma.
constexpr int kPassVectors = 4;

constexpr std::int64_t whole_vectors(std::int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

std::int64_t scratch_elems(std::int64_t keys, std::int64_t D) {
  return whole_vectors(keys) + whole_vectors(D);
}

/// scores[j] = query . keys[j].
void score(const CachedAttentionRows& head, const float* query, std::int64_t count, float* scores) {
  for (std::int64_t j = 0; j < count; ++j) {
    const float* key = head.keys + j * head.keys_stride;
    F32 sum = set1(0.0f);
    sweep(head.D, [&](std::int64_t d, auto lanes) {
      sum = fma(load(query + d, lanes), load(key + d, lanes), sum);
    });
    scores[j] = reduce_sum(sum);
  }
}

/// Scores become exponentials of their distance to the largest one; returns their sum.
float exponentials(float* scores, std::int64_t count) {
  F32 top = set1(scores[0]);
  std::int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) top = max(top, load(scores + j));
  if (j < count)
    top = max(top, select(lanes_below(count - j), load_first(scores + j, count - j), top));
  const F32 largest = set1(reduce_max(top));
  F32 sum = set1(0.0f);
  for (j = 0; j + kLanes <= count; j += kLanes) {
    const F32 e = exp(load(scores + j) - largest);
    store(scores + j, e);
    sum = sum + e;
  }
  if (j < count) {
    const F32 e = keep(lanes_below(count - j), exp(load_first(scores + j, count - j) - largest));
    store_first(scores + j, e, count - j);
    sum = sum + e;
  }
  return reduce_sum(sum);
}

/// out = factor * sum over keys of weights[j] * values[j], for whole vectors of elements.
template <int vectors>
ELASWAVE_INLINE void weigh(const float* values, std::int64_t stride, const float* weights,
                           std::int64_t count, float factor, float* out) {
  F32 sums[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) sums[v] = set1(0.0f);
  for (std::int64_t j = 0; j < count; ++j) {
    const F32 weight = set1(weights[j]);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      sums[v] = fma(weight, load(values + j * stride + v * kLanes), sums[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) store(out + v * kLanes, sums[v] * set1(factor));
}

void weigh_row(const CachedAttentionRows& head, const float* weights, std::int64_t count,
               float factor, float* out) {
  std::int64_t d = 0;
  for (; d + kPassVectors * kLanes <= head.D; d += kPassVectors * kLanes)
    weigh<kPassVectors>(head.values + d, head.values_stride, weights, count, factor, out + d);
  sweep(head.D - d, [&](std::int64_t e, auto lanes) {
    F32 sum = set1(0.0f);
    for (std::int64_t j = 0; j < count; ++j)
      sum = fma(set1(weights[j]), load(head.values + j * head.values_stride + d + e, lanes), sum);
    store(out + d + e, sum * set1(factor), lanes);
  });
}

void rows(const CachedAttentionRows& head) {
  float* query = head.scratch;
  float* scores = query + whole_vectors(head.D);
  for (std::int64_t r = 0; r < head.rows; ++r) {
    const std::int64_t count = head.first_keys + r;
    sweep(head.D, [&](std::int64_t d, auto lanes) {
      store(query + d, load(head.q + r * head.q_stride + d, lanes) * set1(head.scale), lanes);
    });
    score(head, query, count, scores);
    const float sum = exponentials(scores, count);
    weigh_row(head, scores, count, 1.0f / sum, head.out + r * head.out_stride);
  }
}

constexpr CachedAttentionKernels kKernels = {scratch_elems, rows};

}  // namespace

const CachedAttentionKernels& ELASWAVE_ISA_NAME(cached_attention_kernels)() {
  return kKernels;
}

}  // namespace elaswave::kernels
