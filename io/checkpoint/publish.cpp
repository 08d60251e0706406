#include "io/checkpoint/publish.h"

#include <algorithm>

#include "io/base/crc32c.h"
#include "io/checkpoint/index.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/store.h"

namespace elaswave::checkpoint {
namespace {

/// Writes a file under another name, synced, then renames it: it has its name only when whole.
Result<void> replace_text(FileSystem& files, const std::string& path, std::string_view text) {
  const std::string part = path + ".part";
  EW_ASSIGN(const bool left_over, exists(files, part));
  if (left_over) EW_TRY(files.remove_file(part));
  EW_TRY(write_text(files, part, text));
  return files.rename(part, path);
}

/// A writer may have written somewhere else: a disk that is not shared, a mount that is missing.
Result<void> check_attempt(FileSystem& files, const std::string& path, const Manifest& manifest) {
  EW_ASSIGN(const Manifest read, read_manifest(files, path));
  if (to_text(read) != to_text(manifest))
    return fail({.code = Code::io,
                 .what = "a manifest does not read back as it was written",
                 .where = path,
                 .why = "it is another checkpoint's",
                 .fix = "check the disk and the file system"});
  for (const FileEntry& entry : manifest.files) {
    if (!entry.pieces.empty()) {
      EW_TRY(verify_frame(files, path, entry));
      continue;
    }
    if (const auto damages = verify_file(files, path, entry); !damages.empty())
      return fail({.code = Code::io,
                   .what = "a file does not read back as it was written",
                   .where = path + "/" + entry.name,
                   .why = damages.front().what,
                   .fix = "check the disk and the file system"});
  }
  return {};
}

}  // namespace

std::string attempt_path(const std::string& directory, const Attempt& attempt) {
  return fmt::format("{}/{}{:012d}-{}-{:016x}", directory, kTemporaryPrefix, raw(attempt.step),
                     raw(attempt.generation), attempt.session);
}

Result<void> begin_attempt(FileSystem& files, const std::string& directory,
                           const Attempt& attempt) {
  const std::string path = attempt_path(directory, attempt);
  EW_TRY(files.make_directory(path));
  return files.make_directory(path + "/" + std::string(kShardFolder));
}

FileEntry plain_entry(const std::string& name, std::span<const std::byte> bytes) {
  FileEntry entry{.name = name,
                  .size_bytes = std::ssize(bytes),
                  .block_crcs = {},
                  .frame_crc = crc32c(bytes),
                  .pieces = {}};
  for (std::size_t at = 0; at < bytes.size(); at += kFileBlockBytes)
    entry.block_crcs.push_back(
        crc32c(bytes.subspan(at, std::min<std::size_t>(kFileBlockBytes, bytes.size() - at))));
  return entry;
}

Result<void> publish(FileSystem& files, const std::string& directory, const Attempt& attempt,
                     Manifest manifest) {
  const std::string path = attempt_path(directory, attempt);
  EW_ASSIGN(const std::vector<std::byte> index, make_index(manifest));
  EW_TRY(write_text(files, path + "/" + std::string(kIndexName),
                    {reinterpret_cast<const char*>(index.data()), index.size()}));
  manifest.files.push_back(plain_entry(std::string(kIndexName), index));
  EW_TRY(check_manifest(manifest, path));  // never write what could not be read
  EW_TRY(replace_text(files, path + "/" + std::string(kManifestName), to_text(manifest)));
  EW_TRY(check_attempt(files, path, manifest));
  EW_TRY(files.sync_directory(path + "/" + std::string(kShardFolder)));
  EW_TRY(files.sync_directory(path));
  EW_TRY(files.rename(path, directory + "/" + step_name(attempt.step)));
  return files.sync_directory(directory);
}

Result<void> write_latest(FileSystem& files, const std::string& directory, Step step) {
  return replace_text(files, directory + "/" + std::string(kLatestName), step_name(step) + "\n");
}

}  // namespace elaswave::checkpoint
