// A small checkpoint made by hand, without the product's writer: shards with known numbers and the
// manifest that describes them. Element e of tensor t and kind k is 100000 k + 1000 t + e.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "io/checkpoint/index.h"
#include "io/checkpoint/manifest.h"
#include "io/hdf5/image.h"

namespace elaswave::testing {

inline float sample_value(std::size_t kind, std::int32_t tensor, std::int64_t elem) {
  return static_cast<float>(static_cast<std::int64_t>(kind) * 100'000 + tensor * 1000 + elem);
}

/// What a shard keeps of a tensor, in order.
struct SampleContent {
  std::int32_t tensor = 0;
  std::vector<hdf5::ElementRun> runs;
};

inline checkpoint::FileEntry write_sample_shard(const std::string& directory,
                                                const std::string& name,
                                                const std::vector<SampleContent>& contents) {
  checkpoint::FileEntry entry{
      .name = name, .size_bytes = 0, .block_crcs = {}, .frame_crc = 0, .pieces = {}};
  hdf5::ImageWriter writer = *hdf5::ImageWriter::create();
  std::vector<std::pair<std::int64_t, float>> values;  // by offset in the file
  for (std::size_t kind = 0; kind < checkpoint::kKindNames.size() && !contents.empty(); ++kind) {
    std::int64_t elems = 0;
    for (const SampleContent& content : contents)
      for (const hdf5::ElementRun& run : content.runs) elems += run.elems * run.count;
    const auto as_kind = static_cast<checkpoint::Kind>(kind);
    std::int64_t at = *writer.reserve_f32(checkpoint::shard_dataset(as_kind), elems);
    for (const SampleContent& content : contents) {
      entry.pieces.push_back({content.tensor, as_kind, at, content.runs, {}});
      for (const hdf5::ElementRun& run : content.runs)
        for (std::int64_t i = 0; i < run.count; ++i)
          for (std::int64_t j = 0; j < run.elems; ++j, at += 4)
            values.emplace_back(at,
                                sample_value(kind, content.tensor, run.begin + i * run.stride + j));
    }
  }
  const hdf5::Image image = *writer.close();
  entry.size_bytes = image.size_bytes;
  std::string bytes(static_cast<std::size_t>(image.size_bytes), '\0');
  for (const hdf5::ImageExtent& extent : image.extents)
    std::memcpy(bytes.data() + extent.offset_bytes, extent.bytes.data(), extent.bytes.size());
  for (const auto& [offset, value] : values) std::memcpy(bytes.data() + offset, &value, 4);
  std::ofstream file(directory + "/" + name, std::ios::binary);
  file.write(bytes.data(), std::ssize(bytes));
  EXPECT_TRUE(file.good()) << name;
  return entry;
}

/// Shards in an existing directory, and their manifest. Checksums are left out.
inline checkpoint::Manifest write_sample_shards(const std::string& directory) {
  std::filesystem::create_directories(directory + "/shards");
  checkpoint::Manifest manifest;
  manifest.run = "0123abcd";
  manifest.writer = "elaswave 0.1.0 \xc3\xbc";
  manifest.created = "2026-11-21T10:00:00Z";
  manifest.step = Step{12};
  manifest.generation = Generation{3};
  manifest.updates = 11;
  manifest.samples = 3072;
  manifest.tokens = std::int64_t{3} << 40;
  manifest.loss = 3.25;
  // More than fit into one object header, none in alphabetical order.
  for (int i = 20; i > 0; --i)
    manifest.config.emplace_back("section.key" + std::to_string(i), std::to_string(i));
  manifest.facts = {{"tokenizer", "bytes"}, {"data", "crc32c:1"}, {"empty", ""}};
  manifest.tensors = {{"transformer.wte.weight", {37, 6}},
                      {"transformer.h.0.ln_1.weight", {7}},
                      {"transformer.h.0.attn.c_attn.weight", {6, 18}},
                      {"transformer.ln_f.bias", {3}}};
  // wte: blocks of 16 in turn. c_attn: its halves in the wrong order, cut within a row.
  manifest.files = {
      write_sample_shard(directory, "shards/w00000.h5",
                         {{0, {{0, 16, 32, 7}}}, {1, {{0, 5, 5, 1}}}, {3, {{0, 3, 0, 1}}}}),
      write_sample_shard(directory, "shards/w00001.h5",
                         {{0, {{16, 16, 32, 6}, {208, 14, 0, 1}}},
                          {1, {{5, 2, 2, 1}}},
                          {2, {{50, 58, 0, 1}, {0, 50, 0, 1}}}}),
      write_sample_shard(directory, "shards/w00002.h5", {})};
  return manifest;
}

/// index.h5 of the manifest.
inline void write_sample_index(const std::string& directory, const checkpoint::Manifest& manifest) {
  const auto index = checkpoint::make_index(manifest);
  ASSERT_TRUE(index) << index.error().text();
  std::ofstream file(directory + "/index.h5", std::ios::binary);
  file.write(reinterpret_cast<const char*>(index->data()), std::ssize(*index));
  ASSERT_TRUE(file.good());
}

}  // namespace elaswave::testing
