#include "io/base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace elaswave {
namespace {

// Polynomials over GF(2) modulo P, reflected: bit 31 is the coefficient of x^0, so that
// multiplication by x is a shift to the right.
constexpr std::uint32_t kPolynomial = 0x82F63B78;
constexpr std::uint32_t kOne = 0x80000000;

constexpr std::uint32_t times_x(std::uint32_t a) {
  return (a >> 1) ^ ((a & 1) != 0 ? kPolynomial : 0);
}

constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if ((a & kOne) != 0) product ^= b;
    b = times_x(b);
  }
  return product;
}

/// x^(2^k) for every bit k of a number of bits.
constexpr std::array<std::uint32_t, 66> make_powers() {
  std::array<std::uint32_t, 66> powers{};
  powers[0] = kOne >> 1;
  for (std::size_t k = 1; k < powers.size(); ++k)
    powers[k] = multiply(powers[k - 1], powers[k - 1]);
  return powers;
}
constexpr auto kPowers = make_powers();

/// x^(8 bytes): what a checksum is multiplied by when so many zero bytes follow.
constexpr std::uint32_t shift_by(std::uint64_t bytes) {
  std::uint32_t product = kOne;
  for (std::size_t k = 3; bytes != 0; bytes >>= 1, ++k)
    if ((bytes & 1) != 0) product = multiply(product, kPowers[k]);
  return product;
}

using Table = std::array<std::uint32_t, 256>;

/// tables[i][b]: of byte b of a little-endian word, followed by 7 - i more bytes.
constexpr std::array<Table, 8> make_byte_tables() {
  std::array<Table, 8> tables{};
  for (std::uint32_t value = 0; value < 256; ++value)
    for (std::size_t i = 0; i < 8; ++i) tables[i][value] = multiply(value, shift_by(8 - i));
  return tables;
}
constexpr auto kByteTables = make_byte_tables();

std::uint64_t load64(const std::byte* at) {
  std::uint64_t word = 0;
  for (int i = 0; i < 8; ++i)
    word |= static_cast<std::uint64_t>(std::to_integer<std::uint8_t>(at[i])) << (8 * i);
  return word;
}

/// Eight bytes a step through tables ("slicing by 8").
std::uint32_t extend_portable(std::uint32_t state, const std::byte* at, const std::byte* end) {
  for (; end - at >= 8; at += 8) {
    const std::uint64_t word = load64(at) ^ state;
    state = 0;
    for (std::size_t i = 0; i < 8; ++i) state ^= kByteTables[i][(word >> (8 * i)) & 0xff];
  }
  for (; at != end; ++at)
    state = (state >> 8) ^ kByteTables[7][(state ^ std::to_integer<std::uint32_t>(*at)) & 0xff];
  return state;
}

#if defined(__x86_64__)

// The crc32 instruction answers after 3 cycles and starts every cycle: three independent streams
// keep it busy. They are joined by multiplying with constants, from tables of one entry a byte.
template <std::int64_t kLaneBytes>
struct Join {
  static constexpr std::array<Table, 4> make() {
    std::array<Table, 4> tables{};
    for (std::uint32_t value = 0; value < 256; ++value)
      for (std::uint32_t i = 0; i < 4; ++i)
        tables[i][value] = multiply(value << (8 * i), shift_by(kLaneBytes));
    return tables;
  }
  static constexpr std::array<Table, 4> kTables = make();

  static std::uint32_t shift(std::uint32_t state) {
    return kTables[0][state & 0xff] ^ kTables[1][(state >> 8) & 0xff] ^
           kTables[2][(state >> 16) & 0xff] ^ kTables[3][state >> 24];
  }
};

std::uint64_t load_native(const std::byte* at) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof word);
  return word;
}

template <std::int64_t kLaneBytes>
__attribute__((target("sse4.2"))) std::uint32_t extend_three(std::uint32_t state,
                                                             const std::byte*& at,
                                                             const std::byte* end) {
  while (end - at >= 3 * kLaneBytes) {
    std::uint64_t first = state;
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (const std::byte* const stop = at + kLaneBytes; at != stop; at += 8) {
      first = _mm_crc32_u64(first, load_native(at));
      second = _mm_crc32_u64(second, load_native(at + kLaneBytes));
      third = _mm_crc32_u64(third, load_native(at + 2 * kLaneBytes));
    }
    at += 2 * kLaneBytes;
    using Lane = Join<kLaneBytes>;
    state = Lane::shift(Lane::shift(static_cast<std::uint32_t>(first)) ^
                        static_cast<std::uint32_t>(second)) ^
            static_cast<std::uint32_t>(third);
  }
  return state;
}

__attribute__((target("sse4.2"))) std::uint32_t extend_sse42(std::uint32_t state,
                                                             const std::byte* at,
                                                             const std::byte* end) {
  // Long lanes make joining free, short ones serve what is left.
  state = extend_three<4096>(state, at, end);
  state = extend_three<256>(state, at, end);
  std::uint64_t wide = state;
  for (; end - at >= 8; at += 8) wide = _mm_crc32_u64(wide, load_native(at));
  state = static_cast<std::uint32_t>(wide);
  for (; at != end; ++at) state = _mm_crc32_u8(state, std::to_integer<std::uint8_t>(*at));
  return state;
}

std::uint32_t extend(std::uint32_t state, const std::byte* at, const std::byte* end) {
  return __builtin_cpu_supports("sse4.2") != 0 ? extend_sse42(state, at, end)
                                               : extend_portable(state, at, end);
}

#else

std::uint32_t extend(std::uint32_t state, const std::byte* at, const std::byte* end) {
  return extend_portable(state, at, end);
}

#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc) {
  return ~extend(~crc, bytes.data(), bytes.data() + bytes.size());
}

std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t crc) {
  return ~extend_portable(~crc, bytes.data(), bytes.data() + bytes.size());
}

std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second, std::int64_t second_bytes) {
  return multiply(first, shift_by(static_cast<std::uint64_t>(second_bytes))) ^ second;
}

}  // namespace elaswave
