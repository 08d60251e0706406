// The vector primitives of simd.h for AVX-512 F, DQ, BW and VL. Include simd.h, not this file; its
// rules apply here.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define ELASWAVE_INLINE [[gnu::always_inline]] inline
/// The name under which a file exports its table for this instruction set.
#define ELASWAVE_ISA_NAME(base) base##_avx512

namespace elaswave::kernels {
namespace {

constexpr std::int64_t kLanes = 16;   // of F32
constexpr std::int64_t kLanes64 = 8;  // of F64

struct F32 {
  __m512 raw;
};
struct I32 {
  __m512i raw;
};
struct F64 {
  __m512d raw;
};
struct I64 {
  __m512i raw;
};
struct Mask {  // of F32 or I32 lanes
  __mmask16 raw;
};

ELASWAVE_INLINE __mmask16 first_lanes(std::int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1u);
}

ELASWAVE_INLINE F32 set1(float a) {
  return {_mm512_set1_ps(a)};
}
ELASWAVE_INLINE F32 load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
/// The first n (0..kLanes) lanes from memory, zero in the others; nothing else is touched.
ELASWAVE_INLINE F32 load_first(const float* p, std::int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
ELASWAVE_INLINE void store(float* p, F32 a) {
  _mm512_storeu_ps(p, a.raw);
}
ELASWAVE_INLINE void store_first(float* p, F32 a, std::int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.raw);
}

ELASWAVE_INLINE F32 operator+(F32 a, F32 b) {
  return {_mm512_add_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 operator-(F32 a, F32 b) {
  return {_mm512_sub_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 operator*(F32 a, F32 b) {
  return {_mm512_mul_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 operator/(F32 a, F32 b) {
  return {_mm512_div_ps(a.raw, b.raw)};
}
/// a * b + c and c - a * b, rounded once.
ELASWAVE_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return {_mm512_fmadd_ps(a.raw, b.raw, c.raw)};
}
ELASWAVE_INLINE F32 fnma(F32 a, F32 b, F32 c) {
  return {_mm512_fnmadd_ps(a.raw, b.raw, c.raw)};
}
ELASWAVE_INLINE F32 sqrt(F32 a) {
  return {_mm512_sqrt_ps(a.raw)};
}
/// A NaN in b comes through, one in a does not.
ELASWAVE_INLINE F32 max(F32 a, F32 b) {
  return {_mm512_max_ps(a.raw, b.raw)};
}
ELASWAVE_INLINE F32 min(F32 a, F32 b) {
  return {_mm512_min_ps(a.raw, b.raw)};
}
/// To the nearest integer, ties to even.
ELASWAVE_INLINE F32 round_even(F32 a) {
  return {_mm512_roundscale_ps(a.raw, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/// a * 2^n for integral n in [-252, 252], rounded once.
ELASWAVE_INLINE F32 scale_power2(F32 a, F32 n) {
  return {_mm512_scalef_ps(a.raw, n.raw)};
}

ELASWAVE_INLINE I32 bits(F32 a) {
  return {_mm512_castps_si512(a.raw)};
}
ELASWAVE_INLINE F32 from_bits(I32 a) {
  return {_mm512_castsi512_ps(a.raw)};
}
ELASWAVE_INLINE I32 set1_i32(std::uint32_t a) {
  return {_mm512_set1_epi32(static_cast<int>(a))};
}
ELASWAVE_INLINE I32 load_i32(const std::uint32_t* p) {
  return {_mm512_loadu_si512(p)};
}
ELASWAVE_INLINE I32 operator+(I32 a, I32 b) {
  return {_mm512_add_epi32(a.raw, b.raw)};
}
ELASWAVE_INLINE I32 operator-(I32 a, I32 b) {
  return {_mm512_sub_epi32(a.raw, b.raw)};
}
ELASWAVE_INLINE I32 operator&(I32 a, I32 b) {
  return {_mm512_and_si512(a.raw, b.raw)};
}
ELASWAVE_INLINE I32 operator|(I32 a, I32 b) {
  return {_mm512_or_si512(a.raw, b.raw)};
}
template <int count>
ELASWAVE_INLINE I32 shift_left(I32 a) {
  return {_mm512_slli_epi32(a.raw, count)};
}
template <int count>
ELASWAVE_INLINE I32 shift_right(I32 a) {  // zeros come in
  return {_mm512_srli_epi32(a.raw, count)};
}
template <int count>
ELASWAVE_INLINE I32 shift_right_signed(I32 a) {
  return {_mm512_srai_epi32(a.raw, count)};
}
ELASWAVE_INLINE F32 to_f32(I32 a) {
  return {_mm512_cvtepi32_ps(a.raw)};
}
/// Words of 16 bits in the first n lanes, with zeros above; zeros in the others.
ELASWAVE_INLINE I32 load_low16(const std::uint16_t* p, std::int64_t n) {
  return {_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}
/// The low 16 bits of each lane, first n lanes.
ELASWAVE_INLINE void store_low16(std::uint16_t* p, I32 a, std::int64_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtepi32_epi16(a.raw));
}

ELASWAVE_INLINE Mask less(F32 a, F32 b) {
  return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_LT_OQ)};
}
ELASWAVE_INLINE Mask is_nan(F32 a) {
  return {_mm512_cmp_ps_mask(a.raw, a.raw, _CMP_UNORD_Q)};
}
ELASWAVE_INLINE Mask greater_equal_unsigned(I32 a, I32 b) {
  return {_mm512_cmp_epu32_mask(a.raw, b.raw, _MM_CMPINT_NLT)};
}
/// Lanes [0, n); n may lie outside 0..kLanes.
ELASWAVE_INLINE Mask lanes_below(std::int64_t n) {
  return {n <= 0 ? __mmask16{0} : n >= 16 ? __mmask16{0xFFFF} : first_lanes(n)};
}
ELASWAVE_INLINE bool all(Mask m) {
  return m.raw == 0xFFFF;
}
/// m ? a : b.
ELASWAVE_INLINE F32 select(Mask m, F32 a, F32 b) {
  return {_mm512_mask_blend_ps(m.raw, b.raw, a.raw)};
}
/// m ? a : 0.
ELASWAVE_INLINE F32 keep(Mask m, F32 a) {
  return {_mm512_maskz_mov_ps(m.raw, a.raw)};
}
ELASWAVE_INLINE F32 abs(F32 a) {
  return {_mm512_abs_ps(a.raw)};
}

/// Over lanes, always as the same tree.
ELASWAVE_INLINE float reduce_sum(F32 a) {
  const __m256 half =
      _mm256_add_ps(_mm512_castps512_ps256(a.raw), _mm512_extractf32x8_ps(a.raw, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
ELASWAVE_INLINE float reduce_max(F32 a) {
  const __m256 half =
      _mm256_max_ps(_mm512_castps512_ps256(a.raw), _mm512_extractf32x8_ps(a.raw, 1));
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

ELASWAVE_INLINE F64 set1_f64(double a) {
  return {_mm512_set1_pd(a)};
}
ELASWAVE_INLINE F64 operator+(F64 a, F64 b) {
  return {_mm512_add_pd(a.raw, b.raw)};
}
ELASWAVE_INLINE F64 operator*(F64 a, F64 b) {
  return {_mm512_mul_pd(a.raw, b.raw)};
}
ELASWAVE_INLINE void store_f64(double* p, F64 a) {
  _mm512_storeu_pd(p, a.raw);
}
/// Lanes 0..kLanes64-1 and kLanes64..kLanes-1.
ELASWAVE_INLINE F64 low_f64(F32 a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.raw))};
}
ELASWAVE_INLINE F64 high_f64(F32 a) {
  return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.raw, 1))};
}
ELASWAVE_INLINE F32 join(F64 low, F64 high) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.raw)),
                             _mm512_cvtpd_ps(high.raw), 1)};
}

