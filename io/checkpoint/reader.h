// Reading a checkpoint. Every byte that is used was checksummed on its way in; nothing goes through
// HDF5. ERRORS: Code::corrupt names file, byte, tensor; Code::io, Code::data as the system says.
// THREADS: the calls use helper threads of their own and return when these have ended.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {

/// Elements of one tensor wanted by the caller, in canonical row-major order.
struct Want {
  std::int32_t tensor = 0;
  Kind kind = Kind::master;
  std::int64_t begin = 0;
  std::span<float> out;
};

/// Fills all wants, in whatever pieces the elements were saved: each unit that is needed is read
/// once, in the order of the files; whole units whose place in memory is aligned as in the file go
/// straight there. After an error the wants' contents are unspecified. REQUIRES: wants lie inside
/// their tensors and do not overlap, neither in the tensors nor in memory.
Result<void> read_wants(FileSystem& files, const std::string& checkpoint, const Manifest& manifest,
                        std::vector<Want> wants);

/// Checks the bytes of one shard that are in no piece (HDF5's own).
Result<void> verify_frame(FileSystem& files, const std::string& checkpoint, const FileEntry& entry);

struct Damage {
  std::string file;
  std::string what;
};
/// Reads every byte of every file and compares its checksums; also checks what read_manifest()
/// checks. Empty: the checkpoint is whole. An unreadable manifest is one Damage.
std::vector<Damage> verify(FileSystem& files, const std::string& checkpoint);
/// The same for one file.
std::vector<Damage> verify_file(FileSystem& files, const std::string& checkpoint,
                                const FileEntry& entry);

}  // namespace elaswave::checkpoint
