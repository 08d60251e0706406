// Reads given stretches of files in order, on a thread of its own, a few stretches ahead of the
// caller, past the page cache: the disk works while the caller checks sums.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "io/base/file_system.h"
#include "io/base/memory.h"
#include "io/base/types.h"

namespace elaswave::checkpoint {

/// Bytes [begin, end) of files[file]; into memory of the reader's own, or into the caller's, which
/// then has the same place within a block of kDirectAlignment as `begin`.
struct Stretch {
  std::size_t file = 0;
  std::int64_t begin = 0, end = 0;
  std::byte* into = nullptr;

  /// Longest allowed: memory of our own is kept small, the caller's wants few requests.
  std::int64_t most_bytes() const { return (into == nullptr ? 8 : 64) << 20; }
};

/// THREADS: one caller. The destructor waits for the read under way.
class ReadAhead {
 public:
  /// REQUIRES: each stretch holds 1 to most_bytes() bytes; memory given by the caller lives as long
  /// as this and is touched by nobody else. `files` must outlive this.
  ReadAhead(FileSystem& files, std::vector<std::string> paths, std::vector<Stretch> stretches);
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;
  ~ReadAhead();

  /// The next stretch's bytes, valid until the next call. After an error there is nothing more.
  /// REQUIRES: called at most once for each stretch.
  Result<std::span<const std::byte>> next();

 private:
  struct Slot {
    Memory memory;
    std::optional<Result<std::span<const std::byte>>> filled;
  };
  static constexpr std::size_t kSlots = 3;

  void read_all();
  Result<std::span<const std::byte>> read(const Stretch& stretch, std::byte* memory);
  Result<std::span<const std::byte>> read_own(const Stretch& stretch, std::byte* memory);
  Result<void> read_into(const Stretch& stretch, std::byte* memory);
  Slot& slot(std::size_t index) { return slots_[index % kSlots]; }

  FileSystem& files_;
  std::vector<std::string> paths_;
  std::vector<Stretch> stretches_;
  std::vector<Slot> slots_;
  std::size_t open_file_ = 0;
  std::unique_ptr<FileHandle> handle_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t taken_ = 0;  // stretches that the caller is done with
  std::size_t given_ = 0;  // stretches handed to the caller
  bool stop_ = false;
  std::thread reader_;
};

}  // namespace elaswave::checkpoint
