// What a fuzz target defines (libFuzzer's interface, so that other engines fit as well) and small
// helpers for it. A target holds its input to properties with EW_CHECK; a failed one, a signal or a
// sanitizer's report ends the process, which is how the driver learns of it. One target a program.
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"

/// Tries one input; returns 0. The memory ends with the input: reading past it is a finding.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

/// Inputs to begin with and words to insert; a target may leave either out.
[[gnu::weak]] std::vector<std::string> fuzz_seeds();
[[gnu::weak]] std::vector<std::string> fuzz_dictionary();

namespace elaswave::fuzz {

/// Cuts fields off the front of an input; what is missing reads as 0.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}

  template <typename T>
  T take() {
    T value{};
    const std::size_t size = std::min(sizeof value, rest_.size());
    std::memcpy(&value, rest_.data(), size);
    rest_.remove_prefix(size);
    return value;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

/// The bytes of a value, as Input::take() reads them.
template <typename T>
std::string field(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// An error must say all four things.
inline void check_error(const Error& error) {
  EW_CHECK(!error.what.empty() && !error.where.empty() && !error.why.empty() && !error.fix.empty(),
           "an error with an empty part: {}", error.text());
}

/// A directory in memory where the system has one: a disk would take all the time. Removed at the
/// end; it stays when the process dies.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    const char* root = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    path_ = std::string(root) + "/elaswave-fuzz-XXXXXX";
    EW_CHECK(::mkdtemp(path_.data()) != nullptr, "cannot make {}", path_);
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  EW_CHECK(file.good(), "cannot write {}", path);
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EW_CHECK(file.is_open(), "cannot read {}", path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace elaswave::fuzz
