// The decoders of token files on bytes alone, whose end AddressSanitizer watches (a mapped file is
// followed by zeros up to the end of its page).
//   u16 index bytes | u8 type | index | file
#include "io/data/token_format.h"

#include "io/base/hash.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/token_seeds.h"

using namespace elaswave;

namespace {

/// In memory of exactly this size.
std::vector<std::byte> copy(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// Tokens and header fill the file, and every id below the vocabulary is an int32.
void check_layout(const data::TokenLayout& layout, std::size_t file_bytes) {
  EW_CHECK(layout.count >= 1 && layout.data_offset_bytes >= 0, "{} tokens from byte {}",
           layout.count, layout.data_offset_bytes);
  EW_CHECK(layout.vocab >= 0 && layout.vocab <= fuzz::kTwo31, "a vocabulary of {}", layout.vocab);
  EW_CHECK(layout.data_offset_bytes + layout.count * size_bytes(layout.type) ==
               static_cast<std::int64_t>(file_bytes),
           "{} tokens of {} bytes from byte {} in {} bytes", layout.count, size_bytes(layout.type),
           layout.data_offset_bytes, file_bytes);
}

void try_result(const Result<data::TokenLayout>& layout, std::size_t file_bytes) {
  if (layout)
    check_layout(*layout, file_bytes);
  else
    fuzz::check_error(layout.error());
}

void try_own(std::span<const std::byte> file) {
  const auto layout = data::decode_own(file, "own");
  try_result(layout, file.size());
  if (!layout) return;
  // What the header says can be written again.
  const auto header = data::encode_header(*layout);
  std::vector<std::byte> again(file.begin(), file.end());
  std::copy(header.begin(), header.end(), again.begin());
  const auto second = data::decode_own(again, "again");
  EW_CHECK(second && second->count == layout->count && second->vocab == layout->vocab &&
               second->tokenizer == layout->tokenizer && second->type == layout->type &&
               second->data_checksum == layout->data_checksum,
           "a header changed when written again");
}

void try_words(std::string_view text) {
  const auto format = data::parse_token_format(text);
  EW_CHECK(!format || name(*format) == text, "format {}", text);
  const auto type = data::parse_token_type(text);
  EW_CHECK(!type || name(*type) == text, "type {}", text);
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](const std::string& index, const std::string& file) {
    seeds.push_back(fuzz::field(static_cast<std::uint16_t>(index.size())) +
                    fuzz::field(std::uint8_t{2}) + index + file);
  };
  for (const std::string& file : fuzz::token_files()) add("", file);
  for (const auto& [index, file] : fuzz::megatron_pairs()) add(index, file);
  seeds.push_back(std::string(3, '\0') + "megatron");
  return seeds;
}

std::vector<std::string> fuzz_dictionary() {
  return fuzz::token_words();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::size_t index_bytes = input.take<std::uint16_t>();
  const auto type = static_cast<data::TokenType>(input.take<std::uint8_t>() % 4);
  const std::string_view rest = input.rest();
  const auto index = copy(rest.substr(0, index_bytes));
  const auto file = copy(rest.substr(index.size()));
  try_words(rest);
  try_own(file);
  try_own(fuzz::mended(file, fuzz::Mend::header));
  try_own(fuzz::mended(file, fuzz::Mend::header_and_data));
  try_result(data::decode_llmc(file, "llmc"), file.size());
  try_result(data::decode_nanogpt(file, "nanogpt", type), file.size());
  try_result(data::decode_megatron(file, index, "megatron"), file.size());
  const auto checked = data::check_megatron_index(index, "index");
  if (!checked) fuzz::check_error(checked.error());
  return 0;
}
