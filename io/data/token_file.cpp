#include "io/data/token_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <type_traits>
#include <utility>

#include "io/base/hash.h"

namespace elaswave::data {
namespace {

constexpr std::int64_t kWholeBytes = 1 << 20;  // fingerprints of smaller data read all of it
constexpr std::int64_t kPieceBytes = 1 << 14;  // of larger data: this much ...
constexpr std::int64_t kPieces = 64;           // ... at this many places

std::uint64_t sampled_hash(std::span<const std::byte> bytes, std::uint64_t hash) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  if (size <= kWholeBytes) return hash_bytes(bytes, hash);
  // First and last piece touch the ends. 63 * size stays below 2^63 for files up to 10^17 bytes.
  for (std::int64_t i = 0; i < kPieces; ++i) {
    const std::int64_t at = (size - kPieceBytes) * i / (kPieces - 1);
    hash = hash_bytes(bytes.subspan(static_cast<std::size_t>(at), kPieceBytes), hash);
  }
  return hash;
}

std::uint64_t fingerprint_of(const TokenLayout& layout, std::span<const std::byte> data_bytes) {
  const std::uint64_t kind = combine64(static_cast<std::uint64_t>(size_bytes(layout.type)),
                                       static_cast<std::uint64_t>(layout.count));
  if (layout.format == TokenFormat::elaswave) return combine64(kind, layout.header_checksum);
  return sampled_hash(data_bytes, kind);
}

/// Calls `visit` with a span of the stored tokens in their own type.
template <typename Visit>
void visit_tokens(std::span<const std::byte> bytes, TokenType type, Visit visit) {
  switch (type) {
    case TokenType::u8:
      return visit(std::type_identity<std::uint8_t>{}, bytes.size());
    case TokenType::u16:
      return visit(std::type_identity<std::uint16_t>{}, bytes.size() / 2);
    case TokenType::i32:
      return visit(std::type_identity<std::int32_t>{}, bytes.size() / 4);
    case TokenType::automatic:
      break;
  }
  EW_CHECK(false, "a token file without a type");
}

struct MegatronPaths {
  std::string data, index;
};

/// The two files meant by PREFIX.bin, PREFIX.idx or PREFIX.
MegatronPaths megatron_paths(const std::string& path) {
  const std::filesystem::path given(path);
  const std::string extension = given.extension().string();
  const std::string prefix = extension == ".bin" || extension == ".idx"
                                 ? std::filesystem::path(given).replace_extension().string()
                                 : path;
  return {prefix + ".bin", prefix + ".idx"};
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

Result<void> check_not_empty(const MappedFile& file, const std::string& path) {
  if (!file.bytes().empty()) return {};
  return fail({Code::data, "a token file is empty", path, "it has 0 bytes",
               "make it with `elaswave data prepare`, or copy it again"});
}

bool begins_as_index(const std::string& path) {
  if (!is_file(path)) return false;
  const Result<MappedFile> index = MappedFile::open(path);
  return index && has_index_magic(index->bytes());
}

Error unknown_format(const std::string& path, std::span<const std::byte> bytes) {
  const auto shown = bytes.first(std::min<std::size_t>(bytes.size(), 8));
  std::string hex;
  for (const std::byte byte : shown) hex += fmt::format("{:02x} ", static_cast<unsigned>(byte));
  return {Code::data, "not a token file", path,
          fmt::format("it begins with {}, which no known format does", hex),
          "text: run `elaswave data prepare` first; raw tokens as nanoGPT writes them: set "
          "data.format=nanogpt"};
}

Result<TokenFormat> detect_format(const std::string& path, const MegatronPaths& pair) {
  if ((path == pair.index || !is_file(path)) && begins_as_index(pair.index))
    return TokenFormat::megatron;
  EW_ASSIGN(const MappedFile file, MappedFile::open(path));
  EW_TRY(check_not_empty(file, path));
  // Our magic is eight bytes of text and wins; an index beside a .bin is stronger evidence than
  // llm.c's four bytes.
  if (has_own_magic(file.bytes())) return TokenFormat::elaswave;
  if (path == pair.data && begins_as_index(pair.index)) return TokenFormat::megatron;
  if (has_llmc_magic(file.bytes())) return TokenFormat::llmc;
  return fail(unknown_format(path, file.bytes()));
}

}  // namespace

TokenFile::TokenFile(std::string path, TokenLayout layout, MappedFile data, MappedFile index)
    : path_(std::move(path)),
      layout_(std::move(layout)),
      data_(std::move(data)),
      index_(std::move(index)) {
  fingerprint_ = fingerprint_of(layout_, data_bytes());
}

std::span<const std::byte> TokenFile::data_bytes() const {
  return data_.bytes().subspan(static_cast<std::size_t>(layout_.data_offset_bytes));
}

Result<TokenFile> TokenFile::open(const std::string& path, TokenFormat format,
                                  TokenType type_for_headerless) {
  const MegatronPaths pair = megatron_paths(path);
  if (format == TokenFormat::automatic) {
    EW_ASSIGN(format, detect_format(path, pair));
  }
  if (format == TokenFormat::megatron) {
    EW_ASSIGN(MappedFile data, MappedFile::open(pair.data));
    EW_TRY(check_not_empty(data, pair.data));
    EW_ASSIGN(MappedFile index, MappedFile::open(pair.index));
    EW_ASSIGN(TokenLayout layout, decode_megatron(data.bytes(), index.bytes(), pair.index));
    return TokenFile(pair.data, std::move(layout), std::move(data), std::move(index));
  }
  EW_ASSIGN(MappedFile data, MappedFile::open(path));
  EW_TRY(check_not_empty(data, path));
  Result<TokenLayout> layout = format == TokenFormat::elaswave ? decode_own(data.bytes(), path)
                               : format == TokenFormat::llmc
                                   ? decode_llmc(data.bytes(), path)
                                   : decode_nanogpt(data.bytes(), path, type_for_headerless);
  if (!layout) return fail(std::move(layout).error());
  return TokenFile(path, *std::move(layout), std::move(data), MappedFile());
}

void TokenFile::copy_tokens(std::int64_t first, std::span<std::int32_t> out) const {
  const std::int64_t wanted = std::ssize(out);
  EW_CHECK(first >= 0 && first <= count() && wanted <= count() - first,
           "tokens {} + {} of {} in {}", first, wanted, count(), path_);
  const std::int64_t width = size_bytes(layout_.type);
  const auto bytes = data_bytes().subspan(static_cast<std::size_t>(first * width),
                                          static_cast<std::size_t>(wanted * width));
  visit_tokens(bytes, layout_.type, [&]<typename T>(std::type_identity<T>, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      T token;  // by memcpy: foreign headers do not promise alignment
      std::memcpy(&token, bytes.data() + i * sizeof(T), sizeof(T));
      out[i] = static_cast<std::int32_t>(token);
    }
  });
}

