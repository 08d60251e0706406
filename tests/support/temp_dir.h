// A directory for one test, and plain ways to put bytes in and take them out: written without the
// product's own file code on purpose.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"

namespace elaswave::testing {

/// Made empty, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "elaswave-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "cannot make " << pattern;
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  /// Names of the files in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, std::string_view content) {
  // A fresh file each time: ext4 flushes one that was cut to zero and written again, milliseconds
  // each.
  if (std::filesystem::is_regular_file(path)) std::filesystem::remove(path);
  std::ofstream file(path, std::ios::binary);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  ASSERT_TRUE(file.good()) << path;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// The bytes of numbers, one after the other.
template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// EXPECTs that a Result failed with a code and that all four lines are there; the text for further
/// checks.
template <typename R>
std::string expect_error(const R& result, elaswave::Code code) {
  if (result.has_value()) {
    ADD_FAILURE() << "no error";
    return "";
  }
  const elaswave::Error& error = result.error();
  EXPECT_EQ(error.code, code) << error.text();
  EXPECT_FALSE(error.what.empty()) << error.text();
  EXPECT_FALSE(error.where.empty()) << error.text();
  EXPECT_FALSE(error.why.empty()) << error.text();
  EXPECT_FALSE(error.fix.empty()) << error.text();
  return error.text();
}

}  // namespace elaswave::testing
