// The vector primitives of simd.h for AVX2 and FMA. Include simd.h, not this file; its rules apply
// here.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define ELASWAVE_INLINE [[gnu::always_inline]] inline
/// The name under which a file exports its table for this instruction set.
#define ELASWAVE_ISA_NAME(base) base##_avx2

namespace elaswave::kernels {
namespace {

constexpr std::int64_t kLanes = 8;    // of F32
constexpr std::int64_t kLanes64 = 4;  // of F64

struct F32 {
  __m256 raw;
};
struct I32 {
  __m256i raw;
};
struct F64 {
  __m256d raw;
};
struct I64 {
  __m256i raw;
};
struct Mask {  // of F32 or I32 lanes: all bits or none
  __m256 raw;
};

ELASWAVE_INLINE __m256i first_lanes(std::int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

ELASWAVE_INLINE F32 set1(float a) {
  return {_mm256_set1_ps(a)};
}
ELASWAVE_INLINE F32 load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
/// The first n (0..kLanes) lanes from memory, zero in the others; nothing else is touched.
ELASWAVE_INLINE F32 load_first(const float* p, std::int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n))};
}
ELASWAVE_INLINE void store(float* p, F32 a) {
  _mm256_storeu_ps(p, a.raw);
}
ELASWAVE_INLINE void store_first(float* p, F32 a, std::int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), a.raw);
}

ELASWAVE_INLINE F32 operator+(F32 a, F32 b) {
  return {_mm256_add_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 operator-(F32 a, F32 b) {
  return {_mm256_sub_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 operator*(F32 a, F32 b) {
  return {_mm256_mul_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 operator/(F32 a, F32 b) {
  return {_mm256_div_ps(a.raw, b.raw)};
}
/// a * b + c and c - a * b, rounded once.
ELASWAVE_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.raw, b.raw, c.raw)};
}
ELASWAVE_INLINE F32 fnma(F32 a, F32 b, F32 c) {
  return {_mm256_fnmadd_ps(a.raw, b.raw, c.raw)};
}
ELASWAVE_INLINE F32 sqrt(F32 a) {
  return {_mm256_sqrt_ps(a.raw)};
}
/// A NaN in b comes through, one in a does not.
ELASWAVE_INLINE F32 max(F32 a, F32 b) {
  return {_mm256_max_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 min(F32 a, F32 b) {
  return {_mm256_min_ps(a.raw, b.raw)};
}
/// To the nearest integer, ties to even.
ELASWAVE_INLINE F32 round_even(F32 a) {
  return {_mm256_round_ps(a.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

ELASWAVE_INLINE I32 bits(F32 a) {
  return {_mm256_castps_si256(a.raw)};
}
ELASWAVE_INLINE F32 from_bits(I32 a) {
  return {_mm256_castsi256_ps(a.raw)};
}
ELASWAVE_INLINE I32 set1_i32(std::uint32_t a) {
  return {_mm256_set1_epi32(static_cast<int>(a))};
}
ELASWAVE_INLINE I32 load_i32(const std::uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
ELASWAVE_INLINE I32 operator+(I32 a, I32 b) {
  return {_mm256_add_epi32(a.raw, b.raw)};
}
ELASWAVE_INLINE I32 operator-(I32 a, I32 b) {
  return {_mm256_sub_epi32(a.raw, b.raw)};
}
ELASWAVE_INLINE I32 operator&(I32 a, I32 b) {
  return {_mm256_and_si256(a.raw, b.raw)};
}
ELASWAVE_INLINE I32 operator|(I32 a, I32 b) {
  return {_mm256_or_si256(a.raw, b.raw)};
}
template <int count>
ELASWAVE_INLINE I32 shift_left(I32 a) {
  return {_mm256_slli_epi32(a.raw, count)};
}
template <int count>
ELASWAVE_INLINE I32 shift_right(I32 a) {  // zeros come in
  return {_mm256_srli_epi32(a.raw, count)};
}
template <int count>
ELASWAVE_INLINE I32 shift_right_signed(I32 a) {
  return {_mm256_srai_epi32(a.raw, count)};
}
ELASWAVE_INLINE F32 to_f32(I32 a) {
  return {_mm256_cvtepi32_ps(a.raw)};
}
/// Words of 16 bits in the first n lanes, with zeros above; zeros in the others.
ELASWAVE_INLINE I32 load_low16(const std::uint16_t* p, std::int64_t n) {
  if (n == kLanes)
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  alignas(16) std::uint16_t words[kLanes] = {};
  for (std::int64_t i = 0; i < n; ++i) words[i] = p[i];
  return {_mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(words)))};
}
/// The low 16 bits of each lane, first n lanes.
ELASWAVE_INLINE void store_low16(std::uint16_t* p, I32 a, std::int64_t n) {
  if (n == kLanes) {
    const __m256i low = _mm256_and_si256(a.raw, _mm256_set1_epi32(0xFFFF));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    return;
  }
  std::uint32_t lanes[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a.raw);
  for (std::int64_t i = 0; i < n; ++i) p[i] = static_cast<std::uint16_t>(lanes[i]);
}

/// a * 2^n for integral n in [-252, 252], rounded once: the first product is exact.
ELASWAVE_INLINE F32 scale_power2(F32 a, F32 n) {
  const __m256i all = _mm256_cvtps_epi32(n.raw);
  const __m256i half = _mm256_srai_epi32(all, 1);
  const __m256i rest = _mm256_sub_epi32(all, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i power0 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i power1 = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.raw, _mm256_castsi256_ps(power0)),
                        _mm256_castsi256_ps(power1))};
}

ELASWAVE_INLINE Mask less(F32 a, F32 b) {
  return {_mm256_cmp_ps(a.raw, b.raw, _CMP_LT_OQ)};
}
ELASWAVE_INLINE Mask is_nan(F32 a) {
  return {_mm256_cmp_ps(a.raw, a.raw, _CMP_UNORD_Q)};
}
ELASWAVE_INLINE Mask greater_equal_unsigned(I32 a, I32 b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a.raw, b.raw), a.raw))};
}
/// Lanes [0, n); n may lie outside 0..kLanes.
ELASWAVE_INLINE Mask lanes_below(std::int64_t n) {
  return {_mm256_castsi256_ps(first_lanes(n < 0 ? 0 : n > kLanes ? kLanes : n))};
}
ELASWAVE_INLINE bool all(Mask m) {
  return _mm256_movemask_ps(m.raw) == 0xFF;
}
/// m ? a : b.
ELASWAVE_INLINE F32 select(Mask m, F32 a, F32 b) {
  return {_mm256_blendv_ps(b.raw, a.raw, m.raw)};
}
/// m ? a : 0.
ELASWAVE_INLINE F32 keep(Mask m, F32 a) {
  return {_mm256_and_ps(m.raw, a.raw)};
}
ELASWAVE_INLINE F32 abs(F32 a) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.raw)};
}

