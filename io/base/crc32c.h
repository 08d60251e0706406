// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, initial value and final xor 0xFFFFFFFF; RFC
// 3720, appendix B.4): "123456789" has 0xE3069283. Finds every burst of up to 32 bits, unlike the
// Fletcher32 of HDF5, to which 0x0000 and 0xFFFF are the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace elaswave {

/// Of `bytes` after data whose checksum is `crc` (0: nothing yet).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);
/// The same without special instructions; crc32c() on processors that lack them, and for tests.
std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t crc = 0);

/// The checksum of A followed by B from those of A and B, in O(log second_bytes).
std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second, std::int64_t second_bytes);

}  // namespace elaswave
