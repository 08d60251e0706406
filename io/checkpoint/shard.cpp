#include "io/checkpoint/shard.h"

#include <algorithm>
#include <cstring>

#include "io/base/crc32c.h"
#include "io/checkpoint/index.h"

namespace elaswave::checkpoint {
namespace {

constexpr std::int64_t kElemBytes = 4;
// Large enough that the disk sees few requests, small enough to follow capture() closely.
constexpr std::int64_t kWriteBytes = std::int64_t{32} << 20;

/// Makes one run of two, the second stored right behind the first, if they can be said as one: a
/// range that goes on where the last ended, or ranges of equal length and distance.
bool fold(ElementRun& last, const ElementRun& next) {
  const std::int64_t distance = next.begin - (last.begin + (last.count - 1) * last.stride);
  if (last.count == 1 && next.count == 1 && distance == last.elems) {
    last.elems += next.elems;
    last.stride = last.elems;
    return true;
  }
  const bool regular = next.elems == last.elems && distance > last.elems &&
                       (last.count == 1 || distance == last.stride) &&
                       (next.count == 1 || distance == next.stride);
  if (!regular) return false;
  last.stride = distance;
  last.count += next.count;
  return true;
}

/// A run cut in two by a block's border is whole again after the first fold, and can then join
/// those before it.
void append_run(std::vector<ElementRun>& runs, const ElementRun& run) {
  runs.push_back(run);
  if (run.count == 1) runs.back().stride = run.elems;
  while (runs.size() > 1 && fold(runs[runs.size() - 2], runs.back())) runs.pop_back();
}

}  // namespace

std::int64_t StateRange::elems() const {
  std::int64_t total = 0;
  for (const ElementRun& run : runs) total += run.elems * run.count;
  return total;
}

Result<std::unique_ptr<ShardFile>> ShardFile::create(std::span<const StateRange> ranges) {
  std::unique_ptr<ShardFile> shard(new ShardFile);
  EW_TRY(shard->lay_out(ranges));
  return shard;
}

Result<void> ShardFile::lay_out(std::span<const StateRange> ranges) {
  EW_CHECK(!ranges.empty(), "a shard without ranges");
  ranges_.assign(ranges.begin(), ranges.end());
  std::int64_t elems = 0;
  for (const StateRange& range : ranges_) elems += range.elems();

  EW_ASSIGN(hdf5::ImageWriter writer, hdf5::ImageWriter::create());
  EW_TRY(writer.set_text("/", "format", "elaswave-shard"));
  EW_TRY(writer.set_i64("/", "format_version", kFormatVersion));
  for (std::size_t kind = 0; kind < data_begin_.size(); ++kind) {
    EW_ASSIGN(data_begin_[kind], writer.reserve_f32(shard_dataset(static_cast<Kind>(kind)), elems));
    add_pieces(static_cast<Kind>(kind), data_begin_[kind]);
  }
  EW_ASSIGN(const hdf5::Image image, writer.close());
  EW_CHECK(std::is_sorted(data_begin_.begin(), data_begin_.end()), "datasets out of order");
  size_bytes_ = image.size_bytes;

  image_ = allocate(size_bytes_, kDirectAlignment);
  for (const hdf5::ImageExtent& extent : image.extents)
    std::memcpy(image_.get() + extent.offset_bytes, extent.bytes.data(), extent.bytes.size());
  cut_fragments();
  rewind();
  return {};
}

void ShardFile::add_pieces(Kind kind, std::int64_t offset_bytes) {
  const std::size_t first = sums_.pieces.size();
  for (const StateRange& range : ranges_) {
    if (sums_.pieces.size() == first || sums_.pieces.back().tensor != range.tensor)
      sums_.pieces.push_back({.tensor = range.tensor,
                              .kind = kind,
                              .offset_bytes = offset_bytes,
                              .runs = {},
                              .unit_crcs = {}});
    for (const ElementRun& run : range.runs) append_run(sums_.pieces.back().runs, run);
    offset_bytes += range.elems() * kElemBytes;
  }
}

void ShardFile::cut_fragments() {
  std::int64_t at = 0;
  const auto add = [&](std::int64_t end, std::int32_t piece, std::int64_t unit) {
    while (at < end) {
      const std::int64_t block_end = (at / kFileBlockBytes + 1) * kFileBlockBytes;
      fragments_.push_back({at, std::min(end, block_end), piece, unit});
      at = fragments_.back().end;
    }
  };
  for (std::size_t i = 0; i < sums_.pieces.size(); ++i) {
    const Piece& piece = sums_.pieces[i];
    add(piece.offset_bytes, -1, 0);
    const std::int64_t elems = piece.elems();
    for (std::int64_t begin = 0; begin < elems; begin += kUnitElems)
      add(piece.offset_bytes + std::min(begin + kUnitElems, elems) * kElemBytes,
          static_cast<std::int32_t>(i), begin / kUnitElems);
  }
  add(size_bytes_, -1, 0);
}

void ShardFile::rewind() {
  for (Piece& piece : sums_.pieces)
    piece.unit_crcs.assign(static_cast<std::size_t>(ceil_div(piece.elems(), kUnitElems)), 0);
  sums_.block_crcs.assign(static_cast<std::size_t>(ceil_div(size_bytes_, kFileBlockBytes)), 0);
  sums_.frame_crc = 0;
  captured_bytes_ = 0;
}

std::span<const std::byte> ShardFile::bytes(std::int64_t begin, std::int64_t end) const {
  return {image_.get() + begin, static_cast<std::size_t>(end - begin)};
}

void ShardFile::take_checksums(std::int64_t until_bytes, std::size_t& next_fragment) {
  while (next_fragment < fragments_.size() && fragments_[next_fragment].end <= until_bytes) {
    const Fragment& fragment = fragments_[next_fragment++];
    const std::int64_t length = fragment.end - fragment.begin;
    const std::uint32_t crc = crc32c(bytes(fragment.begin, fragment.end));
    std::uint32_t& block =
        sums_.block_crcs[static_cast<std::size_t>(fragment.begin / kFileBlockBytes)];
    block = crc32c_combine(block, crc, length);
    std::uint32_t& other = fragment.piece < 0
                               ? sums_.frame_crc
                               : sums_.pieces[static_cast<std::size_t>(fragment.piece)]
                                     .unit_crcs[static_cast<std::size_t>(fragment.unit)];
    other = crc32c_combine(other, crc, length);
  }
  if (next_fragment == 0) return;
  captured_bytes_.store(fragments_[next_fragment - 1].end, std::memory_order_release);
  captured_bytes_.notify_all();
}

void ShardFile::capture(std::span<const StateSource> sources) {
  EW_CHECK(sources.size() == ranges_.size(), "{} sources for {} ranges", sources.size(),
           ranges_.size());
  std::size_t next_fragment = 0;
  for (std::size_t kind = 0; kind < data_begin_.size(); ++kind) {
    std::int64_t at = data_begin_[kind];
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const std::span<const float> values = sources[i][kind];
      EW_CHECK(std::ssize(values) == ranges_[i].elems(), "{} values for {} elements", values.size(),
               ranges_[i].elems());
      std::memcpy(image_.get() + at, values.data(), values.size_bytes());
      at += std::ssize(values) * kElemBytes;
      take_checksums(at, next_fragment);  // while the bytes are in the cache
    }
  }
  take_checksums(size_bytes_, next_fragment);
}

Result<FileEntry> ShardFile::write(FileSystem& files, const std::string& directory,
                                   const std::string& name) const {
  EW_ASSIGN(const std::unique_ptr<FileHandle> file,
            files.create(directory + "/" + name, Caching::direct));
  EW_TRY(file->reserve(size_bytes_));
  for (std::int64_t at = 0; at < size_bytes_;) {
    const std::int64_t end = std::min(at + kWriteBytes, size_bytes_);
    for (std::int64_t ready = captured_bytes_; ready < end; ready = captured_bytes_)
      captured_bytes_.wait(ready, std::memory_order_acquire);
    EW_TRY(file->write_at(at, bytes(at, end)));
    at = end;
  }
  EW_TRY(file->sync());
  return FileEntry{.name = name,
                   .size_bytes = size_bytes_,
                   .block_crcs = sums_.block_crcs,
                   .frame_crc = sums_.frame_crc,
                   .pieces = sums_.pieces};
}

}  // namespace elaswave::checkpoint
