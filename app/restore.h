// Finding the newest checkpoint that is sound and loading it, all ranks together.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"
#include "model/spec/inventory.h"
#include "parallel/comm/group.h"
#include "parallel/zero/shard.h"

namespace elaswave::app {

enum class Start { resume, fresh };

/// By the reporter, before restore(): makes the directory, removes what dead writers left, and
/// leaves a mark by which the other ranks see that theirs is the same one. Start::fresh renames an
/// existing one out of the way first.
Result<void> prepare_checkpoints(FileSystem& files, const std::string& directory, Start start,
                                 std::uint64_t session);

struct RestoreRequest {
  comm::World& world;
  const comm::Group& group;
  FileSystem& files;
  std::string directory;      // that holds step-*
  std::uint64_t session = 0;  // as given to prepare_checkpoints()
  const spec::Inventory& inventory;
  const layout::BlockTable& blocks;
  zero::Shard& shard;
  Nanoseconds timeout = 0;
  /// Says whether this run may go on from a checkpoint. Must judge alike on all ranks.
  std::function<Result<void>(const checkpoint::Manifest&, const std::string& path)> accept;
  /// Those of later steps may hold damage: they are passed over, and renamed aside once an older
  /// one is loaded. The same on all ranks.
  std::optional<Step> newest = std::nullopt;
};

struct Restored {
  checkpoint::Manifest manifest;
  std::string path;
};

/// COLLECTIVE. Loads the newest sound checkpoint into the shard; its version is set. Nothing: there
/// is none. Damaged ones are renamed aside and named in the log, but only if the reporter finds the
/// damage too: what one rank alone cannot read is that rank's trouble (Code::io). Code::corrupt:
/// there are or were checkpoints, but none is sound. Code::usage: `accept` refused the newest sound
/// one, a rank sees another directory, or a checkpoint is of another format or has another's name.
Result<std::optional<Restored>> restore(const RestoreRequest& request);

}  // namespace elaswave::app
