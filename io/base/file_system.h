// The files seam: every file operation of a checkpoint goes through one FileSystem, so that tests
// can put a disk behind it that fills up, fails, writes short, forgets what was not synced, or dies
// after any single operation. The semantics are POSIX's, durability included:
// - what was written to a file is durable once sync() of that file returned;
// - that a name exists, is gone, or was renamed is durable once sync_directory() of its directory
//   returned; either may reach the disk earlier, in any order;
// - rename() is atomic: a reader sees the old name or the new one.
// ERRORS: as in file.h; Code::io from sync() means that the file's content is unknown: sync is
// never repeated, the file is given up. THREADS: any for FileSystem; one caller per FileHandle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"

namespace elaswave {

/// Direct transfers want memory, offset and size in multiples of this.
inline constexpr std::int64_t kDirectAlignment = 4096;

class FileHandle {
 public:
  virtual ~FileHandle() = default;

  virtual const std::string& path() const = 0;
  virtual Result<std::int64_t> size_bytes() const = 0;

  /// Exactly out.size() bytes; the end of the file before that is Code::data.
  Result<void> read_at(std::int64_t offset_bytes, std::span<std::byte> out) const;
  /// All of `bytes`: short writes are continued, one that moves nothing is an error.
  Result<void> write_at(std::int64_t offset_bytes, std::span<const std::byte> bytes);

  /// Reserves [0, size_bytes) on the disk, so that a full disk shows here and not in a later write.
  virtual Result<void> reserve(std::int64_t size_bytes) = 0;
  virtual Result<void> sync() = 0;

 private:
  /// One system call: up to out.size() bytes, 0 only at the end of the file.
  virtual Result<std::int64_t> read_some_at(std::int64_t offset_bytes,
                                            std::span<std::byte> out) const = 0;
  /// One system call: how many bytes were written, possibly fewer than given.
  virtual Result<std::int64_t> write_some_at(std::int64_t offset_bytes,
                                             std::span<const std::byte> bytes) = 0;
};

/// Direct: past the page cache where the file system can and the transfer is aligned (see
/// kDirectAlignment), through it otherwise.
enum class Caching { buffered, direct };

struct DirectoryEntry {
  std::string name;
  enum class Type { file, directory, other } type = Type::file;
  bool operator==(const DirectoryEntry&) const = default;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  /// For reading.
  virtual Result<std::unique_ptr<FileHandle>> open(const std::string& path, Caching caching) = 0;
  /// A new file for writing and reading; one that exists is an error (Code::io).
  virtual Result<std::unique_ptr<FileHandle>> create(const std::string& path, Caching caching) = 0;
  /// The parent must exist; a directory that exists is fine.
  virtual Result<void> make_directory(const std::string& path) = 0;
  /// Replaces a file; a directory may only replace an empty one.
  virtual Result<void> rename(const std::string& from, const std::string& to) = 0;
  virtual Result<void> remove_file(const std::string& path) = 0;
  virtual Result<void> remove_directory(const std::string& path) = 0;  // empty ones only
  virtual Result<void> sync_directory(const std::string& path) = 0;
  /// By name. Code::data when there is no such directory.
  virtual Result<std::vector<DirectoryEntry>> list(const std::string& path) = 0;
  /// What an unprivileged writer may still use of the file system that holds `path`.
  virtual Result<std::int64_t> free_bytes(const std::string& path) = 0;
};

/// The operating system's.
std::unique_ptr<FileSystem> make_file_system();

/// True when something has this name.
Result<bool> exists(FileSystem& files, const std::string& path);
/// make_directory() for the path and its missing parents; every directory that gained an entry is
/// synced, and the parent of the deepest one that was there (a dead process may have made it).
Result<void> make_directories(FileSystem& files, const std::string& path);
/// Removes a directory and all below it. Parts that are gone already are fine.
Result<void> remove_tree(FileSystem& files, const std::string& path);
/// The whole file.
Result<std::string> read_text(FileSystem& files, const std::string& path);
/// Creates, writes and syncs a file. The directory is not synced.
Result<void> write_text(FileSystem& files, const std::string& path, std::string_view text);

}  // namespace elaswave
