// A directory of checkpoints: names, listing, reading the manifest, setting aside, retention.
//   DIR/checkpoints/step-000000000012/   committed; immutable
//                  /.tmp-...             being written, or left by a process that died
//                  /.trash-...           being deleted
//                  /.bad-step-...-N      found damaged and set aside; never deleted by us
//                  /LATEST               name of the newest one; advice for people and scripts
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

inline constexpr std::string_view kFolder = "checkpoints";
inline constexpr std::string_view kLatestName = "LATEST";
inline constexpr std::string_view kTemporaryPrefix = ".tmp-";
inline constexpr std::string_view kTrashPrefix = ".trash-";
inline constexpr std::string_view kBadPrefix = ".bad-";
inline constexpr std::string_view kManifestName = "MANIFEST.json";
inline constexpr std::string_view kIndexName = "index.h5";
inline constexpr std::string_view kShardFolder = "shards";

/// "step-000000000012" and back (-1: no such name).
std::string step_name(Step step);
std::int64_t parse_step_name(std::string_view name);
/// "shards/w00003.h5".
std::string shard_name(int writer);

/// Steps with a committed checkpoint, newest first. A missing directory has none.
Result<std::vector<Step>> list_steps(FileSystem& files, const std::string& directory);

/// Reads and checks MANIFEST.json of one checkpoint and that every shard has the size it says.
/// Their contents are not read. Code::corrupt says what is wrong.
Result<Manifest> read_manifest(FileSystem& files, const std::string& checkpoint);
/// The same without a look at the shards.
Result<Manifest> read_manifest_alone(FileSystem& files, const std::string& checkpoint);

/// Where the tools are pointed at: a run directory, its checkpoints/ or one step-*; resolved to the
/// directory of one checkpoint: of several the newest whose manifest is sound.
Result<std::string> find_checkpoint(FileSystem& files, const std::string& path);

/// DIR/checkpoints when it exists, else DIR itself.
Result<std::string> checkpoints_directory(FileSystem& files, const std::string& path);

/// Renames a damaged checkpoint to .bad-...; returns the new path.
Result<std::string> set_aside(FileSystem& files, const std::string& directory, Step step);

/// A name that tells of checkpoints where list_steps() finds none: one set aside, LATEST, or one
/// with a name like theirs. Empty: there never was one.
Result<std::string> trace_of_checkpoints(FileSystem& files, const std::string& directory);

/// Removes what dead writers left: .tmp-* and .trash-*. What cannot be removed is logged. REQUIRES:
/// no attempt is under way.
Result<void> sweep(FileSystem& files, const std::string& directory);

struct Retention {
  std::int64_t keep = 3;        // newest ones, at least 1
  std::int64_t keep_every = 0;  // multiples of so many steps stay for ever; 0: none
};
/// Of `steps` (newest first) those to delete. Pure. `verified` is never among them.
std::vector<Step> to_delete(const std::vector<Step>& steps, const Retention& retention,
                            Step verified);
/// Deletes what to_delete() says: rename to .trash-, sync, unlink.
Result<void> apply_retention(FileSystem& files, const std::string& directory,
                             const Retention& retention, Step verified);

}  // namespace elaswave::checkpoint
