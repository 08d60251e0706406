#include "tests/support/fake_file_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "io/base/file.h"

namespace elaswave::testing {
namespace {

constexpr std::int64_t kEndlessDiskBytes = std::int64_t{1} << 40;

Error killed(std::string_view path) {
  return {Code::io, "killed", std::string(path), "this process ended before the operation",
          "start another one on clone() or crash()"};
}

}  // namespace

Result<void> FakeFileSystem::State::alive(std::string_view path) const {
  if (operation_count() >= kill_after) return fail(killed(path));
  return {};
}

std::int64_t FakeFileSystem::State::free_bytes() const {
  const std::int64_t size_bytes = capacity_bytes == kNoLimit ? kEndlessDiskBytes : capacity_bytes;
  return std::max<std::int64_t>(0, size_bytes - disk.used_bytes());
}

Result<bool> FakeFileSystem::State::begin(std::string line, std::string_view path) {
  const std::int64_t operation = operation_count();
  const auto failure = failing.find(operation);
  if (failure != failing.end()) {
    trace.push_back(line + fmt::format(" ! error {}", failure->second));
    return fail(system_error("an operation was made to fail", path, failure->second));
  }
  const bool is_ignored = ignored.count(operation) != 0;
  trace.push_back(is_ignored ? line + " ! ignored" : std::move(line));
  return !is_ignored;
}

Result<FakeDisk::Place> FakeFileSystem::State::find(std::string_view path,
                                                    std::string_view what) const {
  EW_TRY(alive(path));
  Place place = disk.find(path);
  if (place.directory == FakeDisk::kNone)
    return fail(system_error(std::string(what), path, place.error_number));
  return place;
}

Result<FakeDisk::Place> FakeFileSystem::State::find_existing(std::string_view path,
                                                             std::string_view what) const {
  EW_ASSIGN(Place place, find(path, what));
  if (place.node == FakeDisk::kNone) return fail(system_error(std::string(what), path, ENOENT));
  return place;
}

FakeDisk::NodeId FakeFileSystem::State::file(std::string_view path) const {
  const Place place = disk.find(path);
  EW_CHECK(place.node != FakeDisk::kNone && !disk.is_directory(place.node), "no file: {}", path);
  return place.node;
}

Result<std::int64_t> FakeFileSystem::State::write(FakeDisk::NodeId node, std::string_view path,
                                                  std::int64_t offset_bytes,
                                                  std::span<const std::byte> bytes) {
  const auto wanted = static_cast<std::int64_t>(bytes.size());
  std::string line = fmt::format("write {} {}+{}", path, offset_bytes, wanted);
  const auto first = [&](std::int64_t count_bytes) {
    return bytes.first(static_cast<std::size_t>(count_bytes));
  };
  if (operation_count() == kill_after && torn_bytes > 0) {
    disk.write(node, offset_bytes, first(std::min(wanted, torn_bytes)));
    trace.push_back(line + fmt::format(" ! torn after {}", std::min(wanted, torn_bytes)));
    return fail(killed(path));
  }
  EW_TRY(alive(path));
  EW_ASSIGN(const bool goes_on, begin(std::move(line), path));
  std::int64_t moved = std::min(wanted, largest_write_bytes);
  if (!goes_on) return moved;
  if (capacity_bytes != kNoLimit) {
    const auto size = static_cast<std::int64_t>(disk.data(node).size());
    // What lies inside the file has its space already.
    moved = std::min(moved, size + free_bytes() - offset_bytes);
    if (moved <= 0) {
      trace.back() += " ! full";
      return fail(system_error("cannot write a file", path, ENOSPC));
    }
  }
  disk.write(node, offset_bytes, first(moved));
  if (moved < wanted) trace.back() += fmt::format(" ! short, {}", moved);
  return moved;
}

Result<void> FakeFileSystem::State::reserve(FakeDisk::NodeId node, std::string_view path,
                                            std::int64_t size_bytes) {
  EW_TRY(alive(path));
  EW_ASSIGN(const bool goes_on, begin(fmt::format("reserve {} {}", path, size_bytes), path));
  if (!goes_on) return {};
  const auto size = static_cast<std::int64_t>(disk.data(node).size());
  if (size_bytes - size > free_bytes()) {
    trace.back() += " ! full";
    return fail(system_error(fmt::format("cannot reserve {} bytes", size_bytes), path, ENOSPC));
  }
  disk.extend(node, size_bytes);
  return {};
}

Result<void> FakeFileSystem::State::sync(FakeDisk::NodeId node, std::string_view path) {
  EW_TRY(alive(path));
  const bool is_directory = disk.is_directory(node);
  auto goes_on = begin(fmt::format("{} {} ({} pending)", is_directory ? "sync_directory" : "sync",
                                   path, disk.pending_count(node)),
                       path);
  if (!goes_on) {
    if (!is_directory) disk.forget_pending(node);
    return fail(std::move(goes_on).error());
  }
  if (*goes_on) disk.sync(node);
  return {};
}

}  // namespace elaswave::testing
