// An HDF5 file as bytes in memory: HDF5 lays it out, nothing touches a disk. Small things (groups,
// attributes, virtual datasets, short byte datasets) come as extents; the raw data of large
// datasets is only given a place, and whoever writes the file puts the numbers there. So every byte
// of a checkpoint goes through our own file seam, a full disk never meets HDF5, and an image can be
// checksummed before it is written. Format bounds as in file.h (v110). THREADS: as in file.h.
// ERRORS: Code::io with the library's error stack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"

namespace elaswave::hdf5 {

struct ImageExtent {
  std::int64_t offset_bytes = 0;
  std::vector<std::byte> bytes;
};

/// What is not in an extent is zero or the raw data of a reserved dataset.
struct Image {
  std::int64_t size_bytes = 0;
  std::vector<ImageExtent> extents;  // ascending, apart from each other
};

/// `count` ranges of `elems` elements, `stride` apart, the first at `begin`: row-major elements of
/// a dataset.
struct ElementRun {
  std::int64_t begin = 0;
  std::int64_t elems = 0;
  std::int64_t stride = 0;  // >= elems; any value when count is 1
  std::int64_t count = 1;
  bool operator==(const ElementRun&) const = default;
};

/// Where elements of a virtual dataset come from: elements source_begin, source_begin + 1, ... of a
/// one-dimensional f32 dataset of another file fill `runs` in their order.
struct VirtualSource {
  std::string file;  // relative to the directory of the file that holds the virtual dataset
  std::string dataset;
  std::int64_t source_elems = 0;  // length of that dataset
  std::int64_t source_begin = 0;
  std::vector<ElementRun> runs;
};

class ImageWriter {
 public:
  static Result<ImageWriter> create();
  ImageWriter(ImageWriter&&) noexcept;
  ImageWriter& operator=(ImageWriter&&) noexcept;
  ImageWriter(const ImageWriter&) = delete;
  ImageWriter& operator=(const ImageWriter&) = delete;
  ~ImageWriter();

  /// With its parents; links are listed in the order of their creation.
  Result<void> create_group(const std::string& name);
  /// A one-dimensional little-endian f32 dataset whose raw data begin at the returned byte of the
  /// file, a multiple of 4096. REQUIRES: elems >= 1.
  Result<std::int64_t> reserve_f32(const std::string& name, std::int64_t elems);
  /// A virtual f32 dataset; elements that no source fills read as NaN, so that a hole is seen.
  /// REQUIRES: runs lie within dims and do not overlap.
  Result<void> create_virtual_f32(const std::string& name, std::span<const std::int64_t> dims,
                                  std::span<const VirtualSource> sources);
  /// A one-dimensional u8 dataset with its content, for texts too long for an attribute.
  Result<void> write_bytes(const std::string& name, std::span<const std::byte> bytes);
  Result<void> set_text(const std::string& object, const std::string& name, std::string_view text);
  Result<void> set_i64(const std::string& object, const std::string& name, std::int64_t value);
  Result<void> set_f64(const std::string& object, const std::string& name, double value);

  /// Ends the file. At most once; no other call after it.
  Result<Image> close();

 private:
  struct State;
  explicit ImageWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace elaswave::hdf5