Result<void> TokenFile::copy_tokens_checked(std::int64_t first, std::span<std::int32_t> out,
                                            std::int64_t vocab) const {
  copy_tokens(first, out);
  // One pass without branches; only a bad range is searched.
  std::uint32_t largest = 0;
  for (const std::int32_t id : out) largest = std::max(largest, static_cast<std::uint32_t>(id));
  if (out.empty() || static_cast<std::int64_t>(largest) < vocab) return {};
  const auto bad = std::ranges::find_if(out, [&](std::int32_t id) {
    return static_cast<std::int64_t>(static_cast<std::uint32_t>(id)) >= vocab;
  });
  const auto id = static_cast<std::uint32_t>(*bad);
  return fail(
      {Code::data, "a token id is outside the vocabulary",
       fmt::format("{}, token {}", path_, first + (bad - out.begin())),
       fmt::format("id {}, the vocabulary has {} entries (0 to {})", id, vocab, vocab - 1),
       "use the model's own tokenizer, a larger model.vocab, or, for a file without header, "
       "the right data.dtype"});
}

Result<void> TokenFile::verify() const {
  if (layout_.format == TokenFormat::megatron)
    return check_megatron_index(index_.bytes(), megatron_paths(path_).index);
  if (!has_checksum()) return {};
  const std::uint64_t computed = token_checksum(data_bytes());
  if (computed == layout_.data_checksum) return {};
  return fail({Code::data, "the data of a token file is damaged", path_,
               fmt::format("its checksum is {:016x}, the header says {:016x}", computed,
                           layout_.data_checksum),
               "make the file again, or copy it again from where it came"});
}

