// HDF5 on top of a sparse string of bytes in memory: a virtual file driver. Space that HDF5
// allocates and never writes costs nothing. Included in io/hdf5/*.cpp only. ERRORS: as in file.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/hdf5/handles.h"

namespace elaswave::hdf5 {

/// Raw data of datasets begin at multiples of this, whatever their size.
inline constexpr std::int64_t kDataAlignment = 4096;

/// Bytes by offset; what was never written reads as zero.
class SparseBytes {
 public:
  void write(std::int64_t offset_bytes, std::span<const std::byte> bytes);
  void read(std::int64_t offset_bytes, std::span<std::byte> out) const;
  /// Forgets what lies at and behind this offset.
  void cut(std::int64_t offset_bytes);
  const std::map<std::int64_t, std::vector<std::byte>>& extents() const { return extents_; }

 private:
  std::map<std::int64_t, std::vector<std::byte>> extents_;  // apart: at least a byte between two
};

struct MemoryFile {
  SparseBytes bytes;
  std::int64_t size_bytes = 0;  // end of what HDF5 allocated
};

/// The driver, for as long as the handle lives. Every call registers one of its own.
Result<Driver> register_memory_driver(const std::string& where);

/// Makes files opened with `access` live in `file`, which must outlive them.
Result<void> use_memory(const Properties& access, const Driver& driver, MemoryFile& file,
                        const std::string& where);

}  // namespace elaswave::hdf5
