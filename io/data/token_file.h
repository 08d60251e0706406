// Token files as the trainer sees them: memory-mapped, any supported format, several files as one
// stream. OWNERSHIP: objects own their mappings; move-only. THREADS: const members from any thread.
// Files must not change or shrink while open. ERRORS: Code::data (four lines) for what is wrong
// with a file, Code::io for the system.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/base/file.h"
#include "io/data/token_format.h"

namespace elaswave::data {

class TokenFile {
 public:
  /// `automatic` knows a file by its magic number, or by the .idx beside it (Megatron: `path` may
  /// name the .bin, the .idx or both without extension). A file without header is never guessed:
  /// say nanogpt. `type_for_headerless` is used for nanogpt alone.
  static Result<TokenFile> open(const std::string& path,
                                TokenFormat format = TokenFormat::automatic,
                                TokenType type_for_headerless = TokenType::automatic);

  const std::string& path() const { return path_; }
  TokenFormat format() const { return layout_.format; }
  TokenType type() const { return layout_.type; }
  std::int64_t count() const { return layout_.count; }  // tokens, at least 1
  std::int64_t vocab() const { return layout_.vocab; }  // 0: the file does not say
  const std::string& tokenizer() const {
    return layout_.tokenizer;
  }  // empty: the file does not say

  /// Identity of the content, independent of the path, in constant time. Our files: the header,
  /// which holds the checksum of the data. Foreign files: layout, size and content, all of it up to
  /// 1 MiB, beyond that 64 pieces of 16 KiB spread evenly from the first byte to the last.
  std::uint64_t fingerprint() const { return fingerprint_; }

  /// Tokens first .. first + out.size() - 1. REQUIRES: that range lies in the file. An id of 2^31
  /// or more comes out negative: use the checked form on files whose ids were not verified.
  void copy_tokens(std::int64_t first, std::span<std::int32_t> out) const;

  /// The same, and an Error naming file, position, id and vocabulary for the first id outside [0,
  /// vocab).
  Result<void> copy_tokens_checked(std::int64_t first, std::span<std::int32_t> out,
                                   std::int64_t vocab) const;

  /// Reads the whole file: the data checksum of our own, the whole index of Megatron; others carry
  /// nothing to check.
  Result<void> verify() const;

  /// True when the format carries a checksum of its data.
  bool has_checksum() const { return layout_.format == TokenFormat::elaswave; }

 private:
  TokenFile(std::string path, TokenLayout layout, MappedFile data, MappedFile index);
  std::span<const std::byte> data_bytes() const;

  std::string path_;
  TokenLayout layout_;
  MappedFile data_;
  MappedFile index_;  // Megatron only
  std::uint64_t fingerprint_ = 0;
};

/// Several files, read as one stream in the given order.
class TokenSet {
 public:
  /// Files that name different tokenizers or vocabularies are refused. REQUIRES: at least one path.
  static Result<TokenSet> open(const std::vector<std::string>& paths,
                               TokenFormat format = TokenFormat::automatic,
                               TokenType type_for_headerless = TokenType::automatic);

  std::span<const TokenFile> files() const { return files_; }
  std::int64_t count() const { return first_of_file_.back(); }  // tokens
  std::int64_t vocab() const { return vocab_; }                 // 0: unknown
  const std::string& tokenizer() const { return tokenizer_; }   // empty: unknown
  std::uint64_t fingerprint() const {
    return fingerprint_;
  }  // of the files' fingerprints and counts in order

  /// Samples of context + 1 tokens at stride context: floor((count - 1) / context), or an error
  /// when there is none.
  Result<std::int64_t> sample_count(std::int64_t context) const;

  /// An error when a file declares a larger vocabulary than the model has.
  Result<void> check_vocab(std::int64_t model_vocab) const;

  /// As in TokenFile, over the whole stream.
  void copy_tokens(std::int64_t first, std::span<std::int32_t> out) const;
  Result<void> copy_tokens_checked(std::int64_t first, std::span<std::int32_t> out,
                                   std::int64_t vocab) const;

  /// Tokens of a sample: inputs are the first `context`, targets the last. REQUIRES: out.size() ==
  /// context + 1 and 0 <= sample < sample_count(context).
  Result<void> copy_sample(std::int64_t sample, std::span<std::int32_t> out,
                           std::int64_t vocab) const;

 private:
  explicit TokenSet(std::vector<TokenFile> files);

  std::vector<TokenFile> files_;
  std::vector<std::int64_t> first_of_file_;  // files + 1 entries, in tokens of the stream
  std::int64_t vocab_ = 0;
  std::string tokenizer_;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace elaswave::data
