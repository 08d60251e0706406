// The format of one chunk on the wire. A message of any length travels as chunks, each a header and
// its payload, each with a tag of its own. All fields little endian (the only byte order built
// for). Internal to parallel/comm.
#pragma once

#include <cstdint>
#include <span>

#include "io/base/types.h"
#include "parallel/comm/wire.h"
#include "parallel/comm/world.h"

namespace elaswave::comm {

inline constexpr std::uint32_t kChunkMagic = 0x31435745;  // "EWC1"

/// What a chunk carries. An acknowledgement has no payload; its `message` counts the chunks
/// consumed so far.
enum class ChunkKind : std::uint8_t { data = 0, acknowledgement = 1 };

struct ChunkHeader {
  std::uint32_t magic = kChunkMagic;
  std::uint32_t generation = 0;
  std::uint32_t from = 0;  // world rank
  std::uint8_t channel = 0;
  ChunkKind kind = ChunkKind::data;
  std::uint16_t has_checksum = 0;
  std::uint64_t sequence = 0;  // of this chunk (or acknowledgement) within (peer, channel, kind)
  std::uint64_t message = 0;   // of this message within (peer, channel): the operation
  std::uint64_t message_bytes = 0;  // length of the whole message
  std::uint64_t offset_bytes = 0;   // of this chunk's payload in it
  std::uint64_t chunk_bytes = 0;    // length of this chunk's payload
  std::uint32_t checksum = 0;       // CRC32C of the header with this field 0, then the payload
  std::uint32_t zero = 0;

  bool operator==(const ChunkHeader&) const = default;
};
static_assert(sizeof(ChunkHeader) == 64);

inline constexpr std::int64_t kHeaderBytes = sizeof(ChunkHeader);
inline constexpr std::uint64_t kSequenceModulus = 1u << 17;
inline constexpr std::uint32_t kGenerationModulus = 1u << 9;
inline constexpr Tag kLargestTag = (1 << 30) - 1;

/// generation mod 2^9 | acknowledgement 1 bit | channel 3 bits | sequence mod 2^17.
constexpr Tag make_tag(Generation generation, Channel channel, ChunkKind kind,
                       std::uint64_t sequence) {
  static_assert(static_cast<unsigned>(Channel::count) <= 8);
  return static_cast<Tag>((raw(generation) % kGenerationModulus) << 21 |
                          static_cast<std::uint32_t>(kind) << 20 |
                          static_cast<std::uint32_t>(channel) << 17 |
                          static_cast<std::uint32_t>(sequence % kSequenceModulus));
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), continued from `crc`; start with 0.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t crc = 0);

}  // namespace elaswave::comm
