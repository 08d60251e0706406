// One safetensors file of f32 tensors, written from front to back:
//   u64 N, little-endian | N bytes of JSON, padded with spaces so that N % 8 == 0 | the numbers
// Tensors lie by name (all have one dtype), row-major, without gaps; "__metadata__" holds
// "format": "pt", without which PyTorch's loaders fail or warn, and strings of the caller.
// Format: github.com/huggingface/safetensors, README.md and tensor.rs.
// ERRORS: Code::data for what the format cannot hold, else as the files seam says. THREADS: one
// caller.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

/// Readers refuse longer headers.
inline constexpr std::int64_t kSafetensorsHeaderLimitBytes = 100'000'000;

/// Length and JSON, as they stand at the front of the file. `tensors` by name. Pure.
Result<std::string> safetensors_header(const std::vector<Tensor>& tensors, const Facts& metadata,
                                       const std::string& where);

/// A new file under a temporary name; close() gives it its name, without it nothing is left behind.
class SafetensorsWriter {
 public:
  /// Reserves the disk space. Tensors of no elements and of rank 0 are fine. `files` must outlive
  /// the writer.
  static Result<SafetensorsWriter> create(FileSystem& files, const std::string& path,
                                          std::vector<Tensor> tensors, const Facts& metadata);
  SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  /// In the file's order, which is the order to write them in.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  /// The next elements of `tensors()[tensor]`. REQUIRES: every tensor before it is complete, and
  /// the values are no more than it still lacks.
  Result<void> write(std::int64_t tensor, std::span<const float> values);
  /// sync, rename, sync of the directory. REQUIRES: every tensor is complete; at most once.
  Result<void> close();

 private:
  SafetensorsWriter(FileSystem& files, std::string path, std::vector<Tensor> tensors)
      : files_(&files), path_(std::move(path)), tensors_(std::move(tensors)) {}
  std::string temporary_path() const;

  FileSystem* files_;
  std::string path_;
  std::vector<Tensor> tensors_;
  std::unique_ptr<FileHandle> file_;  // null: moved from, or over
  std::int64_t offset_bytes_ = 0;     // of the next element
  std::int64_t tensor_ = 0;           // the one being written
  std::int64_t tensor_elems_ = 0;     // of it, written
};

}  // namespace elaswave::checkpoint
