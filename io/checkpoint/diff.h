// What two checkpoints differ in: first what their manifests say, then the numbers themselves, one
// tensor at a time. compare() is pure; compare_tensor() reads only where checksums do not settle
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

/// A value of a and of b; nothing where one lacks it.
struct ValueDifference {
  std::string key;
  std::optional<std::string> a, b;
  bool operator==(const ValueDifference&) const = default;
};

struct ManifestDifference {
  std::vector<ValueDifference> header;    // run, writer, created, generation, loss
  std::vector<ValueDifference> counters;  // step, updates, samples, tokens, state digest
  std::vector<ValueDifference> config, facts;
  std::vector<ValueDifference> shapes;  // of tensors with another shape, or in one of them alone
};

/// In the order of a, then what b alone has.
ManifestDifference compare(const Manifest& a, const Manifest& b);

/// A checkpoint to read from; all three must outlive it.
struct Source {
  FileSystem& files;
  const std::string& directory;
  const Manifest& manifest;
};

struct ContentDifference {
  std::int64_t elems = 0;       // that differ in their bits (0 and -0 do, equal NaNs do not)
  double largest = 0;           // absolute difference; infinite when a NaN or infinity is involved
  std::int64_t read_elems = 0;  // read from each because checksums did not settle them
};

/// Read from each side at a time.
inline constexpr std::int64_t kDiffBatchElems = std::int64_t{4} << 20;

/// Compares one kind of the tensor of that name. Runs of elements that have the same checksum in
/// both count as equal without being read: CRC32C misses no difference within 32 consecutive bits
/// and one in 2^32 of others. REQUIRES: both have the tensor, in the same shape.
/// ERRORS: as read_wants().
Result<ContentDifference> compare_tensor(const Source& a, const Source& b, const std::string& name,
                                         Kind kind, std::int64_t batch_elems = kDiffBatchElems);

}  // namespace elaswave::checkpoint
