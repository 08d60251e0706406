// The device language for the C++ compiler: included in front of a .cu file. Knows what our kernels
// may use, each with the rounding that CUDA documents (CUDA Math API); mathematical functions are
// the host's, within a unit or two in the last place of the device's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <source_location>

#include "tests/support/cuda/block.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
// A block's static memory is a static variable: blocks run one after the other.
#undef __shared__
#define __shared__ static
#define threadIdx (::elaswave::emulator::current.index)
#define blockIdx (::elaswave::emulator::current.block)
#define blockDim (::elaswave::emulator::current.block_dim)
#define gridDim (::elaswave::emulator::current.grid_dim)

namespace elaswave::emulator {

using Where = std::source_location;

inline void check_mask(unsigned mask, Where at) {
  if (mask != 0xFFFFFFFFu) kernel_error("a warp function with a mask that is not full", at);
}

template <typename T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp functions move 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

// `source` gives the lane to read from the caller's own, both within its segment of `width` lanes;
// outside of the segment the caller reads itself (CUDA C++ Programming Guide, "Warp Shuffle
// Functions").
template <typename T, typename Source>
T shuffle(unsigned mask, T value, int width, Where at, Source source) {
  check_mask(mask, at);
  const Brought brought = meet_warp(Meeting::shuffle, to_bits(value), at);
  const int lane = static_cast<int>(current.index.x % kWarpSize);
  const int first = lane / width * width;
  const int wanted = source(lane - first);
  const int from = wanted >= 0 && wanted < width ? first + wanted : lane;
  if ((brought.lanes >> from & 1u) == 0)
    kernel_error("a shuffle reads from a lane that is not there", at);
  T result{};
  std::memcpy(&result, &brought.bits[from], sizeof(T));
  return result;
}

inline unsigned ballot(unsigned mask, bool predicate, Where at) {
  check_mask(mask, at);
  const Brought brought = meet_warp(Meeting::ballot, predicate ? 1 : 0, at);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kWarpSize; ++lane)
    if ((brought.lanes >> lane & 1u) != 0 && brought.bits[lane] != 0) votes |= 1u << lane;
  return votes;
}

template <typename T>
T add(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}

// To the nearest integer, ties to even; out of range: the nearest that there is; NaN: the least.
inline long long to_integer(double value) {
  if (!(value >= -0x1p63)) return std::numeric_limits<long long>::min();
  return value >= 0x1p63 ? std::numeric_limits<long long>::max() : std::llrint(value);
}

}  // namespace elaswave::emulator

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's names
inline void __syncthreads(std::source_location at = std::source_location::current()) {
  ::elaswave::emulator::meet_block(at);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu,
                       std::source_location at = std::source_location::current()) {
  ::elaswave::emulator::check_mask(mask, at);
  ::elaswave::emulator::meet_warp(::elaswave::emulator::Meeting::warp_barrier, 0, at);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              std::source_location at = std::source_location::current()) {
  // The lane is taken modulo the width.
  return ::elaswave::emulator::shuffle(mask, value, width, at,
                                       [=](int) { return lane & (width - 1); });
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  std::source_location at = std::source_location::current()) {
  return ::elaswave::emulator::shuffle(mask, value, width, at,
                                       [=](int self) { return self ^ lanes; });
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                   std::source_location at = std::source_location::current()) {
  return ::elaswave::emulator::shuffle(mask, value, width, at,
                                       [=](int self) { return self + static_cast<int>(lanes); });
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                 std::source_location at = std::source_location::current()) {
  return ::elaswave::emulator::shuffle(mask, value, width, at,
                                       [=](int self) { return self - static_cast<int>(lanes); });
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location at = std::source_location::current()) {
  return ::elaswave::emulator::ballot(mask, predicate != 0, at);
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location at = std::source_location::current()) {
  return ::elaswave::emulator::ballot(mask, predicate != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location at = std::source_location::current()) {
  return ::elaswave::emulator::ballot(mask, predicate == 0, at) == 0;
}
inline void __threadfence() {}

inline int atomicAdd(int* at, int value) {
  return ::elaswave::emulator::add(at, value);
}
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  return ::elaswave::emulator::add(at, value);
}
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
  return ::elaswave::emulator::add(at, value);
}
inline float atomicAdd(float* at, float value) {
  return ::elaswave::emulator::add(at, value);
}
inline unsigned atomicMax(unsigned* at, unsigned value) {
  const unsigned old = *at;
  *at = std::max(old, value);
  return old;
}
inline unsigned atomicOr(unsigned* at, unsigned value) {
  const unsigned old = *at;
  *at = old | value;
  return old;
}
inline unsigned atomicExch(unsigned* at, unsigned value) {
  const unsigned old = *at;
  *at = value;
  return old;
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline double __fma_rn(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline long long __float2ll_rn(float a) {
  return ::elaswave::emulator::to_integer(a);
}
inline long long __double2ll_rn(double a) {
  return ::elaswave::emulator::to_integer(a);
}
inline float __double2float_rn(double a) {
  return static_cast<float>(a);
}
inline unsigned __float_as_uint(float a) {
  return std::bit_cast<unsigned>(a);
}
inline float __uint_as_float(unsigned a) {
  return std::bit_cast<float>(a);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((std::uint64_t{a} * b) >> 32);
}
inline float __expf(float a) {
  return std::exp(a);
}
inline float rsqrtf(float a) {
  return 1.0f / std::sqrt(a);
}
// NOLINTEND(bugprone-reserved-identifier)
