// What `elaswave tune` is asked, and the file it writes: a table of products (gemm_table.h) that
// grows line by line, so that tuning can be stopped at any time and goes on where it was.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "app/run_spec.h"
#include "io/base/error.h"
#include "io/base/file.h"

namespace elaswave::app {

/// Rows for the rows' `section`, "library 130100 device NVIDIA H200, 132 SMs". THREADS: one at a
/// time.
class TuneFile {
 public:
  /// What is in the file stays. An empty path: standard output, where nothing is finished yet.
  static Result<TuneFile> open(const std::string& path);

  /// Writes the section's line, unless it is there. Code::usage when the file has rows for another
  /// library or device.
  Result<void> begin(std::string_view section);
  /// A comment.
  Result<void> note(std::string_view text);
  /// Is there a row, or a comment in its place, for this product? `product` as describe() has it.
  bool finished(std::string_view product) const { return finished_.contains(product); }
  /// Whole lines, written before the call returns.
  Result<void> add(std::string_view lines);

 private:
  explicit TuneFile(std::optional<File> file) : file_(std::move(file)) {}
  void read(std::string_view text);

  std::optional<File> file_;
  std::set<std::string, std::less<>> finished_;
  std::string section_;
  bool several_ = false;  // sections
};

/// Which products, and how many algorithms are timed how often.
struct TuneRequest {
  const RunSpec& spec;
  int gpu = -1;  // of those a process sees; -1: the first
  int candidates = 32;
  int rounds = 7;
};

}  // namespace elaswave::app
