// `elaswave checkpoint reindex`: index.h5 is derived from the manifest and can be made again.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "app/checkpoint_tools.h"
#include "io/checkpoint/index.h"
#include "io/checkpoint/publish.h"
#include "io/checkpoint/store.h"

namespace elaswave::app {
namespace {

using checkpoint::FileEntry;
using checkpoint::Manifest;

std::string parent_of(const std::string& path) {
  const std::filesystem::path parts(path);
  if (parts.filename() == "." || parts.filename() == "..") return path + "/..";
  return parts.has_parent_path() ? parts.parent_path().string() : ".";
}

/// A directory beside the checkpoint for files on their way into it: inside of it, a file that a
/// crash left behind would be damage; here it is swept with what dead writers left.
class Workshop {
 public:
  static Result<Workshop> open(FileSystem& files, const std::string& checkpoint) {
    Workshop workshop(files, fmt::format("{}/{}reindex-{}", parent_of(checkpoint),
                                         checkpoint::kTemporaryPrefix, ::getpid()));
    EW_TRY(remove_tree(files, workshop.directory_));
    EW_TRY(files.make_directory(workshop.directory_));
    workshop.open_ = true;
    return workshop;
  }
  Workshop(Workshop&& other) noexcept
      : files_(other.files_),
        directory_(std::move(other.directory_)),
        open_(std::exchange(other.open_, false)) {}
  Workshop(const Workshop&) = delete;
  Workshop& operator=(Workshop&&) = delete;
  Workshop& operator=(const Workshop&) = delete;
  ~Workshop() {
    // What cannot be removed now is swept when a run next starts.
    if (open_) static_cast<void>(remove_tree(*files_, directory_));
  }

  /// The file is on the disk before it has its name, and its name before this returns.
  Result<void> replace(const std::string& checkpoint, std::string_view name,
                       std::string_view content) {
    const std::string temporary = fmt::format("{}/{}", directory_, name);
    EW_TRY(write_text(*files_, temporary, content));
    EW_TRY(files_->rename(temporary, fmt::format("{}/{}", checkpoint, name)));
    return files_->sync_directory(checkpoint);
  }

 private:
  Workshop(FileSystem& files, std::string directory)
      : files_(&files), directory_(std::move(directory)) {}
  FileSystem* files_;
  std::string directory_;
  bool open_ = false;
};

bool same_text(const Result<std::string>& present, std::string_view expected) {
  return present && *present == expected;
}

}  // namespace

Result<Reindexed> reindex(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::vector<std::string> found,
            select_checkpoints(files, path, Selection::newest));
  const std::string& checkpoint = found.front();
  // Not read_manifest(): a missing index.h5 is what we are here for.
  const std::string where = fmt::format("{}/{}", checkpoint, checkpoint::kManifestName);
  EW_ASSIGN(const std::string text, read_text(files, where));
  EW_ASSIGN(Manifest manifest, checkpoint::parse_manifest(text, where));
  const auto entry =
      std::find_if(manifest.files.begin(), manifest.files.end(),
                   [](const FileEntry& file) { return file.name == checkpoint::kIndexName; });
  if (entry == manifest.files.end())
    return fail({.code = Code::corrupt,
                 .what = "a manifest without an index",
                 .where = where,
                 .why = fmt::format("no file of it is named {}", checkpoint::kIndexName),
                 .fix = "use another checkpoint"});
  EW_ASSIGN(const std::vector<std::byte> bytes, checkpoint::make_index(manifest));
  const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const FileEntry made = checkpoint::plain_entry(std::string(checkpoint::kIndexName), bytes);
  const bool same_entry = *entry == made;
  const std::string index = fmt::format("{}/{}", checkpoint, checkpoint::kIndexName);
  EW_ASSIGN(const bool present, exists(files, index));
  if (present && same_entry && same_text(read_text(files, index), content))
    return Reindexed::unchanged;
  // A crash between the two renames leaves a checkpoint that loads, because loading does not look
  // at the index, and of which `verify` says to run this again.
  EW_ASSIGN(Workshop workshop, Workshop::open(files, checkpoint));
  EW_TRY(workshop.replace(checkpoint, checkpoint::kIndexName, content));
  if (same_entry) return Reindexed::index_replaced;
  *entry = made;
  EW_TRY(workshop.replace(checkpoint, checkpoint::kManifestName, checkpoint::to_text(manifest)));
  return Reindexed::index_and_manifest_replaced;
}

}  // namespace elaswave::app
