// What token files look like on disk: our own header and the foreign ones we read as they are.
// README.md has the layout byte by byte. Pure: bytes in, values or an Error out; no file is opened
// here. All numbers are little endian. ERRORS: Code::data, four lines, naming the path given for
// that purpose.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/base/error.h"

namespace elaswave::data {

enum class TokenFormat : std::uint8_t { automatic, elaswave, nanogpt, llmc, megatron };

/// How one token is stored. i32 also reads unsigned 32-bit files: no vocabulary reaches 2^31.
enum class TokenType : std::uint8_t { automatic, u8, u16, i32 };

/// The words of the configuration: auto, elaswave, nanogpt, llmc, megatron; auto, u8, u16, i32.
/// Unknown: Code::usage.
Result<TokenFormat> parse_token_format(std::string_view text);
Result<TokenType> parse_token_type(std::string_view text);
std::string_view name(TokenFormat format);
std::string_view name(TokenType type);

/// REQUIRES: not automatic.
std::int64_t size_bytes(TokenType type);

/// Where the tokens of a file lie and what its header says about them.
struct TokenLayout {
  TokenFormat format = TokenFormat::elaswave;
  TokenType type = TokenType::u16;
  std::int64_t count = 0;              // tokens
  std::int64_t data_offset_bytes = 0;  // of token 0
  std::int64_t vocab = 0;              // 0: the file does not say
  std::string tokenizer = {};          // empty: the file does not say
  std::uint64_t data_checksum = 0;     // elaswave only, see TokenChecksum
  std::uint64_t header_checksum = 0;   // elaswave only
};

inline constexpr std::int64_t kHeaderBytes = 4096;  // also the alignment of our data
inline constexpr std::int64_t kMaxTokenizerBytes = 64;
inline constexpr std::string_view kByteTokenizer = "bytes-v1";
inline constexpr std::int64_t kByteVocab = 257;
inline constexpr std::int32_t kEndOfDocument = 256;

/// The checksum of token bytes: they are cut into pieces of 1 MiB from their start, and each piece
/// is hashed with hash_bytes (io/base/hash.h) seeded by the hash of the piece before, the first by
/// 0. Any change of one 8-byte word is found for certain, since every later step is a bijection of
/// the state.
class TokenChecksum {
 public:
  static constexpr std::int64_t kPieceBytes = 1 << 20;
  /// REQUIRES: every piece but the last is kPieceBytes long.
  void add_piece(std::span<const std::byte> piece);
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0;
};

/// The checksum of a whole range.
std::uint64_t token_checksum(std::span<const std::byte> bytes);

/// Our header. REQUIRES: tokenizer of at most kMaxTokenizerBytes bytes. Its checksum is computed
/// here.
std::array<std::byte, kHeaderBytes> encode_header(const TokenLayout& layout);

/// True when the bytes begin as one of our files / an llm.c file / a Megatron index.
bool has_own_magic(std::span<const std::byte> bytes);
bool has_llmc_magic(std::span<const std::byte> bytes);
bool has_index_magic(std::span<const std::byte> bytes);

/// `file` is the whole file; the sizes in the header are checked against its length.
Result<TokenLayout> decode_own(std::span<const std::byte> file, std::string_view path);
Result<TokenLayout> decode_llmc(std::span<const std::byte> file, std::string_view path);
/// A file without header: tokens from its first byte. `automatic` is u16, what nanoGPT writes.
Result<TokenLayout> decode_nanogpt(std::span<const std::byte> file, std::string_view path,
                                   TokenType type);
/// `index` is the .idx beside the .bin `file`. Constant time: the ends of the index are checked
/// here, all of it by check_megatron_index().
Result<TokenLayout> decode_megatron(std::span<const std::byte> file,
                                    std::span<const std::byte> index, std::string_view path);
/// Every sequence lies directly after the one before: the .bin may then be read as one stream.
Result<void> check_megatron_index(std::span<const std::byte> index, std::string_view path);

}  // namespace elaswave::data
