// Files of the operating system behind owners that return Results: reading, appending, mapping, and
// replacing a file so that a reader sees the old content or the whole new one. All offsets and
// sizes are 64-bit bytes. ERRORS: Code::data for what the user named and is missing or no file;
// Code::io for what the system refused. THREADS: one caller per object, const members of MappedFile
// from any. Nothing here is interrupted by signals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "io/base/error.h"
#include "io/base/unique.h"

namespace elaswave {

struct DescriptorTraits {
  using handle_type = int;
  static handle_type null() { return -1; }
  static void release(handle_type descriptor);
};
using Descriptor = Unique<DescriptorTraits>;

/// The error for a failed system call: `what` in words, `path`, the system's own text for
/// `error_number`.
Error system_error(std::string what, std::string_view path, int error_number);

/// An open file and the path it was opened by.
class File {
 public:
  /// For reading. Pipes are accepted, directories are not.
  static Result<File> open(const std::string& path);
  /// For writing; created when missing, emptied when present.
  static Result<File> create(const std::string& path);
  /// For writing at the end, and reading; created when missing. Each write_all() of one short line
  /// is one write.
  static Result<File> append(const std::string& path);

  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_.get(); }
  Result<std::int64_t> size_bytes() const;
  /// True while path() is a name of this very file: nobody has removed it or put another in its
  /// place.
  bool is_named() const;

  /// Up to out.size() bytes from the current position; 0 only at the end.
  Result<std::int64_t> read_some(std::span<std::byte> out);
  /// Exactly out.size() bytes from `offset_bytes`; the end of the file before that is an error.
  Result<void> read_at(std::int64_t offset_bytes, std::span<std::byte> out) const;
  Result<void> write_all(std::span<const std::byte> bytes);
  Result<void> write_at(std::int64_t offset_bytes, std::span<const std::byte> bytes);
  /// Reserves the range on the disk, so that a full disk shows here and not in a later write.
  Result<void> reserve(std::int64_t offset_bytes, std::int64_t size_bytes);
  /// Cuts the file, or extends it by zeros, to a size.
  Result<void> resize(std::int64_t size_bytes);
  /// Waits until the data is on the disk.
  Result<void> sync();

 private:
  friend class ReplacementFile;
  File(Descriptor descriptor, std::string path)
      : descriptor_(std::move(descriptor)), path_(std::move(path)) {}
  Descriptor descriptor_;
  std::string path_;
};

/// A file being written under a temporary name beside its final one. publish() makes it durable and
/// renames it over whatever was there; without publish() the destructor removes it and the old file
/// stays.
class ReplacementFile {
 public:
  static Result<ReplacementFile> create(const std::string& final_path);

  ReplacementFile(ReplacementFile&&) noexcept;
  ReplacementFile(const ReplacementFile&) = delete;
  ReplacementFile& operator=(const ReplacementFile&) = delete;
  ReplacementFile& operator=(ReplacementFile&&) = delete;
  ~ReplacementFile();

  File& file() { return file_; }
  const std::string& final_path() const { return final_path_; }
  /// sync, rename, sync of the directory. At most once.
  Result<void> publish();
  /// The same, and the file stays open, under its final name: whatever is put in its place later,
  /// the caller goes on writing this one.
  static Result<File> publish_and_keep(ReplacementFile replacement);

 private:
  ReplacementFile(File file, std::string final_path)
      : file_(std::move(file)), final_path_(std::move(final_path)) {}
  File file_;
  std::string final_path_;
  enum class State { writing, over } state_ = State::writing;
};

/// A whole regular file mapped for reading. The file must not shrink while mapped (the system would
/// end the process).
class MappedFile {
 public:
  MappedFile() = default;
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// A lock that one process holds on a file, advisory, gone with the process however it ends. Only
/// as good as the file system: some network file systems lock nothing, or only within a host.
class FileLock {
 public:
  FileLock() = default;
  /// Nothing: somebody else has it. Creates the file when missing. A file system without locks
  /// gives an empty lock, with a warning.
  /// `text` becomes the file's content.
  static Result<std::optional<FileLock>> try_acquire(const std::string& path,
                                                     std::string_view text = {});
  /// Puts a new file in the place of the old one, locked before it has the name: a process that
  /// still holds the old one holds nothing that others look at. For the heir of a process that may
  /// be dead, or only stopped.
  static Result<FileLock> take_over(const std::string& path, std::string_view text);

  /// False when another process has taken over, and when the file system has no locks.
  bool is_named() const;
  const std::string& path() const { return path_; }

 private:
  FileLock(Descriptor descriptor, std::string path)
      : descriptor_(std::move(descriptor)), path_(std::move(path)) {}
  Descriptor descriptor_;
  std::string path_;
};

/// Creates the directory and its parents when missing.
Result<void> create_directories(const std::string& path);

}  // namespace elaswave
