// The manifest of a checkpoint: what it holds, where every element of it lies, and the checksum of
// every byte. Plain data, its text (README.md, "MANIFEST.json"), and the checks that make it
// trustworthy. Pure: no file is touched here. ERRORS: Code::corrupt.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/base/error.h"
#include "io/base/types.h"
#include "io/hdf5/image.h"

namespace elaswave::checkpoint {

inline constexpr int kFormatVersion = 1;
/// Elements under one checksum of a piece: 64 KiB of f32.
inline constexpr std::int64_t kUnitElems = 16384;
/// Bytes under one checksum of a file.
inline constexpr std::int64_t kFileBlockBytes = std::int64_t{4} << 20;

/// What is kept of every tensor, f32 each.
enum class Kind : std::uint8_t { master, exp_avg, exp_avg_sq, count };
inline constexpr std::array<std::string_view, 3> kKindNames = {"master", "exp_avg", "exp_avg_sq"};
constexpr std::string_view name(Kind kind) {
  return kKindNames[static_cast<std::size_t>(kind)];
}

using hdf5::ElementRun;

struct Tensor {
  std::string name;                 // canonical
  std::vector<std::int64_t> shape;  // global, unpadded, row-major
  std::int64_t elems() const;
  bool operator==(const Tensor&) const = default;
};

/// Consecutive bytes of a file that hold elements of one tensor and kind: those of `runs`, in
/// order, as little-endian f32.
struct Piece {
  std::int32_t tensor = 0;  // index in Manifest::tensors
  Kind kind = Kind::master;
  std::int64_t offset_bytes = 0;  // in the file
  std::vector<ElementRun> runs;
  // Of each kUnitElems elements as stored; the last unit may be shorter.
  std::vector<std::uint32_t> unit_crcs;
  std::int64_t elems() const;
  bool operator==(const Piece&) const = default;
};

struct FileEntry {
  std::string name;  // relative to the checkpoint's directory, "shards/w00000.h5"
  std::int64_t size_bytes = 0;
  std::vector<std::uint32_t> block_crcs;  // of each kFileBlockBytes
  std::uint32_t frame_crc = 0;            // of all bytes outside of pieces, in order
  std::vector<Piece> pieces;              // by offset
  bool operator==(const FileEntry&) const = default;
};

/// Free-form facts, kept in order: key and value.
using Facts = std::vector<std::pair<std::string, std::string>>;

struct Manifest {
  std::string run;      // identity of the run, kept over resumes
  std::string writer;   // program and version
  std::string created;  // UTC, "2026-11-21T10:00:00Z"
  Step step{};
  Generation generation{};
  std::int64_t updates = 0;             // AdamW's t
  std::int64_t samples = 0;             // consumed
  std::int64_t tokens = 0;              // consumed
  double loss = 0;                      // of the step; nats per token
  std::optional<std::uint64_t> digest;  // state digest, when it was computed at that step
  Facts config;                         // effective values of the option table's keys
  Facts facts;  // fingerprints, tokenizer, numeric class, fraction bits, layout
  std::vector<Tensor> tensors;
  std::vector<FileEntry> files;  // shards first, then index.h5
  bool operator==(const Manifest&) const = default;

  /// The value of a key, or nothing.
  std::optional<std::string> config_value(std::string_view key) const;
  std::optional<std::string> fact(std::string_view key) const;
};

/// One JSON object in one line per file and piece; the last field is the CRC32C of all text before
/// it. parse(to_text(m)) == m.
std::string to_text(const Manifest& manifest);

/// Accepts exactly what to_text() writes, and only when the parts fit together: every element of
/// every tensor and kind in exactly one piece, pieces apart and inside their files, as many
/// checksums as units and blocks, names that stay inside the directory. A sound text of another
/// format version is Code::usage. `where` is for errors.
Result<Manifest> parse_manifest(std::string_view text, const std::string& where);

/// One file's entry on its own, as a writer hands it to the coordinator; unchecked.
std::string entry_text(const FileEntry& entry);
Result<FileEntry> parse_entry(std::string_view text);

/// The checks of parse_manifest() on the parts alone.
Result<void> check_manifest(const Manifest& manifest, const std::string& where);

}  // namespace elaswave::checkpoint
