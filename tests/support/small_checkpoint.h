// Small checkpoints for tests of what reads them: one state, laid out in several ways.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::testing {

struct SmallState {
  std::vector<checkpoint::Tensor> tensors;
  // [kind][tensor][element]
  std::array<std::vector<std::vector<float>>, 3> values;

  std::vector<float>& of(checkpoint::Kind kind, std::size_t tensor) {
    return values[static_cast<std::size_t>(kind)][tensor];
  }
};

/// Every element another number.
SmallState small_state(std::vector<checkpoint::Tensor> tensors);

/// Header, config and facts of a run, made up; with the state's tensors and no files.
checkpoint::Manifest small_manifest(const SmallState& state, Step step);

/// Writes DIRECTORY/checkpoints/step-* as ranks do: blocks dealt to `shards` files in turn.
/// REQUIRES: at least as many blocks as shards. Returns its path.
Result<std::string> save(FileSystem& files, const std::string& directory,
                         const checkpoint::Manifest& manifest, const SmallState& state, int shards);

/// The same with every matrix cut into a left and a right half, one a file: pieces of strided runs
/// whose checksums line up with no others. The files are no HDF5.
Result<std::string> save_halves(FileSystem& files, const std::string& directory,
                                const checkpoint::Manifest& manifest, const SmallState& state);

}  // namespace elaswave::testing
