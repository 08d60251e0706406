// Small manifests and the checksum at the end of their text, for the targets that read them.
#pragma once

#include <string>
#include <vector>

#include "io/base/crc32c.h"
#include "io/checkpoint/manifest.h"
#include "tests/fuzz/fuzz.h"

namespace elaswave::fuzz {

/// The text with its last field made right (and put there when it is not): without this, nothing
/// gets past the checksum.
inline std::string with_checksum(std::string_view text) {
  constexpr std::string_view kKey = "\"crc32c\":\"";
  const std::string body(text.substr(0, text.rfind(kKey)));
  return fmt::format("{}{}{:08x}\"\n}}\n", body, kKey, crc32c(std::as_bytes(std::span(body))));
}

/// One file that holds every kind of every tensor whole.
inline checkpoint::Manifest manifest_of(std::vector<checkpoint::Tensor> tensors) {
  checkpoint::Manifest manifest{.run = "run-1",
                                .writer = "elaswave 0.1.0",
                                .created = "2026-11-21T10:00:00Z",
                                .step = Step{12},
                                .generation = Generation{1},
                                .updates = 12,
                                .samples = 96,
                                .tokens = 6144,
                                .loss = 2.5,
                                .digest = 0x0123456789ABCDEF,
                                .config = {{"train.lr", "0.001"}, {"model.preset", "small"}},
                                .facts = {{"tokenizer", "bytes-v1"}},
                                .tensors = std::move(tensors),
                                .files = {{.name = "shards/w00000.h5", .frame_crc = 1}}};
  checkpoint::FileEntry& file = manifest.files.front();
  std::int64_t end = 4096;
  for (std::size_t kind = 0; kind < checkpoint::kKindNames.size(); ++kind)
    for (std::size_t i = 0; i < manifest.tensors.size(); ++i) {
      const std::int64_t elems = manifest.tensors[i].elems();
      file.pieces.push_back(
          {.tensor = static_cast<std::int32_t>(i),
           .kind = static_cast<checkpoint::Kind>(kind),
           .offset_bytes = end,
           .runs = {{.begin = 0, .elems = elems, .stride = elems, .count = 1}},
           .unit_crcs = std::vector<std::uint32_t>(
               static_cast<std::size_t>(ceil_div(elems, checkpoint::kUnitElems)), 0xDEADBEEF)});
      end += 4 * elems;
    }
  file.size_bytes = end;
  file.block_crcs.assign(static_cast<std::size_t>(ceil_div(end, checkpoint::kFileBlockBytes)), 2);
  return manifest;
}

/// One tensor in two files, cut by rows or by columns.
inline checkpoint::Manifest split_manifest(checkpoint::ElementRun first,
                                           checkpoint::ElementRun second) {
  checkpoint::Manifest manifest = manifest_of({{"wte.weight", {8, 4}}});
  manifest.digest.reset();
  manifest.files.push_back(manifest.files.front());
  manifest.files[1].name = "shards/w00001.h5";
  for (checkpoint::Piece& piece : manifest.files[0].pieces) piece.runs = {first};
  for (checkpoint::Piece& piece : manifest.files[1].pieces) piece.runs = {second};
  return manifest;
}

inline std::vector<checkpoint::Manifest> manifests() {
  return {manifest_of({{"wte.weight", {4, 3}}, {"ln_f.bias", {5}}}),
          manifest_of({{"h.0.attn.c_attn.weight", {20000, 2}}}),
          split_manifest({.begin = 0, .elems = 16, .stride = 16, .count = 1},
                         {.begin = 16, .elems = 16, .stride = 16, .count = 1}),
          split_manifest({.begin = 0, .elems = 2, .stride = 4, .count = 8},
                         {.begin = 2, .elems = 2, .stride = 4, .count = 8})};
}

inline std::vector<std::string> manifest_words() {
  return {"\"tensor\":",
          "\"kind\":\"",
          "master",
          "exp_avg",
          "exp_avg_sq",
          "\"offset\":",
          "\"runs\":[",
          "[0,1,1,1]",
          "\"shape\":[",
          "\"name\":",
          "\"size\":",
          "\"pieces\":[",
          "null",
          "shards/",
          "..",
          "\\u0000",
          "-1",
          "1e300",
          "1.5",
          "4194304",
          "281474976710656",
          "9223372036854775807",
          "18446744073709551615",
          ",",
          "{",
          "}",
          "\n"};
}

}  // namespace elaswave::fuzz