ELASWAVE_INLINE I64 set1_i64(std::uint64_t a) {
  return {_mm512_set1_epi64(static_cast<long long>(a))};
}
ELASWAVE_INLINE I64 load_i64(const std::int64_t* p) {
  return {_mm512_loadu_si512(p)};
}
ELASWAVE_INLINE void store_i64(std::int64_t* p, I64 a) {
  _mm512_storeu_si512(p, a.raw);
}
ELASWAVE_INLINE I64 operator+(I64 a, I64 b) {
  return {_mm512_add_epi64(a.raw, b.raw)};
}
ELASWAVE_INLINE I64 operator^(I64 a, I64 b) {
  return {_mm512_xor_si512(a.raw, b.raw)};
}
ELASWAVE_INLINE I64 multiply_low(I64 a, I64 b) {
  return {_mm512_mullo_epi64(a.raw, b.raw)};
}
template <int count>
ELASWAVE_INLINE I64 shift_right(I64 a) {
  return {_mm512_srli_epi64(a.raw, count)};
}
/// 0, 1, 2, ... by lane.
ELASWAVE_INLINE I64 iota_i64() {
  return {_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)};
}
/// kLanes64 words, zero-extended.
ELASWAVE_INLINE I64 load_words(const std::uint32_t* p) {
  return {_mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
/// Nearest double, ties to even.
ELASWAVE_INLINE F64 to_f64(I64 a) {
  return {_mm512_cvtepi64_pd(a.raw)};
}
/// Nearest integer, ties to even. REQUIRES: |a| < 2^62.
ELASWAVE_INLINE I64 to_i64(F64 a) {
  return {_mm512_cvtpd_epi64(a.raw)};
}

constexpr std::int64_t kPhiloxBlocks = 16;  // of one philox_words call

/// Blocks first .. first + kPhiloxBlocks - 1 of a stream (io/base/philox.h), four words each, in
/// order. 64-bit lanes hold 32-bit state in their lower half, whatever is in the upper one: the
/// multiply ignores it. Counters are dealt to lanes so that two unpacks put the words in order.
ELASWAVE_INLINE void philox_words(const std::uint32_t key[2], const std::uint32_t high[2],
                                  std::uint64_t first, std::uint32_t* out) {
  const __m512i multiplier0 = _mm512_set1_epi64(0xD2511F53),
                multiplier1 = _mm512_set1_epi64(0xCD9E8D57);
  const __m512i counter0 = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(first)),
                                            _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
  const __m512i counter1 = _mm512_add_epi64(counter0, _mm512_set1_epi64(8));
  __m512i x0[2] = {counter0, counter1};
  __m512i x1[2] = {_mm512_srli_epi64(counter0, 32), _mm512_srli_epi64(counter1, 32)};
  __m512i x2[2] = {_mm512_set1_epi64(high[0]), _mm512_set1_epi64(high[0])};
  __m512i x3[2] = {_mm512_set1_epi64(high[1]), _mm512_set1_epi64(high[1])};
  std::uint32_t k0 = key[0], k1 = key[1];
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512i p0 = _mm512_mul_epu32(multiplier0, x0[i]);
      const __m512i p1 = _mm512_mul_epu32(multiplier1, x2[i]);
      x0[i] =
          _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), x1[i], key0, 0x96);  // xor of three
      x2[i] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), x3[i], key1, 0x96);
      x1[i] = p1;
      x3[i] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512i words01 = _mm512_mask_blend_epi32(0xAAAA, x0[i], _mm512_slli_epi64(x1[i], 32));
    const __m512i words23 = _mm512_mask_blend_epi32(0xAAAA, x2[i], _mm512_slli_epi64(x3[i], 32));
    _mm512_storeu_si512(out + std::int64_t{32} * i, _mm512_unpacklo_epi64(words01, words23));
    _mm512_storeu_si512(out + std::int64_t{32} * i + 16, _mm512_unpackhi_epi64(words01, words23));
  }
}

}  // namespace
}  // namespace elaswave::kernels
