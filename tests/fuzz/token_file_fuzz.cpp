// Token files as the trainer opens them, in every format, by every kind of name.
//   u16 index bytes (0: a file that stands alone) | index | file
#include "io/data/token_file.h"

#include "io/data/inspect.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/token_seeds.h"

using namespace elaswave;

namespace {

/// Copies a stretch and holds what is accepted to the vocabulary.
void copy_stretch(const data::TokenFile& file, std::int64_t first, std::int64_t count) {
  const std::int64_t vocab = file.vocab() != 0 ? file.vocab() : 1000;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  const auto copied = file.copy_tokens_checked(first, ids, vocab);
  if (!copied) return fuzz::check_error(copied.error());
  for (const std::int32_t id : ids)
    EW_CHECK(id >= 0 && id < vocab, "id {} of a vocabulary of {}", id, vocab);
}

void use(const data::TokenFile& file) {
  const std::int64_t count = file.count();
  const std::int64_t part = std::min<std::int64_t>(count, 70);
  copy_stretch(file, 0, part);
  copy_stretch(file, count - part, part);
  copy_stretch(file, count, 0);
  const auto verified = file.verify();
  if (!verified) fuzz::check_error(verified.error());
  const data::Inspection inspection = data::inspect(file);
  const auto expected = !verified             ? data::ChecksumState::bad
                        : file.has_checksum() ? data::ChecksumState::good
                                              : data::ChecksumState::absent;
  EW_CHECK(inspection.checksum == expected, "inspection and verification disagree");
  EW_CHECK(inspection.count == count && inspection.min_id <= inspection.max_id,
           "{} tokens, ids {} to {}", inspection.count, inspection.min_id, inspection.max_id);
  EW_CHECK(!lines(inspection).empty(), "an inspection without lines");
}

void try_open(const std::string& path, data::TokenFormat format,
              data::TokenType type = data::TokenType::automatic) {
  const auto file = data::TokenFile::open(path, format, type);
  if (!file) return fuzz::check_error(file.error());
  EW_CHECK(format == data::TokenFormat::automatic || file->format() == format,
           "opened as another format");
  use(*file);
}

/// The same file twice is one stream of twice the length.
void try_stream(const std::string& path) {
  const auto stream = data::TokenSet::open({path, path});
  if (!stream) return fuzz::check_error(stream.error());
  const std::int64_t count = stream->count() / 2;
  const std::int64_t part = std::min<std::int64_t>(count, 8);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(2 * part));
  const auto copied = stream->copy_tokens_checked(count - part, ids, 1000);
  if (!copied) fuzz::check_error(copied.error());
}

void try_alone(const fuzz::ScratchDirectory& scratch, std::string_view bytes) {
  const std::string path = scratch / "alone.tokens";
  fuzz::write_file(path, bytes);
  try_open(path, data::TokenFormat::automatic);
  try_open(path, data::TokenFormat::elaswave);
  try_open(path, data::TokenFormat::llmc);
  for (const auto type : {data::TokenType::automatic, data::TokenType::u8, data::TokenType::i32})
    try_open(path, data::TokenFormat::nanogpt, type);
  try_stream(path);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const std::string& file : fuzz::token_files())
    seeds.push_back(fuzz::field(std::uint16_t{0}) + file);
  for (const auto& [index, file] : fuzz::megatron_pairs())
    seeds.push_back(
        fuzz::field(static_cast<std::uint16_t>(index.size())).append(index).append(file));
  return seeds;
}

std::vector<std::string> fuzz_dictionary() {
  return fuzz::token_words();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchDirectory scratch;
  fuzz::Input input(data, size);
  const std::size_t index_bytes = input.take<std::uint16_t>();
  const std::string_view rest = input.rest();
  if (index_bytes == 0) {
    try_alone(scratch, rest);
    const auto bytes = std::as_bytes(std::span(rest));
    if (!data::has_own_magic(bytes)) return 0;
    for (const fuzz::Mend mend : {fuzz::Mend::header, fuzz::Mend::header_and_data}) {
      const auto mended = fuzz::mended({bytes.begin(), bytes.end()}, mend);
      try_alone(scratch, {reinterpret_cast<const char*>(mended.data()), mended.size()});
    }
    return 0;
  }
  fuzz::write_file(scratch / "pair.idx", rest.substr(0, index_bytes));
  fuzz::write_file(scratch / "pair.bin", rest.substr(std::min(index_bytes, rest.size())));
  try_open(scratch / "pair", data::TokenFormat::megatron);
  for (const char* name : {"pair", "pair.bin", "pair.idx"})
    try_open(scratch / name, data::TokenFormat::automatic);
  return 0;
}
