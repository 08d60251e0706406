#include "io/checkpoint/index.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "io/hdf5/image.h"

namespace elaswave::checkpoint {
namespace {

constexpr std::int64_t kElemBytes = 4;

/// Of every tensor and kind: where its elements are.
using Sources = std::map<std::pair<std::int32_t, Kind>, std::vector<hdf5::VirtualSource>>;

std::string group(Kind kind) {
  return kind == Kind::master ? "/model" : fmt::format("/optimizer/{}", name(kind));
}

/// The pieces of one kind in a file, which are the dataset of that kind, end to end.
Result<void> add_sources(const FileEntry& file, Kind kind, Sources& sources) {
  std::vector<const Piece*> pieces;
  for (const Piece& piece : file.pieces)
    if (piece.kind == kind) pieces.push_back(&piece);
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece* a, const Piece* b) { return a->offset_bytes < b->offset_bytes; });
  std::int64_t dataset_elems = 0;
  for (const Piece* piece : pieces) {
    const std::int64_t expected = pieces.front()->offset_bytes + dataset_elems * kElemBytes;
    if (piece->offset_bytes != expected)
      return fail({Code::corrupt, "the pieces of a shard do not form a dataset",
                   fmt::format("{}, {}", file.name, shard_dataset(kind)),
                   fmt::format("a piece at byte {}, the one before it ends at {}",
                               piece->offset_bytes, expected),
                   "use an older checkpoint; `elaswave checkpoint ls` shows them"});
    dataset_elems += piece->elems();
  }
  std::int64_t begin = 0;
  for (const Piece* piece : pieces) {
    sources[{piece->tensor, kind}].push_back({.file = file.name,
                                              .dataset = shard_dataset(kind),
                                              .source_elems = dataset_elems,
                                              .source_begin = begin,
                                              .runs = piece->runs});
    begin += piece->elems();
  }
  return {};
}

Result<void> set_facts(hdf5::ImageWriter& writer, const std::string& group, const Facts& facts) {
  EW_TRY(writer.create_group(group));
  for (const auto& [key, value] : facts) EW_TRY(writer.set_text(group, key, value));
  return {};
}

Result<void> set_root(hdf5::ImageWriter& writer, const Manifest& manifest) {
  EW_TRY(writer.set_text("/", "format", "elaswave-checkpoint"));
  EW_TRY(writer.set_i64("/", "format_version", kFormatVersion));
  EW_TRY(writer.set_text("/", "run", manifest.run));
  EW_TRY(writer.set_text("/", "writer", manifest.writer));
  EW_TRY(writer.set_text("/", "created", manifest.created));
  EW_TRY(writer.set_i64("/", "step", raw(manifest.step)));
  return writer.set_i64("/", "generation", raw(manifest.generation));
}

Result<void> set_trainer(hdf5::ImageWriter& writer, const Manifest& manifest) {
  EW_TRY(writer.create_group("/trainer"));
  EW_TRY(writer.set_i64("/trainer", "step", raw(manifest.step)));
  EW_TRY(writer.set_i64("/trainer", "updates", manifest.updates));
  EW_TRY(writer.set_i64("/trainer", "samples", manifest.samples));
  EW_TRY(writer.set_i64("/trainer", "tokens", manifest.tokens));
  return writer.set_f64("/trainer", "loss", manifest.loss);
}

/// Without gaps: the image as a file holds it.
std::vector<std::byte> flat(const hdf5::Image& image) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(image.size_bytes));
  for (const hdf5::ImageExtent& extent : image.extents)
    std::copy(extent.bytes.begin(), extent.bytes.end(), bytes.begin() + extent.offset_bytes);
  return bytes;
}

}  // namespace

std::string shard_dataset(Kind kind) {
  return fmt::format("/{}", name(kind));
}

Result<std::vector<std::byte>> make_index(const Manifest& manifest) {
  Sources sources;
  for (const FileEntry& file : manifest.files)
    for (std::size_t kind = 0; kind < kKindNames.size(); ++kind)
      EW_TRY(add_sources(file, static_cast<Kind>(kind), sources));

  EW_ASSIGN(hdf5::ImageWriter writer, hdf5::ImageWriter::create());
  EW_TRY(set_root(writer, manifest));
  for (std::size_t kind = 0; kind < kKindNames.size(); ++kind) {
    const std::string parent = group(static_cast<Kind>(kind));
    EW_TRY(writer.create_group(parent));
    for (std::size_t i = 0; i < manifest.tensors.size(); ++i) {
      const Tensor& tensor = manifest.tensors[i];
      EW_TRY(writer.create_virtual_f32(
          fmt::format("{}/{}", parent, tensor.name), tensor.shape,
          sources[{static_cast<std::int32_t>(i), static_cast<Kind>(kind)}]));
    }
  }
  EW_TRY(set_trainer(writer, manifest));
  EW_TRY(set_facts(writer, "/config", manifest.config));
  EW_TRY(set_facts(writer, "/facts", manifest.facts));
  EW_ASSIGN(const hdf5::Image image, writer.close());
  return flat(image);
}

}  // namespace elaswave::checkpoint
