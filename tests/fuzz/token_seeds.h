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

inline constexpr std::int64_t kTwo31 = std::int64_t{1} << 31;

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

/// A file in our own format, its checksums right.
inline std::string own_file(data::TokenType type, std::int64_t vocab, const std::string& tokens) {
  const auto header = data::encode_header(
      {.type = type,
       .count = std::ssize(tokens) / data::size_bytes(type),
       .vocab = vocab,
       .tokenizer = std::string(data::kByteTokenizer),
       .data_checksum = data::token_checksum(std::as_bytes(std::span(tokens)))});
  return std::string(reinterpret_cast<const char*>(header.data()), header.size()) + tokens;
}

/// Files that stand alone.
inline std::vector<std::string> token_files() {
  std::vector<std::string> files;
  for (const data::TokenType type :
       {data::TokenType::u8, data::TokenType::u16, data::TokenType::i32}) {
    const auto tokens_bytes = static_cast<std::size_t>(24 * data::size_bytes(type));
    files.push_back(own_file(type, data::kByteVocab, std::string(tokens_bytes, '\1')));
  }
  // Where ids and vocabularies leave int32.
  for (const std::int64_t vocab : {kTwo31 - 1, kTwo31, kTwo31 + 1}) {
    std::string ids = field(std::int32_t{1});
    for (const std::int64_t id : {vocab - 2, vocab - 1, vocab})
      ids += field(static_cast<std::uint32_t>(id));
    files.push_back(own_file(data::TokenType::i32, vocab, ids));
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
          field(kTwo31 - 1),
          field(kTwo31),
          field(UINT32_MAX),
          field(INT64_MAX),
          field(INT64_MIN),
          field(std::uint64_t{1} << 61),
          std::string(data::kByteTokenizer)};
}

}  // namespace elaswave::fuzz
