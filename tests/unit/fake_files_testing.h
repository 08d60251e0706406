// What the tests of FakeFileSystem share: short ways to make files and to see what is there.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/fake_file_system.h"

namespace elaswave::testing {

using Keep = CrashPolicy::Keep;
using Names = std::vector<std::string>;

inline constexpr Keep kFixedPolicies[] = {Keep::nothing, Keep::everything, Keep::directories,
                                          Keep::data};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::unique_ptr<FileHandle> create(FakeFileSystem& files, const std::string& path) {
  auto file = files.create(path, Caching::direct);
  EXPECT_TRUE(file) << file.error().text();
  return file ? std::move(*file) : nullptr;
}

/// Name and content of all files, "/a=x /b=".
inline std::string shown(const FakeFileSystem& files) {
  std::string text;
  for (const std::string& path : files.all_files())
    text += (text.empty() ? "" : " ") + path + "=" + files.contents(path);
  return text;
}

inline std::string after(const FakeFileSystem& files, Keep keep, std::uint64_t seed = 0) {
  return shown(files.crash({keep, seed}));
}

/// Everything that `count` random crashes leave.
inline std::set<std::string> random_outcomes(const FakeFileSystem& files, std::uint64_t count) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < count; ++seed)
    outcomes.insert(after(files, Keep::random, seed));
  return outcomes;
}

/// /a = "old", durable.
inline FakeFileSystem with_old_file() {
  FakeFileSystem files;
  EXPECT_TRUE(write_text(files, "/a", "old"));
  EXPECT_TRUE(files.sync_directory("/"));
  return files;
}

}  // namespace elaswave::testing
