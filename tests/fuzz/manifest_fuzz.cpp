// A checkpoint's manifest: what is accepted adds up and is written again as it was.
#include "io/checkpoint/manifest.h"

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/manifest_seeds.h"

using namespace elaswave;

namespace {

void try_text(const std::string& text) {
  const auto manifest = checkpoint::parse_manifest(text, "MANIFEST.json");
  if (!manifest) {
    EW_CHECK(manifest.error().code == Code::corrupt || manifest.error().code == Code::usage,
             "another code: {}", manifest.error().text());
    return fuzz::check_error(manifest.error());
  }
  EW_CHECK(checkpoint::check_manifest(*manifest, "parsed").has_value(),
           "a manifest that does not add up was accepted");
  EW_CHECK(checkpoint::to_text(*manifest) == text, "a manifest is written in another way");
  const auto again = checkpoint::parse_manifest(checkpoint::to_text(*manifest), "again");
  // A loss that is no number differs from itself.
  EW_CHECK(again && (*again == *manifest || manifest->loss != manifest->loss),
           "a manifest changed when written and read again");
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const checkpoint::Manifest& manifest : fuzz::manifests()) {
    const std::string text = checkpoint::to_text(manifest);
    const auto parsed = checkpoint::parse_manifest(text, "seed");
    EW_CHECK(parsed && *parsed == manifest, "a seed is refused: {}",
             parsed ? "it changed" : parsed.error().text());
    seeds.push_back(text);
  }
  return seeds;
}

std::vector<std::string> fuzz_dictionary() {
  return fuzz::manifest_words();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try_text(text);
  try_text(fuzz::with_checksum(text));
  return 0;
}
