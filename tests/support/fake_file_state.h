// What a FakeFileSystem and its handles share: the disk, the count of operations and the faults.
// For fake_file_system.cpp alone; the caller holds the lock in every call.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/fake_disk.h"
#include "tests/support/fake_file_system.h"

namespace elaswave::testing {

struct FakeFileSystem::State {
  using Place = FakeDisk::Place;
  static constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

  mutable std::mutex mutex;
  FakeDisk disk;
  std::vector<std::string> trace;
  std::int64_t kill_after = kNoLimit;
  std::int64_t torn_bytes = 0;  // of the write that comes then
  std::map<std::int64_t, int> failing;
  std::set<std::int64_t> ignored;
  std::int64_t capacity_bytes = kNoLimit;
  std::int64_t largest_write_bytes = kNoLimit;

  std::int64_t operation_count() const { return static_cast<std::int64_t>(trace.size()); }
  /// The error of a process that is dead.
  Result<void> alive(std::string_view path) const;
  std::int64_t free_bytes() const;
  /// Counts an operation that is possible. True: do it; false: leave it out and succeed.
  Result<bool> begin(std::string line, std::string_view path);

  /// A name that is to be made, changed or removed; its directory is there.
  Result<Place> find(std::string_view path, std::string_view what) const;
  Result<Place> find_existing(std::string_view path, std::string_view what) const;
  /// REQUIRES: a file has this name.
  FakeDisk::NodeId file(std::string_view path) const;

  Result<std::int64_t> write(FakeDisk::NodeId node, std::string_view path,
                             std::int64_t offset_bytes, std::span<const std::byte> bytes);
  Result<void> reserve(FakeDisk::NodeId node, std::string_view path, std::int64_t size_bytes);
  Result<void> sync(FakeDisk::NodeId node, std::string_view path);
};

}  // namespace elaswave::testing
