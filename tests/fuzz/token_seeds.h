// Token files of every format, small, for the targets that read them.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "io/base/hash.h"
#include "io/data/token_format.h"
#include "tests/fuzz/fuzz.h"

namespace elaswave::fuzz {

enum class Mend { header, header_and_data };

/// The bytes with the checksums of our own format made right: without this, a changed header never
/// gets past them.
inline std::vector<std::byte> mended(std::vector<std::byte> file, Mend mend) {
  constexpr std::size_t kDataChecksumAt = 32;
  constexpr std::size_t kHeaderChecksumAt = data::kHeaderBytes - sizeof(std::uint64_t);
  if (std::ssize(file) < data::kHeaderBytes || !data::has_own_magic(file)) return file;
  const std::span<std::byte> bytes(file);
  if (mend == Mend::header_and_data) {
    const std::uint64_t sum = data::token_checksum(bytes.subspan(data::kHeaderBytes));
    std::memcpy(bytes.data() + kDataChecksumAt, &sum, sizeof sum);
  }
  const std::uint64_t sum = hash_bytes(bytes.first(kHeaderChecksumAt));
  std::memcpy(bytes.data() + kHeaderChecksumAt, &sum, sizeof sum);
  return file;
}

/// Files that stand alone.
inline std::vector<std::string> token_files() {
  std::vector<std::string> files;
  for (const data::TokenType type :
       {data::TokenType::u8, data::TokenType::u16, data::TokenType::i32}) {
    const std::int64_t count = 24;
    const std::string tokens(static_cast<std::size_t>(count * data::size_bytes(type)), '\1');
    const auto header = data::encode_header(
        {.type = type,
         .count = count,
         .vocab = data::kByteVocab,
         .tokenizer = std::string(data::kByteTokenizer),
         .data_checksum = data::token_checksum(std::as_bytes(std::span(tokens)))});
    files.push_back(std::string(reinterpret_cast<const char*>(header.data()), header.size()) +
                    tokens);
  }
  const auto llmc = [&](std::int32_t magic, std::int32_t version, std::size_t width) {
    std::string file = field(magic) + field(version) + field(std::int32_t{16});
    file.resize(1024);
    files.push_back(file + std::string(16 * width, '\2'));
  };
  llmc(20240520, 1, 2);
  llmc(20240801, 7, 4);
  files.emplace_back("\1\0\2\0\3\0\4\0", 8);  // nanoGPT's
  return files;
}

/// Megatron's .idx and .bin.
inline std::vector<std::pair<std::string, std::string>> megatron_pairs() {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::size_t width : {std::size_t{1}, std::size_t{2}, std::size_t{4}}) {
    const std::uint8_t code = width == 1 ? 1 : width == 2 ? 8 : 4;
    std::string index("MMIDIDX\0\0", 9);
    index += field(std::uint64_t{1}) + field(code) + field(std::uint64_t{2}) +
             field(std::uint64_t{3}) + field(std::int32_t{3}) + field(std::int32_t{5}) +
             field(std::int64_t{0}) + field(static_cast<std::int64_t>(3 * width));
    for (std::int64_t document = 0; document < 3; ++document) index += field(document);
    pairs.emplace_back(index, std::string(8 * width, '\3'));
  }
  return pairs;
}

inline std::vector<std::string> token_words() {
  return {"EWTOKENS",
          std::string("MMIDIDX\0\0", 9),
          field(std::int32_t{20240520}),
          field(std::int32_t{20240801}),
          field(std::uint32_t{4096}),
          field(std::uint64_t{257}),
          field(INT64_MAX),
          field(INT64_MIN),
          field(std::uint64_t{1} << 61),
          std::string(data::kByteTokenizer)};
}

}  // namespace elaswave::fuzz
