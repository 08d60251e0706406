// Vector types and mathematics, written once and compiled twice: every *_simd.cpp is built with
// AVX2+FMA flags and again with AVX-512 flags (CMakeLists.txt), ELASWAVE_SIMD_HEADER naming the
// primitives. cpu_ops.cpp picks a table at run time.
//
// Rules for *_simd.cpp, because the linker keeps one copy of each inline function and could keep
// the AVX-512 one for a machine that has none (tests/lint/simd_symbols.sh looks for such symbols):
// - include nothing but this file, simd_kernels.h-style headers of plain structs, <cstdint> and
// intrinsics;
// - no inline function, template or container of the standard library or of our own headers;
// - everything but the exported table lives in an unnamed namespace.
//
// Both instruction sets run the same text, so element-wise results agree bit by bit; sums over
// lanes do not.
#pragma once

#include ELASWAVE_SIMD_HEADER  // NOLINT: simd_avx2.h or simd_avx512.h

namespace elaswave::kernels {
namespace {

/// How many lanes take part: all, or the first `lanes`.
struct FullVector {};
struct PartVector {
  std::int64_t lanes;
};
ELASWAVE_INLINE F32 load(const float* p, FullVector) {
  return load(p);
}
ELASWAVE_INLINE F32 load(const float* p, PartVector part) {
  return load_first(p, part.lanes);
}
ELASWAVE_INLINE void store(float* p, F32 a, FullVector) {
  store(p, a);
}
ELASWAVE_INLINE void store(float* p, F32 a, PartVector part) {
  store_first(p, a, part.lanes);
}
ELASWAVE_INLINE I32 load_low16(const std::uint16_t* p, FullVector) {
  return load_low16(p, kLanes);
}
ELASWAVE_INLINE I32 load_low16(const std::uint16_t* p, PartVector part) {
  return load_low16(p, part.lanes);
}
ELASWAVE_INLINE void store_low16(std::uint16_t* p, I32 a, FullVector) {
  store_low16(p, a, kLanes);
}
ELASWAVE_INLINE void store_low16(std::uint16_t* p, I32 a, PartVector part) {
  store_low16(p, a, part.lanes);
}

/// body(i, lanes) for i = 0, kLanes, 2 kLanes, ... below n; only the last call may be partial.
template <typename Body>
ELASWAVE_INLINE void sweep(std::int64_t n, const Body& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, FullVector{});
  if (i < n) body(i, PartVector{n - i});
}

/// e^x within 1 ulp. Below -104 it is 0, above 89 infinity; NaN stays. Reduction by ln 2 in two
/// parts and the polynomial of Cephes' expf (Moshier, netlib.org/cephes).
ELASWAVE_INLINE F32 exp(F32 x) {
  x = max(set1(-104.0f), min(set1(89.0f), x));
  const F32 n = round_even(x * set1(1.44269504088896341f));
  F32 r = fnma(n, set1(0.693359375f), x);
  r = fnma(n, set1(-2.12194440e-4f), r);
  F32 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return scale_power2(p, n);
}

/// Natural logarithm within 2 ulp. REQUIRES: x positive and normal; infinity and NaN give NaN.
/// Polynomial of Cephes' logf.
ELASWAVE_INLINE F32 log(F32 x) {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2))
  const I32 shifted = bits(x) - set1_i32(0x3F3504F3u);
  const F32 e = to_f32(shift_right_signed<23>(shifted));
  const F32 m = from_bits((shifted & set1_i32(0x007FFFFFu)) + set1_i32(0x3F3504F3u));
  const F32 r = m - set1(1.0f);
  F32 p = set1(7.0376836292e-2f);
  p = fma(p, r, set1(-1.1514610310e-1f));
  p = fma(p, r, set1(1.1676998740e-1f));
  p = fma(p, r, set1(-1.2420140846e-1f));
  p = fma(p, r, set1(1.4249322787e-1f));
  p = fma(p, r, set1(-1.6668057665e-1f));
  p = fma(p, r, set1(2.0000714765e-1f));
  p = fma(p, r, set1(-2.4999993993e-1f));
  p = fma(p, r, set1(3.3333331174e-1f));
  const F32 square = r * r;
  F32 y = fma(e, set1(-2.12194440e-4f), p * r * square);
  y = fnma(set1(0.5f), square, y);
  return fma(e, set1(0.693359375f), r + y) +
         (x - x);  // the last term lets NaN and infinity through
}

/// 2^40, the grid of exact sums (ops.h, kFractionBits).
constexpr double kGrid = 0x1p40;

/// sums[0..kLanes) (+)= rint(g * 2^40), ties to even, for the first lanes of g. A lane outside the
/// limit (or not a number) adds 0 and is reported by `false`. `Store` picks overwriting or adding.
struct StoreSums {};
struct AddSums {};
ELASWAVE_INLINE void put(std::int64_t* p, I64 a, StoreSums) {
  store_i64(p, a);
}
ELASWAVE_INLINE void put(std::int64_t* p, I64 a, AddSums) {
  store_i64(p, load_i64(p) + a);
}
template <typename Store>
ELASWAVE_INLINE bool quantise(std::int64_t* sums, F32 g, F32 limit, Store how) {
  const Mask good = less(abs(g), limit);
  const F32 kept = keep(good, g);
  put(sums, to_i64(low_f64(kept) * set1_f64(kGrid)), how);
  put(sums + kLanes64, to_i64(high_f64(kept) * set1_f64(kGrid)), how);
  return all(good);
}
/// The same for a partial vector.
template <typename Store>
ELASWAVE_INLINE bool quantise_first(std::int64_t* sums, F32 g, F32 limit, Store how,
                                    std::int64_t lanes) {
  std::int64_t buffer[kLanes];
  for (int i = 0; i < kLanes; ++i) buffer[i] = i < lanes ? sums[i] : 0;
  const bool good = quantise(buffer, select(lanes_below(lanes), g, set1(0.0f)), limit, how);
  for (std::int64_t i = 0; i < lanes; ++i) sums[i] = buffer[i];
  return good;
}
ELASWAVE_INLINE bool quantise(std::int64_t* sums, F32 g, F32 limit, StoreSums how, FullVector) {
  return quantise(sums, g, limit, how);
}
ELASWAVE_INLINE bool quantise(std::int64_t* sums, F32 g, F32 limit, AddSums how, FullVector) {
  return quantise(sums, g, limit, how);
}
template <typename Store>
ELASWAVE_INLINE bool quantise(std::int64_t* sums, F32 g, F32 limit, Store how, PartVector part) {
  return quantise_first(sums, g, limit, how, part.lanes);
}

}  // namespace
}  // namespace elaswave::kernels
