#include "io/data/token_format.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "io/base/hash.h"

namespace elaswave::data {
namespace {

static_assert(std::endian::native == std::endian::little,
              "token files are little endian and mapped as they are");

// Our header, version 1. Offsets in bytes; README.md has a worked example.
constexpr std::string_view kOwnMagic = "EWTOKENS";
constexpr std::uint32_t kOwnVersion = 1;
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kHeaderBytesAt = 12;
constexpr std::size_t kVocabAt = 16;
constexpr std::size_t kCountAt = 24;
constexpr std::size_t kDataChecksumAt = 32;
constexpr std::size_t kTokenBytesAt = 40;
constexpr std::size_t kTokenizerBytesAt = 44;
constexpr std::size_t kTokenizerAt = 48;
constexpr std::size_t kHeaderChecksumAt = kHeaderBytes - 8;
// Ids are handed on as int32: beyond this an id inside the vocabulary could come out negative.
constexpr std::int64_t kMostVocab = std::int64_t{1} << 31;

// llm.c, dev/data/data_common.py (write_datafile) and llmc/dataloader.h: 256 x int32, then the
// tokens.
constexpr std::int64_t kLlmcHeaderBytes = 1024;
struct LlmcKind {
  std::int32_t magic;
  std::int32_t version;
  TokenType type;
};
constexpr LlmcKind kLlmcKinds[] = {{20240520, 1, TokenType::u16}, {20240801, 7, TokenType::i32}};

// Megatron-LM, megatron/core/datasets/indexed_dataset.py (_IndexWriter): magic, u64 version, u8
// type code, u64 sequence count, u64 document count, then i32 lengths, i64 byte pointers, i64
// document starts and optional i8 modes.
constexpr std::string_view kIndexMagic{"MMIDIDX\0\0", 9};
constexpr std::int64_t kIndexVersion = 1;
constexpr std::int64_t kIndexHeaderBytes = 9 + 8 + 1 + 8 + 8;

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <typename T>
void store(std::span<std::byte> bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

bool starts_with(std::span<const std::byte> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

auto data_error(std::string what, std::string_view where, std::string why, std::string fix) {
  return fail({Code::data, std::move(what), std::string(where), std::move(why), std::move(fix)});
}

constexpr auto kMakeAgain = "make the file again, or copy it again from where it came";

/// Tokens that fill the file from `offset_bytes`, or why they do not.
Result<void> check_size(std::int64_t file_bytes, const TokenLayout& layout, std::string_view path) {
  const std::int64_t available = file_bytes - layout.data_offset_bytes;
  const std::int64_t width = size_bytes(layout.type);
  // Compared as a quotient: a damaged count must not overflow the product.
  if (available >= 0 && available % width == 0 && layout.count == available / width) return {};
  const bool too_short = available < 0 || available / width < layout.count;
  return data_error(too_short ? "a token file is truncated" : "a token file is longer than it says",
                    path,
                    fmt::format("the header announces {} tokens of {} bytes after {} header bytes, "
                                "the file has {} bytes",
                                layout.count, width, layout.data_offset_bytes, file_bytes),
                    kMakeAgain);
}

Result<void> check_not_empty(std::int64_t count, std::string_view path) {
  if (count > 0) return {};
  return data_error("a token file is empty", path, "it holds no token",
                    "make the file again from a text that is not empty");
}

struct IndexHeader {
  TokenType type = TokenType::u16;
  std::int64_t sequences = 0;
  std::int64_t documents = 0;  // entries of the document index, its leading 0 included
  std::size_t lengths_at = 0;
  std::size_t pointers_at = 0;
};

Result<TokenType> index_type(std::uint8_t code, std::string_view path) {
  switch (code) {
    case 1:
      return TokenType::u8;
    case 4:
      return TokenType::i32;
    case 8:
      return TokenType::u16;
    default:
      return data_error(
          "a Megatron index names a token type that is not supported", path,
          fmt::format("type code {}; supported: 1 (uint8), 4 (int32), 8 (uint16)", code),
          "preprocess the corpus again with one of these types");
  }
}

Result<IndexHeader> read_index_header(std::span<const std::byte> index, std::string_view path) {
  const auto bytes = static_cast<std::int64_t>(index.size());
  if (!has_index_magic(index))
    return data_error("a Megatron index has a foreign beginning", path,
                      "its first nine bytes are not MMIDIDX and two zeros",
                      "keep PREFIX.idx and PREFIX.bin of one preprocessing together");
  if (bytes < kIndexHeaderBytes)
    return data_error("a Megatron index is truncated", path,
                      fmt::format("{} bytes, its header alone has {}", bytes, kIndexHeaderBytes),
                      kMakeAgain);
  const auto version = load<std::uint64_t>(index, 9);
  if (version != kIndexVersion)
    return data_error("a Megatron index has an unknown version", path,
                      fmt::format("version {}, supported: {}", version, kIndexVersion),
                      "preprocess the corpus again with a current Megatron-LM");
  IndexHeader header;
  EW_ASSIGN(header.type, index_type(load<std::uint8_t>(index, 17), path));
  const auto sequences = load<std::uint64_t>(index, 18);
  const auto documents = load<std::uint64_t>(index, 26);
  const auto limit = static_cast<std::uint64_t>(bytes);  // keeps the sum below from overflowing
  const bool sane = sequences <= limit && documents <= limit;
  const std::uint64_t tables = sane ? 12 * sequences + 8 * documents : 0;
  const std::uint64_t rest = limit - kIndexHeaderBytes;
  if (!sane || (rest != tables && rest != tables + sequences))
    return data_error("a Megatron index is truncated or damaged", path,
                      fmt::format("{} sequences and {} document entries do not make {} bytes",
                                  sequences, documents, bytes),
                      kMakeAgain);
  header.sequences = static_cast<std::int64_t>(sequences);
  header.documents = static_cast<std::int64_t>(documents);
  header.lengths_at = kIndexHeaderBytes;
  header.pointers_at = header.lengths_at + 4 * sequences;
  return header;
}

std::int32_t length_of(std::span<const std::byte> index, const IndexHeader& header,
                       std::int64_t i) {
  return load<std::int32_t>(index, header.lengths_at + 4 * static_cast<std::size_t>(i));
}

std::int64_t pointer_of(std::span<const std::byte> index, const IndexHeader& header,
                        std::int64_t i) {
  return load<std::int64_t>(index, header.pointers_at + 8 * static_cast<std::size_t>(i));
}

std::optional<TokenType> type_of_width(std::uint32_t width) {
  if (width == 1) return TokenType::u8;
  if (width == 2) return TokenType::u16;
  if (width == 4) return TokenType::i32;
  return std::nullopt;
}

}  // namespace

Result<TokenFormat> parse_token_format(std::string_view text) {
  for (const TokenFormat format : {TokenFormat::automatic, TokenFormat::elaswave,
                                   TokenFormat::nanogpt, TokenFormat::llmc, TokenFormat::megatron})
    if (text == name(format)) return format;
  return fail({Code::usage, "unknown token file format", "data.format",
               fmt::format("'{}' is none of auto, elaswave, nanogpt, llmc, megatron", text),
               "use one of these words"});
}

Result<TokenType> parse_token_type(std::string_view text) {
  for (const TokenType type : {TokenType::automatic, TokenType::u8, TokenType::u16, TokenType::i32})
    if (text == name(type)) return type;
  return fail({Code::usage, "unknown token type", "data.dtype",
               fmt::format("'{}' is none of auto, u8, u16, i32", text), "use one of these words"});
}

std::string_view name(TokenFormat format) {
  switch (format) {
    case TokenFormat::automatic:
      return "auto";
    case TokenFormat::elaswave:
      return "elaswave";
    case TokenFormat::nanogpt:
      return "nanogpt";
    case TokenFormat::llmc:
      return "llmc";
    case TokenFormat::megatron:
      return "megatron";
  }
  return "?";
}

std::string_view name(TokenType type) {
  switch (type) {
    case TokenType::automatic:
      return "auto";
    case TokenType::u8:
      return "u8";
    case TokenType::u16:
      return "u16";
    case TokenType::i32:
      return "i32";
  }
  return "?";
}

std::int64_t size_bytes(TokenType type) {
  EW_CHECK(type != TokenType::automatic, "an automatic token type has no size");
  return type == TokenType::u8 ? 1 : type == TokenType::u16 ? 2 : 4;
}

void TokenChecksum::add_piece(std::span<const std::byte> piece) {
  value_ = hash_bytes(piece, value_);
}

std::uint64_t token_checksum(std::span<const std::byte> bytes) {
  TokenChecksum checksum;
  while (!bytes.empty()) {
    const auto size = std::min<std::size_t>(bytes.size(), TokenChecksum::kPieceBytes);
    checksum.add_piece(bytes.first(size));
    bytes = bytes.subspan(size);
  }
  return checksum.value();
}

std::array<std::byte, kHeaderBytes> encode_header(const TokenLayout& layout) {
  EW_CHECK(std::ssize(layout.tokenizer) <= kMaxTokenizerBytes, "tokenizer identity too long: {}",
           layout.tokenizer);
  std::array<std::byte, kHeaderBytes> header{};
  std::memcpy(header.data(), kOwnMagic.data(), kOwnMagic.size());
  store(header, kVersionAt, kOwnVersion);
  store(header, kHeaderBytesAt, static_cast<std::uint32_t>(kHeaderBytes));
  store(header, kVocabAt, layout.vocab);
  store(header, kCountAt, layout.count);
  store(header, kDataChecksumAt, layout.data_checksum);
  store(header, kTokenBytesAt, static_cast<std::uint32_t>(size_bytes(layout.type)));
  store(header, kTokenizerBytesAt, static_cast<std::uint32_t>(layout.tokenizer.size()));
  std::memcpy(header.data() + kTokenizerAt, layout.tokenizer.data(), layout.tokenizer.size());
  store(header, kHeaderChecksumAt, hash_bytes(std::span(header).first(kHeaderChecksumAt)));
  return header;
}

bool has_own_magic(std::span<const std::byte> bytes) {
  return starts_with(bytes, kOwnMagic);
}

bool has_llmc_magic(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return false;
  const auto magic = load<std::int32_t>(bytes, 0);
  return std::ranges::any_of(kLlmcKinds, [&](const LlmcKind& kind) { return kind.magic == magic; });
}

bool has_index_magic(std::span<const std::byte> bytes) {
  return starts_with(bytes, kIndexMagic);
}

Result<TokenLayout> decode_own(std::span<const std::byte> file, std::string_view path) {
  const auto bytes = static_cast<std::int64_t>(file.size());
  if (!has_own_magic(file))
    return data_error("not a token file of this program", path,
                      "its first eight bytes are not EWTOKENS",
                      "make one with `elaswave data prepare`, or name its format with data.format");
  if (bytes < kHeaderBytes)
    return data_error("a token file is truncated", path,
                      fmt::format("{} bytes, its header alone has {}", bytes, kHeaderBytes),
                      kMakeAgain);
  const auto version = load<std::uint32_t>(file, kVersionAt);
  if (version != kOwnVersion)
    return data_error("a token file has an unknown version", path,
                      fmt::format("version {}, supported: {}", version, kOwnVersion),
                      "read it with the program that wrote it, or make it again");
  const auto stored = load<std::uint64_t>(file, kHeaderChecksumAt);
  const std::uint64_t computed = hash_bytes(file.first(kHeaderChecksumAt));
  if (stored != computed)
    return data_error("the header of a token file is damaged", path,
                      fmt::format("its checksum is {:016x}, it says {:016x}", computed, stored),
                      kMakeAgain);
  TokenLayout layout{.format = TokenFormat::elaswave,
                     .count = load<std::int64_t>(file, kCountAt),
                     .data_offset_bytes = load<std::uint32_t>(file, kHeaderBytesAt),
                     .vocab = load<std::int64_t>(file, kVocabAt),
                     .data_checksum = load<std::uint64_t>(file, kDataChecksumAt),
                     .header_checksum = stored};
  const auto type = type_of_width(load<std::uint32_t>(file, kTokenBytesAt));
  const auto tokenizer_bytes = load<std::uint32_t>(file, kTokenizerBytesAt);
  // With a right checksum only another writer can have made such a header.
  if (!type || tokenizer_bytes > kMaxTokenizerBytes || layout.vocab < 1 ||
      layout.vocab > kMostVocab || layout.count < 0 || layout.data_offset_bytes != kHeaderBytes)
    return data_error(
        "the header of a token file contradicts its format", path,
        fmt::format("token bytes {}, identity bytes {}, vocab {}, count {}, data at {}",
                    load<std::uint32_t>(file, kTokenBytesAt), tokenizer_bytes, layout.vocab,
                    layout.count, layout.data_offset_bytes),
        kMakeAgain);
  layout.type = *type;
  layout.tokenizer.assign(reinterpret_cast<const char*>(file.data()) + kTokenizerAt,
                          tokenizer_bytes);
  EW_TRY(check_not_empty(layout.count, path));
  EW_TRY(check_size(bytes, layout, path));
  return layout;
}

Result<TokenLayout> decode_llmc(std::span<const std::byte> file, std::string_view path) {
  const auto bytes = static_cast<std::int64_t>(file.size());
  if (!has_llmc_magic(file))
    return data_error("not an llm.c token file", path,
                      "its first number is neither 20240520 nor 20240801",
                      "name its format with data.format, or leave that at auto");
  if (bytes < kLlmcHeaderBytes)
    return data_error(
        "a token file is truncated", path,
        fmt::format("{} bytes, the llm.c header alone has {}", bytes, kLlmcHeaderBytes),
        kMakeAgain);
  const auto magic = load<std::int32_t>(file, 0);
  const auto version = load<std::int32_t>(file, 4);
  const LlmcKind* kind = std::ranges::find(kLlmcKinds, magic, &LlmcKind::magic);
  if (version != kind->version)
    return data_error(
        "an llm.c token file has an unknown version", path,
        fmt::format("magic {} with version {}, supported: {}", magic, version, kind->version),
        "make the file again with a current llm.c script");
  TokenLayout layout{.format = TokenFormat::llmc,
                     .type = kind->type,
                     .count = load<std::int32_t>(file, 8),
                     .data_offset_bytes = kLlmcHeaderBytes};
  if (layout.count < 0)
    return data_error("an llm.c token file announces a negative count", path,
                      fmt::format("{} tokens", layout.count), kMakeAgain);
  EW_TRY(check_not_empty(layout.count, path));
  EW_TRY(check_size(bytes, layout, path));
  return layout;
}

Result<TokenLayout> decode_nanogpt(std::span<const std::byte> file, std::string_view path,
                                   TokenType type) {
  if (has_own_magic(file) || has_llmc_magic(file) || has_index_magic(file))
    return data_error("a file read as headerless has a header", path,
                      "it begins with the magic number of another format",
                      "leave data.format at auto");
  if (type == TokenType::automatic) type = TokenType::u16;
  const auto bytes = static_cast<std::int64_t>(file.size());
  if (bytes % size_bytes(type) != 0)
    return data_error(
        "a token file ends inside a token", path,
        fmt::format("{} bytes are no multiple of {} ({})", bytes, size_bytes(type), name(type)),
        "copy the file again, or name its type with data.dtype");
  EW_TRY(check_not_empty(bytes, path));
  return TokenLayout{
      .format = TokenFormat::nanogpt, .type = type, .count = bytes / size_bytes(type)};
}

Result<TokenLayout> decode_megatron(std::span<const std::byte> file,
                                    std::span<const std::byte> index, std::string_view path) {
  EW_ASSIGN(const IndexHeader header, read_index_header(index, path));
  const auto bytes = static_cast<std::int64_t>(file.size());
  EW_TRY(check_not_empty(header.sequences, path));
  const std::int64_t width = size_bytes(header.type);
  const std::int64_t last = header.sequences - 1;
  const std::int64_t last_length = length_of(index, header, last);
  const std::int64_t last_pointer = pointer_of(index, header, last);
  // Without the subtraction form a damaged pointer near 2^63 would overflow.
  if (pointer_of(index, header, 0) != 0 || last_length < 0 || last_pointer < 0 ||
      last_pointer > bytes || bytes - last_pointer != last_length * width)
    return data_error(
        "a Megatron index does not fit its .bin file", path,
        fmt::format("the last sequence has {} tokens of {} bytes at byte {}, the .bin has {} bytes",
                    last_length, width, last_pointer, bytes),
        "keep PREFIX.idx and PREFIX.bin of one preprocessing together, complete");
  EW_TRY(check_not_empty(bytes, path));
  if (bytes % width != 0)
    return data_error("a token file ends inside a token", path,
                      fmt::format("{} bytes are no multiple of {}", bytes, width), kMakeAgain);
  return TokenLayout{.format = TokenFormat::megatron, .type = header.type, .count = bytes / width};
}

Result<void> check_megatron_index(std::span<const std::byte> index, std::string_view path) {
  EW_ASSIGN(const IndexHeader header, read_index_header(index, path));
  const std::int64_t width = size_bytes(header.type);
  std::int64_t expected = 0;  // bytes; at most 2^33 a sequence and 2^60 sequences are far from real
  for (std::int64_t i = 0; i < header.sequences; ++i) {
    const std::int64_t length = length_of(index, header, i);
    if (length < 0 || pointer_of(index, header, i) != expected)
      return data_error("a Megatron index does not describe one stream", path,
                        fmt::format("sequence {} has {} tokens at byte {}, expected at byte {}", i,
                                    length, pointer_of(index, header, i), expected),
                        "merge or preprocess the corpus again");
    expected += length * width;
  }
  return {};
}

}  // namespace elaswave::data
