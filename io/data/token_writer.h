// Writes a token file of our own format, streaming. The file appears under its name complete and
// durable, or not at all. THREADS: one caller. ERRORS: Code::io, Code::data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/base/file.h"
#include "io/data/token_format.h"

namespace elaswave::data {

class TokenWriter {
 public:
  struct Spec {
    std::string tokenizer;            // at most kMaxTokenizerBytes bytes
    std::int64_t vocab = 0;           // at least 1
    TokenType type = TokenType::u16;  // wide enough for vocab
  };

  static Result<TokenWriter> create(const std::string& path, Spec spec);

  /// REQUIRES: every id in [0, vocab).
  Result<void> append(std::span<const std::int32_t> tokens);
  std::int64_t count() const { return layout_.count; }

  /// Writes the header, makes the file durable and gives it its name. At most once. An empty file
  /// is an error.
  Result<void> finish();

 private:
  TokenWriter(ReplacementFile file, TokenLayout layout);
  Result<void> flush_piece();

  ReplacementFile file_;
  TokenLayout layout_;
  TokenChecksum checksum_;
  std::vector<std::byte> piece_;  // less than one piece of the checksum
  std::int64_t written_bytes_ = 0;
};

}  // namespace elaswave::data
