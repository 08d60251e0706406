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

/// By the reporter, before restore(): makes the directory, tries to write there, removes what dead
/// writers left. Start::fresh renames an existing one out of the way first.
Result<void> prepare_checkpoints(FileSystem& files, const std::string& directory, Start start);

struct RestoreRequest {
  comm::World& world;
  const comm::Group& group;
  FileSystem& files;
  std::string directory;  // that holds step-*
  const spec::Inventory& inventory;
  const layout::BlockTable& blocks;
  zero::Shard& shard;
  Nanoseconds timeout = 0;
  /// Says whether this run may go on from a checkpoint. Must judge alike on all ranks.
  std::function<Result<void>(const checkpoint::Manifest&, const std::string& path)> accept;
};

struct Restored {
  checkpoint::Manifest manifest;
  std::string path;
};

/// COLLECTIVE. Loads the newest sound checkpoint into the shard; its version is set. Nothing: there
/// is none. Damaged ones are renamed aside and named in the log. Code::corrupt: there are
/// checkpoints, but none is sound. Code::usage: `accept` refused the newest sound one.
Result<std::optional<Restored>> restore(const RestoreRequest& request);

}  // namespace elaswave::app
