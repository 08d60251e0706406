// `elaswave checkpoint export`: one consolidated file for other programs, streamed: memory for the
// numbers does not depend on the model. Everything read is checked. ERRORS: Code::corrupt for
// a damaged checkpoint, Code::usage for one that is no GPT-2 or an unfit target. THREADS: one
// caller.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::app {

enum class ExportFormat { safetensors, hdf5 };

struct ExportOptions {
  // safetensors: a folder that gets model.safetensors and config.json; hdf5: the file.
  std::string output;
  ExportFormat format = ExportFormat::safetensors;
  // Nothing: the master weights as safetensors, all kinds as hdf5.
  std::optional<checkpoint::Kind> kind;
  std::int64_t batch_elems = std::int64_t{16} << 20;  // read at a time, and held
};

/// The files written, for people. `checkpoint` is one step-* directory.
Result<std::vector<std::string>> export_checkpoint(FileSystem& files, const std::string& checkpoint,
                                                   const ExportOptions& options);

/// config.json of Hugging Face's GPT2LMHeadModel. Code::usage when the keys of model.* and the
/// tensors are not those of one GPT-2. Pure.
Result<std::string> gpt2_config(const checkpoint::Manifest& manifest, const std::string& where);

}  // namespace elaswave::app
