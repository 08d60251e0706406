// The working part of `elaswave checkpoint`: what is looked up, read and written, and the lines a
// person sees. Needs no GPU and no MPI. Paths are a run directory, its checkpoints/ or one
// checkpoint. ERRORS: Code::corrupt for a damaged checkpoint, Code::data for a path that holds
// none. THREADS: one caller.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/base/clock.h"
#include "io/base/file_system.h"
#include "io/checkpoint/diff.h"
#include "io/checkpoint/manifest.h"
#include "io/checkpoint/reader.h"

namespace elaswave::app {

struct ListedCheckpoint {
  std::string name;  // of its directory
  std::string created;
  std::int64_t size_bytes = 0;  // of all files but the manifest
  std::int64_t shards = 0;
  double loss = 0;
  std::string damage;  // empty: manifest and sizes are right; contents are not read
};

struct Listing {
  std::string directory;
  std::vector<ListedCheckpoint> checkpoints;                      // newest first
  std::vector<std::string> unfinished, being_deleted, set_aside;  // names
  std::string latest;  // what LATEST says; empty: there is none
};

Result<Listing> list_checkpoints(FileSystem& files, const std::string& path);
std::vector<std::string> lines(const Listing& listing);

enum class Pieces { hidden, shown };
std::vector<std::string> describe(const checkpoint::Manifest& manifest, Pieces pieces);

/// Directories of the newest checkpoint, or of all, newest first. At least one.
enum class Selection { newest, all };
Result<std::vector<std::string>> select_checkpoints(FileSystem& files, const std::string& path,
                                                    Selection selection);

struct Verification {
  std::vector<checkpoint::Damage> damages;
  std::int64_t read_bytes = 0;
  double seconds = 0;
};
/// Reads every byte of one checkpoint directory.
Verification verify_checkpoint(FileSystem& files, const Clock& clock,
                               const std::string& checkpoint);
std::vector<std::string> lines(const Verification& verification, const std::string& checkpoint);

struct TensorDifference {
  std::string tensor;
  checkpoint::Kind kind = checkpoint::Kind::master;
  checkpoint::ContentDifference content;
};
struct CheckpointDifference {
  checkpoint::ManifestDifference manifest;
  std::vector<TensorDifference> tensors;  // those whose numbers differ
  std::int64_t compared = 0;              // tensors and kinds
  std::int64_t read_elems = 0;            // from each
  /// Training goes on alike from both: same tensors, same counters. Where and when they were
  /// written and how the run was configured do not matter.
  bool same_state() const {
    return manifest.counters.empty() && manifest.shapes.empty() && tensors.empty();
  }
};
Result<CheckpointDifference> diff_checkpoints(FileSystem& files, const std::string& a,
                                              const std::string& b);
std::vector<std::string> lines(const CheckpointDifference& difference);

enum class Reindexed { unchanged, index_replaced, index_and_manifest_replaced };
/// Makes index.h5 of the newest checkpoint anew from its manifest. Another HDF5 version may write
/// other bytes; then the manifest gets a new entry for them. The checkpoint loads after a crash at
/// any point, and running it again finishes the work.
Result<Reindexed> reindex(FileSystem& files, const std::string& path);

}  // namespace elaswave::app
