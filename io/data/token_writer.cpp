#include "io/data/token_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace elaswave::data {
namespace {

template <typename T>
void append_as(std::span<const std::int32_t> tokens, std::vector<std::byte>& bytes) {
  const std::size_t old_size = bytes.size();
  bytes.resize(old_size + tokens.size() * sizeof(T));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto stored = static_cast<T>(tokens[i]);
    std::memcpy(bytes.data() + old_size + i * sizeof(T), &stored, sizeof(T));
  }
}

}  // namespace

Result<TokenWriter> TokenWriter::create(const std::string& path, Spec spec) {
  EW_CHECK(spec.vocab >= 1 && spec.vocab <= std::int64_t{1} << (8 * size_bytes(spec.type)) &&
               spec.vocab <= INT32_MAX,
           "a vocabulary of {} does not fit {}", spec.vocab, name(spec.type));
  EW_ASSIGN(ReplacementFile file, ReplacementFile::create(path));
  TokenLayout layout{.type = spec.type,
                     .data_offset_bytes = kHeaderBytes,
                     .vocab = spec.vocab,
                     .tokenizer = std::move(spec.tokenizer)};
  EW_CHECK(std::ssize(layout.tokenizer) <= kMaxTokenizerBytes, "tokenizer identity too long: {}",
           layout.tokenizer);
  return TokenWriter(std::move(file), std::move(layout));
}

TokenWriter::TokenWriter(ReplacementFile file, TokenLayout layout)
    : file_(std::move(file)), layout_(std::move(layout)) {
  piece_.reserve(TokenChecksum::kPieceBytes);
}

Result<void> TokenWriter::append(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens)
    EW_CHECK(token >= 0 && token < layout_.vocab, "token {} of a vocabulary of {}", token,
             layout_.vocab);
  layout_.count += std::ssize(tokens);
  const std::int64_t width = size_bytes(layout_.type);
  while (!tokens.empty()) {
    const std::int64_t room = (TokenChecksum::kPieceBytes - std::ssize(piece_)) / width;
    const auto run = tokens.first(std::min(tokens.size(), static_cast<std::size_t>(room)));
    if (layout_.type == TokenType::u8) {
      append_as<std::uint8_t>(run, piece_);
    } else if (layout_.type == TokenType::u16) {
      append_as<std::uint16_t>(run, piece_);
    } else {
      append_as<std::int32_t>(run, piece_);
    }
    if (std::ssize(piece_) == TokenChecksum::kPieceBytes) EW_TRY(flush_piece());
    tokens = tokens.subspan(run.size());
  }
  return {};
}

Result<void> TokenWriter::flush_piece() {
  checksum_.add_piece(piece_);
  EW_TRY(file_.file().write_at(kHeaderBytes + written_bytes_, piece_));
  written_bytes_ += std::ssize(piece_);
  piece_.clear();
  return {};
}

Result<void> TokenWriter::finish() {
  if (layout_.count == 0)
    return fail({Code::data, "there is nothing to write", file_.final_path(),
                 "the token file would be empty", "use an input that is not empty"});
  if (!piece_.empty()) EW_TRY(flush_piece());
  layout_.data_checksum = checksum_.value();
  const auto header = encode_header(layout_);
  EW_TRY(file_.file().write_at(0, header));
  return file_.publish();
}

}  // namespace elaswave::data
