// Headers of chunks: what a chunk must say, and what is wrong with one that says something else.
#include <cstring>
#include <utility>

#include "parallel/comm/messenger.h"

#include "io/base/mutant.h"

namespace elaswave::comm {

ChunkHeader Messenger::header_of(const Flight& flight) const {
  const bool is_send = flight.role == Role::send || flight.role == Role::send_acknowledgement;
  const bool is_data = flight.role == Role::send || flight.role == Role::receive;
  ChunkHeader header;
  header.generation = mutant(Mutant::old_generation_accepted) ? 0 : raw(flight.generation);
  header.from = static_cast<std::uint32_t>(is_send ? world_rank_ : flight.peer);
  header.channel = static_cast<std::uint8_t>(flight.channel);
  header.kind = is_data ? ChunkKind::data : ChunkKind::acknowledgement;
  header.sequence = flight.sequence;
  header.message = flight.message;
  header.message_bytes = is_data ? static_cast<std::uint64_t>(flight.transfer->bytes) : 0;
  header.offset_bytes = static_cast<std::uint64_t>(flight.offset);
  header.chunk_bytes = static_cast<std::uint64_t>(flight.length);
  header.has_checksum = options_.checksum == Checksum::on ? 1 : 0;
  return header;
}

void Messenger::seal(Flight& flight) const {
  ChunkHeader header = header_of(flight);
  if (header.has_checksum) header.checksum = checksum_of(flight, header);
  std::memcpy(flight.buffer.memory.get(), &header, sizeof(header));
}

std::optional<Error> Messenger::disagreement(Flight& flight, std::int64_t bytes) const {
  // The usual case first and without any text: this runs for every chunk.
  const ChunkHeader expected = header_of(flight);
  ChunkHeader got;
  ChunkHeader plain;  // without the checksum
  if (bytes >= kHeaderBytes) {
    std::memcpy(&got, flight.buffer.memory.get(), sizeof(got));
    plain = got;
    plain.checksum = 0;
  }
  const bool agrees = bytes == kHeaderBytes + flight.length && plain == expected;
  if (agrees && (!got.has_checksum || checksum_of(flight, got) == got.checksum))
    return std::nullopt;

  Error error{
      .code = Code::unrecoverable,
      .what = fmt::format("rank {} received a chunk from rank {} that it does not expect",
                          world_rank_, flight.peer),
      .where = flight.transfer ? fmt::format("rank {}, {}", world_rank_, describe(*flight.transfer))
                               : fmt::format("rank {}, acknowledgement from rank {}, channel {}",
                                             world_rank_, flight.peer, name(flight.channel)),
      .why = {},
      .fix = "all ranks must run the same program with the same options; if they do, report this"};
  if (agrees) {
    error.code = Code::corrupt;
    error.what =
        fmt::format("rank {} received damaged bytes from rank {}", world_rank_, flight.peer);
    error.why =
        fmt::format("checksum {:08x}, computed {:08x}", got.checksum, checksum_of(flight, got));
    error.fix = "memory or the network corrupts data: test the hardware of both hosts";
  } else if (bytes < kHeaderBytes) {
    error.why = fmt::format("{} bytes arrived, a header has {}", bytes, kHeaderBytes);
  } else if (got.message == expected.message && got.message_bytes != expected.message_bytes) {
    error.why = fmt::format("the message has {} bytes, {} expected", got.message_bytes,
                            expected.message_bytes);
  } else {
    error.why = fmt::format(
        "{} bytes, magic {:08x}, generation {}, channel {}, sequence {}, message {} [{}+{} of {}]; "
        "expected generation "
        "{}, sequence {}, message {} [{}+{} of {}]",
        bytes, got.magic, got.generation, got.channel, got.sequence, got.message, got.offset_bytes,
        got.chunk_bytes, got.message_bytes, expected.generation, expected.sequence,
        expected.message, expected.offset_bytes, expected.chunk_bytes, expected.message_bytes);
  }
  return error;
}

std::uint32_t Messenger::checksum_of(Flight& flight, ChunkHeader header) {
  header.checksum = 0;
  const auto crc = crc32c(std::as_bytes(std::span(&header, 1)));
  return crc32c(flight.buffer.first(kHeaderBytes + flight.length).subspan(kHeaderBytes), crc);
}

}  // namespace elaswave::comm
