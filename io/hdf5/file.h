// HDF5 files, minimal: groups, contiguous f32 datasets, scalar attributes. HDF5 lays out the file;
// the numbers of a dataset are written by ourselves at the offset it reserved (README.md says why).
// OWNERSHIP: datasets must not outlive their file. THREADS: one caller for all HDF5 objects of a
// process; the library has global state. ERRORS: Code::io when the system or the library refuses,
// Code::data when a file read is not as expected; the library's own error stack is the `why`. Names
// are absolute paths ("/model/wte"), UTF-8.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"
#include "io/base/file.h"
#include "io/base/unique.h"

namespace elaswave::hdf5 {

/// Version of the HDF5 library this process runs with, as "1.10.8".
std::string library_version();

using Id = std::int64_t;  // hid_t of HDF5 1.10 and later

struct FileTraits {
  using handle_type = Id;
  static handle_type null() { return -1; }
  static void release(handle_type id);
};

/// A dataset being written. Move-only; views the writer it came from.
class DatasetWriter {
 public:
  std::span<const std::int64_t> dims() const { return dims_; }
  std::int64_t elems() const { return elems_; }
  /// Elements first_elem .. first_elem + values.size() - 1 in row-major order. REQUIRES: within the
  /// dataset. What is never written is unspecified.
  Result<void> write(std::int64_t first_elem, std::span<const float> values);

 private:
  friend class Writer;
  elaswave::File* file_ = nullptr;
  std::vector<std::int64_t> dims_;
  std::int64_t elems_ = 0;
  std::int64_t offset_bytes_ = 0;
};

/// A new file under a temporary name. close() gives it its name; without it nothing is left behind.
class Writer {
 public:
  static Result<Writer> create(const std::string& path);
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer();

  /// With its parents; present ones are fine.
  Result<void> create_group(const std::string& name);
  /// Reserves the disk space at once. Parents are created. REQUIRES: every dim >= 1; no dims: a
  /// scalar.
  Result<DatasetWriter> create_f32(const std::string& name, std::span<const std::int64_t> dims);
  /// create_f32 and write in one.
  Result<void> write_f32(const std::string& name, std::span<const std::int64_t> dims,
                         std::span<const float> values);
  /// Scalar attributes of a group or dataset ("/" is the root).
  Result<void> set_text(const std::string& object, const std::string& name, std::string_view text);
  Result<void> set_i64(const std::string& object, const std::string& name, std::int64_t value);
  Result<void> set_u64(const std::string& object, const std::string& name, std::uint64_t value);
  Result<void> set_f64(const std::string& object, const std::string& name, double value);

  /// Flush, close, make durable, rename. At most once; no other call after it.
  Result<void> close();

 private:
  struct State;
  static Result<void> reserve_behind_end(State& state, std::int64_t data_bytes);
  explicit Writer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// An existing file, for reading.
class Reader {
 public:
  static Result<Reader> open(const std::string& path);

  Result<std::vector<std::int64_t>> dims(const std::string& dataset) const;
  /// The whole dataset, row-major, converted to f32 by HDF5 when stored otherwise.
  Result<std::vector<float>> read_f32(const std::string& dataset) const;
  Result<std::string> text(const std::string& object, const std::string& name) const;
  Result<std::int64_t> i64(const std::string& object, const std::string& name) const;
  Result<std::uint64_t> u64(const std::string& object, const std::string& name) const;
  Result<double> f64(const std::string& object, const std::string& name) const;

 private:
  explicit Reader(Unique<FileTraits> file, std::string path)
      : file_(std::move(file)), path_(std::move(path)) {}
  Unique<FileTraits> file_;
  std::string path_;
};

}  // namespace elaswave::hdf5
