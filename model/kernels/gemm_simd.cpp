#include "model/kernels/gemm_simd.h"

#include <immintrin.h>

#include "model/kernels/simd.h"

namespace elaswave::kernels {
namespace {

constexpr float kInfinity = __builtin_inff();

template <typename Store>
bool put_exact(const float* g, std::int64_t n, float limit, std::int64_t* sums, Store how) {
  const F32 limits = set1(limit);
  bool good = true;
  sweep(n, [&](std::int64_t i, auto lanes) {
    good &= quantise(sums + i, load(g + i, lanes), limits, how, lanes);
  });
  return good;
}

bool add_exact(const float* g, std::int64_t n, float limit, std::int64_t* sums) {
  return put_exact(g, n, limit, sums, AddSums{});
}
bool store_exact(const float* g, std::int64_t n, float limit, std::int64_t* sums) {
  return put_exact(g, n, limit, sums, StoreSums{});
}

bool add_fast(const float* g, std::int64_t n, float* sums) {
  bool good = true;
  sweep(n, [&](std::int64_t i, auto lanes) {
    const F32 x = load(g + i, lanes);
    good &= all(less(abs(x), set1(kInfinity)));
    store(sums + i, load(sums + i, lanes) + x, lanes);
  });
  return good;
}
bool store_fast(const float* g, std::int64_t n, float* sums) {
  bool good = true;
  sweep(n, [&](std::int64_t i, auto lanes) {
    const F32 x = load(g + i, lanes);
    good &= all(less(abs(x), set1(kInfinity)));
    store(sums + i, x, lanes);
  });
  return good;
}

void add(const float* x, std::int64_t n, float* inout) {
  sweep(n, [&](std::int64_t i, auto lanes) {
    store(inout + i, load(inout + i, lanes) + load(x + i, lanes), lanes);
  });
}

// Four accumulators hide the latency of max and add. Lanes beyond n count as -infinity.
float row_max(const float* x, std::int64_t n) {
  F32 m[4] = {set1(-kInfinity), set1(-kInfinity), set1(-kInfinity), set1(-kInfinity)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) m[j] = max(m[j], load(x + i + j * kLanes));
  for (; i < n; i += kLanes) {
    const std::int64_t lanes = n - i < kLanes ? n - i : kLanes;
    m[0] = max(m[0], select(lanes_below(lanes), load_first(x + i, lanes), set1(-kInfinity)));
  }
  return reduce_max(max(max(m[0], m[1]), max(m[2], m[3])));
}

struct Discard {
  static void put(float*, F32, std::int64_t) {}
};
struct Keep {
  static void put(float* p, F32 e, std::int64_t lanes) {
    if (lanes == kLanes)
      store(p, e);
    else
      store_first(p, e, lanes);
  }
};

// sum exp(x_i - m), in an order fixed by n; `Output` keeps the terms at out or drops them.
template <typename Output>
float exp_sum(const float* x, std::int64_t n, float m, float* out) {
  const F32 shift = set1(m);
  F32 s[4] = {set1(0), set1(0), set1(0), set1(0)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) {
      const F32 e = exp(load(x + i + j * kLanes) - shift);
      Output::put(out + i + j * kLanes, e, kLanes);
      s[j] = s[j] + e;
    }
  for (; i < n; i += kLanes) {
    const std::int64_t lanes = n - i < kLanes ? n - i : kLanes;
    const F32 e = keep(lanes_below(lanes), exp(load_first(x + i, lanes) - shift));
    Output::put(out + i, e, lanes);
    s[0] = s[0] + e;
  }
  return reduce_sum((s[0] + s[1]) + (s[2] + s[3]));
}

// log(sum) - (x_target - m). The sum has a term e^0, so it is at least 1 unless something is not
// finite; then it is NaN, and so is its logarithm.
float loss_of(float sum, float shifted_target) {
  float lanes[kLanes];
  store(lanes, log(set1(sum)));
  return lanes[0] - shifted_target;
}

float token_loss(const float* logits, std::int64_t n, std::int64_t target) {
  const float m = row_max(logits, n);
  const float sum = exp_sum<Discard>(logits, n, m, nullptr);
  return loss_of(sum, logits[target] - m);
}

float token_loss_gradient(float* logits, std::int64_t n, std::int64_t target, float scale) {
  const float m = row_max(logits, n);
  const float shifted_target = logits[target] - m;
  const float sum = exp_sum<Keep>(logits, n, m, logits);
  const F32 factor = set1(scale / sum);
  sweep(n, [&](std::int64_t i, auto lanes) {
    store(logits + i, load(logits + i, lanes) * factor, lanes);
  });
  logits[target] -= scale;
  return loss_of(sum, shifted_target);
}

float token_sum(const float* logits, std::int64_t n, float* largest) {
  *largest = row_max(logits, n);
  return exp_sum<Discard>(logits, n, *largest, nullptr);
}

void token_gradient(float* logits, std::int64_t n, std::int64_t target, float largest, float sum,
                    float scale) {
  const F32 shift = set1(largest), factor = set1(scale / sum);
  sweep(n, [&](std::int64_t i, auto lanes) {
    store(logits + i, exp(load(logits + i, lanes) - shift) * factor, lanes);
  });
  if (target >= 0) logits[target] -= scale;
}

float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// Eight rows of eight: pairs of rows interleaved by single, then double words, then halves swapped.
// AVX2 on both instruction sets: the loop waits for memory, not for shuffles.
void transpose_8x8(const float* in, std::int64_t in_stride, float* out, std::int64_t out_stride) {
  __m256 r[8], s[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(in + i * in_stride);
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xEE);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * out_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

void transpose(const float* in, std::int64_t rows, std::int64_t cols, std::int64_t in_stride,
               float* out, std::int64_t out_stride) {
  const std::int64_t whole_rows = rows / 8 * 8, whole_cols = cols / 8 * 8;
  for (std::int64_t c = 0; c < whole_cols; c += 8)
    for (std::int64_t r = 0; r < whole_rows; r += 8)
      transpose_8x8(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c)
      out[c * out_stride + r] = in[r * in_stride + c];
}

}  // namespace

extern const GemmSimd ELASWAVE_ISA_NAME(gemm_simd);
const GemmSimd ELASWAVE_ISA_NAME(gemm_simd) = {
    .add_exact = add_exact,
    .store_exact = store_exact,
    .add_fast = add_fast,
    .store_fast = store_fast,
    .add = add,
    .token_loss = token_loss,
    .token_loss_gradient = token_loss_gradient,
    .token_sum = token_sum,
    .token_loss_of = loss_of,
    .token_gradient = token_gradient,
    .exp = exp_of,
    .transpose = transpose,
};

}  // namespace elaswave::kernels
