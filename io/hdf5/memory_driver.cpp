#include "io/hdf5/memory_driver.h"

#include <hdf5.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <new>
#include <utility>

#include "io/base/types.h"

namespace elaswave::hdf5 {
namespace {

// What HDF5 holds of an open file. The callbacks are noexcept: no exception may unwind through C.
struct Opened : H5FD_t {
  MemoryFile* file = nullptr;
  haddr_t end_of_file = 0;
};

Opened& opened(H5FD_t* file) {
  return *static_cast<Opened*>(file);
}
const Opened& opened(const H5FD_t* file) {
  return *static_cast<const Opened*>(file);
}

// What the access properties carry; HDF5 copies it.
struct DriverInfo {
  MemoryFile* file = nullptr;
};

H5FD_t* open_file(const char*, unsigned, hid_t access, haddr_t) noexcept {
  const auto* info = static_cast<const DriverInfo*>(H5Pget_driver_info(access));
  if (info == nullptr) return nullptr;
  auto* created = new (std::nothrow) Opened{};
  if (created != nullptr) created->file = info->file;
  return created;
}

herr_t close_file(H5FD_t* file) noexcept {
  delete &opened(file);
  return 0;
}

int compare_files(const H5FD_t* a, const H5FD_t* b) noexcept {
  const std::less<> before;
  if (before(opened(a).file, opened(b).file)) return -1;
  return before(opened(b).file, opened(a).file) ? 1 : 0;
}

herr_t query_features(const H5FD_t*, unsigned long* flags) noexcept {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE;
  return 0;
}

// Aligns raw data alone: H5Pset_alignment goes by size and would miss the small datasets, or spread
// the metadata.
haddr_t allocate(H5FD_t* file, H5FD_mem_t type, hid_t, hsize_t size_bytes) noexcept {
  std::int64_t& end = opened(file).file->size_bytes;
  const std::int64_t begin = type == H5FD_MEM_DRAW ? round_up(end, kDataAlignment) : end;
  if (size_bytes > static_cast<hsize_t>(std::numeric_limits<std::int64_t>::max() - begin))
    return HADDR_UNDEF;
  end = begin + static_cast<std::int64_t>(size_bytes);
  return static_cast<haddr_t>(begin);
}

haddr_t end_of_allocation(const H5FD_t* file, H5FD_mem_t) noexcept {
  return static_cast<haddr_t>(opened(file).file->size_bytes);
}

herr_t set_end_of_allocation(H5FD_t* file, H5FD_mem_t, haddr_t end) noexcept {
  opened(file).file->size_bytes = static_cast<std::int64_t>(end);
  return 0;
}

haddr_t end_of_file(const H5FD_t* file, H5FD_mem_t) noexcept {
  return opened(file).end_of_file;
}

herr_t read_bytes(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t offset, size_t size_bytes,
                  void* out) noexcept {
  opened(file).file->bytes.read(static_cast<std::int64_t>(offset),
                                {static_cast<std::byte*>(out), size_bytes});
  return 0;
}

herr_t write_bytes(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t offset, size_t size_bytes,
                   const void* bytes) noexcept {
  opened(file).file->bytes.write(static_cast<std::int64_t>(offset),
                                 {static_cast<const std::byte*>(bytes), size_bytes});
  opened(file).end_of_file = std::max(opened(file).end_of_file, offset + size_bytes);
  return 0;
}

// To the end of the allocation, in either direction: a dataset that was only reserved counts.
herr_t truncate_file(H5FD_t* file, hid_t, hbool_t) noexcept {
  opened(file).end_of_file = static_cast<haddr_t>(opened(file).file->size_bytes);
  opened(file).file->bytes.cut(opened(file).file->size_bytes);
  return 0;
}

H5FD_class_t driver_class() {
  H5FD_class_t driver{};
  driver.name = "elaswave_memory";
  driver.maxaddr = static_cast<haddr_t>(std::numeric_limits<std::int64_t>::max());
  driver.fc_degree = H5F_CLOSE_WEAK;
  driver.fapl_size = sizeof(DriverInfo);
  driver.open = open_file;
  driver.close = close_file;
  driver.cmp = compare_files;
  driver.query = query_features;
  driver.alloc = allocate;
  driver.get_eoa = end_of_allocation;
  driver.set_eoa = set_end_of_allocation;
  driver.get_eof = end_of_file;
  driver.read = read_bytes;
  driver.write = write_bytes;
  driver.truncate = truncate_file;
  for (H5FD_mem_t& list : driver.fl_map) list = H5FD_MEM_DEFAULT;  // free space by kind
  return driver;
}

std::int64_t end_of(const std::pair<const std::int64_t, std::vector<std::byte>>& extent) {
  return extent.first + std::ssize(extent.second);
}

}  // namespace

void SparseBytes::write(std::int64_t offset_bytes, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  auto next = extents_.upper_bound(offset_bytes);
  auto into = next;
  if (next != extents_.begin() && end_of(*std::prev(next)) >= offset_bytes)
    into = std::prev(next);
  else
    into = extents_.emplace_hint(next, offset_bytes, std::vector<std::byte>());
  std::vector<std::byte>& merged = into->second;
  const auto begin = static_cast<std::size_t>(offset_bytes - into->first);
  if (merged.size() < begin + bytes.size()) merged.resize(begin + bytes.size());
  std::copy(bytes.begin(), bytes.end(), merged.begin() + static_cast<std::ptrdiff_t>(begin));
  while (next != extents_.end() && next->first <= end_of(*into)) {
    const std::int64_t known = end_of(*into) - next->first;
    if (known < std::ssize(next->second))
      merged.insert(merged.end(), next->second.begin() + known, next->second.end());
    next = extents_.erase(next);
  }
}

void SparseBytes::read(std::int64_t offset_bytes, std::span<std::byte> out) const {
  std::fill(out.begin(), out.end(), std::byte{});
  const std::int64_t end = offset_bytes + std::ssize(out);
  auto extent = extents_.upper_bound(offset_bytes);
  if (extent != extents_.begin()) --extent;
  for (; extent != extents_.end() && extent->first < end; ++extent) {
    const std::int64_t from = std::max(offset_bytes, extent->first);
    const std::int64_t to = std::min(end, end_of(*extent));
    if (from < to)
      std::copy_n(extent->second.begin() + (from - extent->first), to - from,
                  out.begin() + (from - offset_bytes));
  }
}

void SparseBytes::cut(std::int64_t offset_bytes) {
  extents_.erase(extents_.lower_bound(offset_bytes), extents_.end());
  if (extents_.empty()) return;
  auto& [begin, bytes] = *std::prev(extents_.end());
  if (begin + std::ssize(bytes) > offset_bytes)
    bytes.resize(static_cast<std::size_t>(offset_bytes - begin));
}

Result<Driver> register_memory_driver(const std::string& where) {
  const H5FD_class_t driver = driver_class();  // HDF5 takes a copy
  return owned<Driver>(H5FDregister(&driver), "cannot register an HDF5 file driver", where);
}

Result<void> use_memory(const Properties& access, const Driver& driver, MemoryFile& file,
                        const std::string& where) {
  const DriverInfo info{&file};
  if (H5Pset_driver(access.get(), driver.get(), &info) < 0)
    return fail(hdf5_error("cannot use an HDF5 file driver", where));
  return {};
}

}  // namespace elaswave::hdf5