/// Over lanes, always as the same tree.
ELASWAVE_INLINE float reduce_sum(F32 a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ELASWAVE_INLINE float reduce_max(F32 a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

ELASWAVE_INLINE F64 set1_f64(double a) {
  return {_mm256_set1_pd(a)};
}
ELASWAVE_INLINE F64 operator+(F64 a, F64 b) {
  return {_mm256_add_pd(a.raw, b.raw)};
}
ELASWAVE_INLINE F64 operator*(F64 a, F64 b) {
  return {_mm256_mul_pd(a.raw, b.raw)};
}
ELASWAVE_INLINE void store_f64(double* p, F64 a) {
  _mm256_storeu_pd(p, a.raw);
}
/// Lanes 0..kLanes64-1 and kLanes64..kLanes-1.
ELASWAVE_INLINE F64 low_f64(F32 a) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.raw))};
}
ELASWAVE_INLINE F64 high_f64(F32 a) {
  return {_mm256_cvtps_pd(_mm256_extractf128_ps(a.raw, 1))};
}
ELASWAVE_INLINE F32 join(F64 low, F64 high) {
  return {_mm256_set_m128(_mm256_cvtpd_ps(high.raw), _mm256_cvtpd_ps(low.raw))};
}

ELASWAVE_INLINE I64 set1_i64(std::uint64_t a) {
  return {_mm256_set1_epi64x(static_cast<long long>(a))};
}
ELASWAVE_INLINE I64 load_i64(const std::int64_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
ELASWAVE_INLINE void store_i64(std::int64_t* p, I64 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.raw);
}
ELASWAVE_INLINE I64 operator+(I64 a, I64 b) {
  return {_mm256_add_epi64(a.raw, b.raw)};
}
ELASWAVE_INLINE I64 operator^(I64 a, I64 b) {
  return {_mm256_xor_si256(a.raw, b.raw)};
}
/// Schoolbook product of 32-bit halves; the upper half of the result is not needed.
ELASWAVE_INLINE I64 multiply_low(I64 a, I64 b) {
  const __m256i low = _mm256_mul_epu32(a.raw, b.raw);
  const __m256i cross0 = _mm256_mul_epu32(_mm256_srli_epi64(a.raw, 32), b.raw);
  const __m256i cross1 = _mm256_mul_epu32(a.raw, _mm256_srli_epi64(b.raw, 32));
  return {_mm256_add_epi64(low, _mm256_slli_epi64(_mm256_add_epi64(cross0, cross1), 32))};
}
template <int count>
ELASWAVE_INLINE I64 shift_right(I64 a) {
  return {_mm256_srli_epi64(a.raw, count)};
}
/// 0, 1, 2, ... by lane.
ELASWAVE_INLINE I64 iota_i64() {
  return {_mm256_setr_epi64x(0, 1, 2, 3)};
}
/// kLanes64 words, zero-extended.
ELASWAVE_INLINE I64 load_words(const std::uint32_t* p) {
  return {_mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
/// Nearest double, ties to even: upper half (signed) and lower half are exact as doubles, their sum
/// rounds once.
ELASWAVE_INLINE F64 to_f64(I64 a) {
  const __m256i low = _mm256_blend_epi32(a.raw, _mm256_castpd_si256(_mm256_set1_pd(0x1p52)), 0xAA);
  const __m256i high = _mm256_xor_si256(_mm256_srli_epi64(a.raw, 32),
                                        _mm256_castpd_si256(_mm256_set1_pd(0x1p84 + 0x1p63)));
  const __m256d upper =
      _mm256_sub_pd(_mm256_castsi256_pd(high), _mm256_set1_pd(0x1p84 + 0x1p63 + 0x1p52));
  return {_mm256_add_pd(upper, _mm256_castsi256_pd(low))};
}
/// Nearest integer, ties to even. REQUIRES: |a| < 2^62. Upper part first (a multiple of 2^32, so
/// parity is untouched), then the exact rest; adding 1.5 * 2^52 leaves the integer in the low bits
/// of a double.
ELASWAVE_INLINE I64 to_i64(F64 a) {
  const __m256d magic = _mm256_set1_pd(0x1.8p52);
  const __m256d high = _mm256_round_pd(_mm256_mul_pd(a.raw, _mm256_set1_pd(0x1p-32)),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256d rest = _mm256_fnmadd_pd(high, _mm256_set1_pd(0x1p32), a.raw);
  const __m256i bias = _mm256_castpd_si256(magic);
  const __m256i upper = _mm256_sub_epi64(_mm256_castpd_si256(_mm256_add_pd(high, magic)), bias);
  const __m256i lower = _mm256_sub_epi64(_mm256_castpd_si256(_mm256_add_pd(rest, magic)), bias);
  return {_mm256_add_epi64(_mm256_slli_epi64(upper, 32), lower)};
}

constexpr std::int64_t kPhiloxBlocks = 8;  // of one philox_words call

/// Blocks first .. first + kPhiloxBlocks - 1 of a stream (io/base/philox.h), four words each, in
/// order. 64-bit lanes hold 32-bit state in their lower half, whatever is in the upper one: the
/// multiply ignores it. Counters are dealt to lanes so that two unpacks put the words in order.
ELASWAVE_INLINE void philox_words(const std::uint32_t key[2], const std::uint32_t high[2],
                                  std::uint64_t first, std::uint32_t* out) {
  const __m256i multiplier0 = _mm256_set1_epi64x(0xD2511F53),
                multiplier1 = _mm256_set1_epi64x(0xCD9E8D57);
  const __m256i counter0 = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<long long>(first)),
                                            _mm256_setr_epi64x(0, 2, 1, 3));
  const __m256i counter1 = _mm256_add_epi64(counter0, _mm256_set1_epi64x(4));
  __m256i x0[2] = {counter0, counter1};
  __m256i x1[2] = {_mm256_srli_epi64(counter0, 32), _mm256_srli_epi64(counter1, 32)};
  __m256i x2[2] = {_mm256_set1_epi64x(high[0]), _mm256_set1_epi64x(high[0])};
  __m256i x3[2] = {_mm256_set1_epi64x(high[1]), _mm256_set1_epi64x(high[1])};
  std::uint32_t k0 = key[0], k1 = key[1];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i p0 = _mm256_mul_epu32(multiplier0, x0[i]);
      const __m256i p1 = _mm256_mul_epu32(multiplier1, x2[i]);
      x0[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), x1[i]), key0);
      x2[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), x3[i]), key1);
      x1[i] = p1;
      x3[i] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256i words01 = _mm256_blend_epi32(x0[i], _mm256_slli_epi64(x1[i], 32), 0xAA);
    const __m256i words23 = _mm256_blend_epi32(x2[i], _mm256_slli_epi64(x3[i], 32), 0xAA);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + std::int64_t{16} * i),
                        _mm256_unpacklo_epi64(words01, words23));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + std::int64_t{16} * i + 8),
                        _mm256_unpackhi_epi64(words01, words23));
  }
}

}  // namespace
}  // namespace elaswave::kernels
