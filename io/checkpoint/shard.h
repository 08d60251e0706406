// One rank's shard of a checkpoint: a file image of its own in memory, filled from the live state,
// checksummed in the same pass, and written past the page cache. The image is allocated once for a
// layout and used for every checkpoint.
// THREADS: capture() and write() may run on two threads at once: write() follows capture()'s
// progress. Everything else: one caller, while neither runs.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/base/memory.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

/// Elements a rank keeps side by side: those of `runs`, in the order it keeps them.
struct StateRange {
  std::int32_t tensor = 0;
  std::vector<ElementRun> runs;
  std::int64_t elems() const;
};

/// Where the numbers of a range are, by kind, each without gaps. They must not change while
/// capture() runs.
using StateSource = std::array<std::span<const float>, static_cast<std::size_t>(Kind::count)>;

class ShardFile {
 public:
  /// Lays the file out and allocates its image. REQUIRES: at least one range, none empty.
  static Result<std::unique_ptr<ShardFile>> create(std::span<const StateRange> ranges);

  /// Memory and file, in bytes.
  std::int64_t size_bytes() const { return size_bytes_; }

  /// Makes ready for the next capture() and write().
  void rewind();
  /// Copies the state into the image and checksums it. `sources` as the ranges of create().
  void capture(std::span<const StateSource> sources);
  /// Writes the image to the new file `name` of `directory` (a path like "shards/w00000.h5") as far
  /// as it is captured, until all of it is on the disk. The entry says what was written.
  Result<FileEntry> write(FileSystem& files, const std::string& directory,
                          const std::string& name) const;

 private:
  /// Bytes of one unit of a piece (or of the frame, between pieces) within one file block.
  struct Fragment {
    std::int64_t begin = 0, end = 0;
    std::int32_t piece = -1;  // -1: frame
    std::int64_t unit = 0;    // of the piece
  };
  struct Sums {  // what is known of the checksums so far
    std::vector<Piece> pieces;
    std::vector<std::uint32_t> block_crcs;
    std::uint32_t frame_crc = 0;
  };

  ShardFile() = default;
  Result<void> lay_out(std::span<const StateRange> ranges);
  void add_pieces(Kind kind, std::int64_t offset_bytes);
  void cut_fragments();
  void take_checksums(std::int64_t until_bytes, std::size_t& next_fragment);
  std::span<const std::byte> bytes(std::int64_t begin, std::int64_t end) const;

  std::vector<StateRange> ranges_;
  std::array<std::int64_t, static_cast<std::size_t>(Kind::count)> data_begin_{};  // in the file
  std::int64_t size_bytes_ = 0;
  Memory image_;
  std::vector<Fragment> fragments_;  // by begin, covering the file
  Sums sums_;
  std::atomic<std::int64_t> captured_bytes_ = 0;
};

}  // namespace elaswave::checkpoint