Result<TokenSet> TokenSet::open(const std::vector<std::string>& paths, TokenFormat format,
                                TokenType type_for_headerless) {
  EW_CHECK(!paths.empty(), "a token set needs at least one file");
  std::vector<TokenFile> files;
  for (const std::string& path : paths) {
    EW_ASSIGN(TokenFile file, TokenFile::open(path, format, type_for_headerless));
    files.push_back(std::move(file));
  }
  TokenSet set(std::move(files));
  for (const TokenFile& file : set.files_) {
    const bool other_tokenizer = !file.tokenizer().empty() && file.tokenizer() != set.tokenizer_;
    const bool other_vocab = file.vocab() != 0 && file.vocab() != set.vocab_;
    if (other_tokenizer || other_vocab)
      return fail({Code::data, "token files of different tokenizers cannot be one stream",
                   file.path(),
                   fmt::format("tokenizer '{}' with {} entries, a file before it has '{}' with {}",
                               file.tokenizer(), file.vocab(), set.tokenizer_, set.vocab_),
                   "prepare all files with one tokenizer"});
  }
  return set;
}

TokenSet::TokenSet(std::vector<TokenFile> files) : files_(std::move(files)), first_of_file_{0} {
  fingerprint_ = static_cast<std::uint64_t>(files_.size());
  for (const TokenFile& file : files_) {
    first_of_file_.push_back(first_of_file_.back() + file.count());
    fingerprint_ = combine64(combine64(fingerprint_, file.fingerprint()),
                             static_cast<std::uint64_t>(file.count()));
    if (vocab_ == 0) vocab_ = file.vocab();
    if (tokenizer_.empty()) tokenizer_ = file.tokenizer();
  }
}

Result<std::int64_t> TokenSet::sample_count(std::int64_t context) const {
  EW_CHECK(context > 0, "a context of {} tokens", context);
  const std::int64_t samples = (count() - 1) / context;
  if (samples > 0) return samples;
  return fail(
      {Code::data, "the data is too short for one sample",
       files_.size() == 1 ? files_.front().path()
                          : fmt::format("{} and {} more", files_.front().path(), files_.size() - 1),
       fmt::format("{} tokens, one sample of context {} takes {}", count(), context, context + 1),
       "use more text or a smaller model.context"});
}

Result<void> TokenSet::check_vocab(std::int64_t model_vocab) const {
  if (vocab_ <= model_vocab) return {};
  return fail(
      {Code::data, "the data has a larger vocabulary than the model", files_.front().path(),
       fmt::format("tokenizer '{}' has {} entries, the model {}", tokenizer_, vocab_, model_vocab),
       fmt::format("set model.vocab={} or more, or use other data", vocab_)});
}

namespace {

/// Cuts a range of the stream at file boundaries: visit(file index, first token in the file, part
/// of out).
template <typename Visit>
Result<void> for_each_part(std::span<const std::int64_t> first_of_file, std::int64_t first,
                           std::span<std::int32_t> out, Visit visit) {
  EW_CHECK(first >= 0 && first <= first_of_file.back() &&
               std::ssize(out) <= first_of_file.back() - first,
           "tokens {} + {} of {}", first, out.size(), first_of_file.back());
  auto file = std::ranges::upper_bound(first_of_file, first) - first_of_file.begin() - 1;
  while (!out.empty()) {
    const std::int64_t left = first_of_file[static_cast<std::size_t>(file) + 1] - first;
    const auto part =
        out.first(static_cast<std::size_t>(std::min(left, std::int64_t{std::ssize(out)})));
    EW_TRY(visit(static_cast<std::size_t>(file),
                 first - first_of_file[static_cast<std::size_t>(file)], part));
    out = out.subspan(part.size());
    first += std::ssize(part);
    ++file;
  }
  return {};
}

}  // namespace

void TokenSet::copy_tokens(std::int64_t first, std::span<std::int32_t> out) const {
  const auto copied = for_each_part(
      first_of_file_, first, out,
      [&](std::size_t file, std::int64_t at, std::span<std::int32_t> part) -> Result<void> {
        files_[file].copy_tokens(at, part);
        return {};
      });
  EW_CHECK(copied.has_value(), "an unchecked copy cannot fail");
}

Result<void> TokenSet::copy_tokens_checked(std::int64_t first, std::span<std::int32_t> out,
                                           std::int64_t vocab) const {
  return for_each_part(first_of_file_, first, out,
                       [&](std::size_t file, std::int64_t at, std::span<std::int32_t> part) {
                         return files_[file].copy_tokens_checked(at, part, vocab);
                       });
}

Result<void> TokenSet::copy_sample(std::int64_t sample, std::span<std::int32_t> out,
                                   std::int64_t vocab) const {
  EW_CHECK(std::ssize(out) >= 2, "a sample of {} tokens", out.size());
  return copy_tokens_checked(sample * (std::ssize(out) - 1), out, vocab);
}

}  // namespace elaswave::data
