// How runs of row-major elements become selections of a virtual dataset: each one a single regular
// pattern of boxes, and as few as that allows, as every one costs HDF5 bytes and time (README.md).
// Pure. Included in io/hdf5/*.cpp and tests only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/hdf5/image.h"

namespace elaswave::hdf5 {

/// HDF5's hyperslab in one dim: `count` blocks of `block`, `stride` apart, the first at `start`.
struct Slab {
  std::int64_t start = 0;
  std::int64_t stride = 1;
  std::int64_t count = 1;
  std::int64_t block = 1;
  bool operator==(const Slab&) const = default;
};

/// The elements `source` of a one-dimensional dataset fill those of `target`, both in row-major
/// order.
struct Mapping {
  std::vector<Slab> target;  // one a dim
  Slab source;
};

/// REQUIRES: at least one dim, all >= 1; runs within dims, elems and count >= 1.
std::vector<Mapping> virtual_mappings(std::span<const std::int64_t> dims,
                                      std::span<const ElementRun> runs, std::int64_t source_begin);

}  // namespace elaswave::hdf5
