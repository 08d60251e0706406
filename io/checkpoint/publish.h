// The commit protocol of a checkpoint, as one attempt under a temporary name:
//   1. every writer: begin_attempt(), then its shard into <attempt>/shards, synced
//   2. the coordinator, when all shards are there: publish(): index, manifest, directories synced,
//      then the rename to step-*, which is the commit point, and a sync that makes it last
// Until 2 is done nothing of an attempt can be taken for a checkpoint. THREADS: any.
#pragma once

#include <cstdint>
#include <string>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

/// Names one try: step, membership and a number drawn at start keep the files of different tries,
/// also those of a process that should be dead, apart.
struct Attempt {
  Step step{};
  Generation generation{};
  std::uint64_t session = 0;
};

/// DIR/checkpoints/.tmp-000000000012-0-0123456789abcdef
std::string attempt_path(const std::string& directory, const Attempt& attempt);

/// Makes the attempt's folders; every writer may call it.
Result<void> begin_attempt(FileSystem& files, const std::string& directory, const Attempt& attempt);

/// Commits. `manifest` holds everything but the index's entry. Before the rename it looks at what
/// it is about to commit: the manifest reads back, the index too, and every shard is there with its
/// size and frame. An error means that step-* does not exist or is not known to be durable.
Result<void> publish(FileSystem& files, const std::string& directory, const Attempt& attempt,
                     Manifest manifest);

/// Replaces LATEST. Advice only: what it says may be older than the newest checkpoint, but it is
/// never torn.
Result<void> write_latest(FileSystem& files, const std::string& directory, Step step);

/// The entry of a file without pieces.
FileEntry plain_entry(const std::string& name, std::span<const std::byte> bytes);

}  // namespace elaswave::checkpoint
