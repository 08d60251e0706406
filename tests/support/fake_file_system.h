// A FileSystem in memory for crash tests: counts every operation that changes something, fails,
// stops or leaves out the one it was told to, fills up, and shows what a kill or a power loss
// leaves (the model of the disk is in fake_disk.h). Deterministic. Operations are numbered from 0
// in the order in which they are made; what would fail anyway (a missing name, say), reads, and
// make_directory() of one that is there are none. THREADS: any; one lock. Handles keep the state
// alive and may outlive this object.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/file_system.h"
#include "tests/support/fake_disk.h"

namespace elaswave::testing {

class FakeFileSystem final : public FileSystem {
 public:
  FakeFileSystem();
  FakeFileSystem(FakeFileSystem&&) noexcept = default;
  FakeFileSystem& operator=(FakeFileSystem&&) noexcept = default;
  FakeFileSystem(const FakeFileSystem&) = delete;
  FakeFileSystem& operator=(const FakeFileSystem&) = delete;
  ~FakeFileSystem() override = default;

  Result<std::unique_ptr<FileHandle>> open(const std::string& path, Caching caching) override;
  Result<std::unique_ptr<FileHandle>> create(const std::string& path, Caching caching) override;
  Result<void> make_directory(const std::string& path) override;
  Result<void> rename(const std::string& from, const std::string& to) override;
  Result<void> remove_file(const std::string& path) override;
  Result<void> remove_directory(const std::string& path) override;
  Result<void> sync_directory(const std::string& path) override;
  Result<std::vector<DirectoryEntry>> list(const std::string& path) override;
  /// As if 2^40 bytes large when no capacity is set.
  Result<std::int64_t> free_bytes(const std::string& path) override;

  std::int64_t operation_count() const;
  /// One line an operation: "write /a 0+512", "sync /a (2 pending)", "rename /a /b", "remove_file
  /// /b ! ignored". A sync with 0 pending changes nothing: a mutant without it is no mutant.
  std::vector<std::string> trace() const;

  /// Operations 0 to count - 1 happen, then the process is dead: everything fails, reads too, with
  /// Code::io and "killed".
  void kill_after(std::int64_t count);
  /// kill_after(operation), but if that one is a write its first bytes, at most `kept_bytes`, land.
  void kill_within(std::int64_t operation, std::int64_t kept_bytes);
  /// It has no effect and returns this error (EIO, ENOSPC). After a sync of a file that failed what
  /// was written before never becomes durable, as on Linux, whatever later syncs say.
  void fail_operation(std::int64_t operation, int error_number);
  /// It has no effect and succeeds: the program without that line. A create gives a file that has
  /// no name.
  void ignore_operation(std::int64_t operation);
  /// For all files together. A write that does not fit is short first.
  void set_capacity_bytes(std::int64_t bytes);
  /// No write moves more.
  void set_largest_write_bytes(std::int64_t bytes);

  /// What the next process finds after this one ended or was killed: everything, with what was
  /// pending still pending. No faults, no trace; the capacity stays.
  FakeFileSystem clone() const;
  /// What the next process finds after a power loss.
  FakeFileSystem crash(const CrashPolicy& policy) const;

  // For tests to look and to do damage with: no operations, never an error (a path that is no file
  // is a bug of the test). What was damaged counts as durable.
  std::vector<std::string> all_files() const;  // "/a/b", sorted
  std::string contents(std::string_view path) const;
  void set_contents(std::string_view path, std::string_view contents);
  void flip(std::string_view path, std::int64_t byte, std::uint8_t mask);
  /// Cuts, or extends by zeros.
  void truncate(std::string_view path, std::int64_t size_bytes);
  void swap_contents(std::string_view first, std::string_view second);

 private:
  struct State;
  class Handle;
  explicit FakeFileSystem(FakeDisk disk, std::int64_t capacity_bytes);
  std::shared_ptr<State> state_;
};

}  // namespace elaswave::testing
