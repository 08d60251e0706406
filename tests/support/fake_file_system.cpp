#include "tests/support/fake_file_system.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "io/base/file.h"
#include "tests/support/fake_file_state.h"

namespace elaswave::testing {
class FakeFileSystem::Handle final : public FileHandle {
 public:
  enum class Use { reading, writing };
  Handle(std::shared_ptr<State> state, FakeDisk::NodeId node, std::string path, Use use)
      : state_(std::move(state)), node_(node), path_(std::move(path)), use_(use) {
    state_->disk.opened(node_);  // the caller holds the lock
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() override {
    const std::lock_guard lock(state_->mutex);
    state_->disk.closed(node_);
  }

  const std::string& path() const override { return path_; }
  Result<std::int64_t> size_bytes() const override {
    const std::lock_guard lock(state_->mutex);
    EW_TRY(state_->alive(path_));
    return static_cast<std::int64_t>(state_->disk.data(node_).size());
  }
  Result<void> reserve(std::int64_t size_bytes) override {
    const std::lock_guard lock(state_->mutex);
    if (size_bytes <= 0) return {};
    EW_TRY(writable());
    return state_->reserve(node_, path_, size_bytes);
  }
  Result<void> sync() override {
    const std::lock_guard lock(state_->mutex);
    return state_->sync(node_, path_);
  }

 private:
  Result<void> writable() const {
    if (use_ == Use::reading) return fail(system_error("cannot write a file", path_, EBADF));
    return {};
  }
  Result<std::int64_t> read_some_at(std::int64_t offset_bytes,
                                    std::span<std::byte> out) const override {
    const std::lock_guard lock(state_->mutex);
    EW_TRY(state_->alive(path_));
    const std::vector<std::byte>& data = state_->disk.data(node_);
    const auto begin = std::min(static_cast<std::size_t>(offset_bytes), data.size());
    const std::size_t count = std::min(out.size(), data.size() - begin);
    std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(begin), count, out.begin());
    return static_cast<std::int64_t>(count);
  }
  Result<std::int64_t> write_some_at(std::int64_t offset_bytes,
                                     std::span<const std::byte> bytes) override {
    const std::lock_guard lock(state_->mutex);
    EW_TRY(writable());
    return state_->write(node_, path_, offset_bytes, bytes);
  }

  std::shared_ptr<State> state_;
  FakeDisk::NodeId node_;
  std::string path_;
  Use use_;
};

FakeFileSystem::FakeFileSystem() : FakeFileSystem(FakeDisk(), State::kNoLimit) {}

FakeFileSystem::FakeFileSystem(FakeDisk disk, std::int64_t capacity_bytes)
    : state_(std::make_shared<State>()) {
  state_->disk = std::move(disk);
  state_->capacity_bytes = capacity_bytes;
}

Result<std::unique_ptr<FileHandle>> FakeFileSystem::open(const std::string& path, Caching) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot open a file for reading";
  EW_ASSIGN(const State::Place place, state_->find_existing(path, kWhat));
  if (state_->disk.is_directory(place.node))
    return fail(system_error(std::string(kWhat), path, EISDIR));
  return std::make_unique<Handle>(state_, place.node, path, Handle::Use::reading);
}

Result<std::unique_ptr<FileHandle>> FakeFileSystem::create(const std::string& path, Caching) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot open a file for writing";
  EW_ASSIGN(const State::Place place, state_->find(path, kWhat));
  if (place.node != FakeDisk::kNone) return fail(system_error(std::string(kWhat), path, EEXIST));
  EW_ASSIGN(const bool goes_on, state_->begin(fmt::format("create {}", path), path));
  // Left out, there is still a file to write to, but one without a name.
  const FakeDisk::NodeId node = state_->disk.create(goes_on ? place : State::Place{}, false);
  return std::make_unique<Handle>(state_, node, path, Handle::Use::writing);
}

Result<void> FakeFileSystem::make_directory(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot create a directory";
  EW_ASSIGN(const State::Place place, state_->find(path, kWhat));
  if (place.node != FakeDisk::kNone) {
    if (state_->disk.is_directory(place.node)) return {};
    return fail(system_error(std::string(kWhat), path, EEXIST));
  }
  EW_ASSIGN(const bool goes_on, state_->begin(fmt::format("make_directory {}", path), path));
  if (goes_on) state_->disk.create(place, true);
  return {};
}

Result<void> FakeFileSystem::rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(state_->mutex);
  const std::string what = fmt::format("cannot rename to {}", to);
  EW_ASSIGN(const State::Place old_place, state_->find_existing(from, what));
  const State::Place new_place = state_->disk.find(to);
  if (new_place.directory == FakeDisk::kNone)
    return fail(system_error(what, from, new_place.error_number));
  const bool is_root = old_place.name.empty() || new_place.name.empty();
  const int error_number = is_root ? EBUSY : state_->disk.may_rename(old_place, new_place);
  if (error_number != 0) return fail(system_error(what, from, error_number));
  EW_ASSIGN(const bool goes_on, state_->begin(fmt::format("rename {} {}", from, to), from));
  if (goes_on) state_->disk.rename(old_place, new_place);
  return {};
}

Result<void> FakeFileSystem::remove_file(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot remove a file";
  EW_ASSIGN(const State::Place place, state_->find_existing(path, kWhat));
  if (state_->disk.is_directory(place.node))
    return fail(system_error(std::string(kWhat), path, EISDIR));
  EW_ASSIGN(const bool goes_on, state_->begin(fmt::format("remove_file {}", path), path));
  if (goes_on) state_->disk.remove(place);
  return {};
}

Result<void> FakeFileSystem::remove_directory(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot remove a directory";
  EW_ASSIGN(const State::Place place, state_->find_existing(path, kWhat));
  if (!state_->disk.is_directory(place.node))
    return fail(system_error(std::string(kWhat), path, ENOTDIR));
  if (place.name.empty() || !state_->disk.is_empty(place.node))
    return fail(system_error(std::string(kWhat), path, place.name.empty() ? EBUSY : ENOTEMPTY));
  EW_ASSIGN(const bool goes_on, state_->begin(fmt::format("remove_directory {}", path), path));
  if (goes_on) state_->disk.remove(place);
  return {};
}

Result<void> FakeFileSystem::sync_directory(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot open a directory";
  EW_ASSIGN(const State::Place place, state_->find_existing(path, kWhat));
  if (!state_->disk.is_directory(place.node))
    return fail(system_error(std::string(kWhat), path, ENOTDIR));
  return state_->sync(place.node, path);
}

Result<std::vector<DirectoryEntry>> FakeFileSystem::list(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  constexpr std::string_view kWhat = "cannot list a directory";
  EW_ASSIGN(const State::Place place, state_->find_existing(path, kWhat));
  if (!state_->disk.is_directory(place.node))
    return fail(system_error(std::string(kWhat), path, ENOTDIR));
  return state_->disk.list(place.node);
}

Result<std::int64_t> FakeFileSystem::free_bytes(const std::string& path) {
  const std::lock_guard lock(state_->mutex);
  EW_TRY(state_->find_existing(path, "cannot examine a file system"));
  return state_->free_bytes();
}

std::int64_t FakeFileSystem::operation_count() const {
  const std::lock_guard lock(state_->mutex);
  return state_->operation_count();
}

std::vector<std::string> FakeFileSystem::trace() const {
  const std::lock_guard lock(state_->mutex);
  return state_->trace;
}

void FakeFileSystem::kill_after(std::int64_t count) {
  kill_within(count, 0);
}

void FakeFileSystem::kill_within(std::int64_t operation, std::int64_t kept_bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->kill_after = operation;
  state_->torn_bytes = kept_bytes;
}

void FakeFileSystem::fail_operation(std::int64_t operation, int error_number) {
  const std::lock_guard lock(state_->mutex);
  state_->failing[operation] = error_number;
}

void FakeFileSystem::ignore_operation(std::int64_t operation) {
  const std::lock_guard lock(state_->mutex);
  state_->ignored.insert(operation);
}

void FakeFileSystem::set_capacity_bytes(std::int64_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->capacity_bytes = bytes;
}

void FakeFileSystem::set_largest_write_bytes(std::int64_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->largest_write_bytes = bytes;
}

FakeFileSystem FakeFileSystem::clone() const {
  const std::lock_guard lock(state_->mutex);
  return FakeFileSystem(state_->disk.after_kill(), state_->capacity_bytes);
}

FakeFileSystem FakeFileSystem::crash(const CrashPolicy& policy) const {
  const std::lock_guard lock(state_->mutex);
  return FakeFileSystem(state_->disk.after_crash(policy), state_->capacity_bytes);
}

std::vector<std::string> FakeFileSystem::all_files() const {
  const std::lock_guard lock(state_->mutex);
  return state_->disk.all_files();
}

std::string FakeFileSystem::contents(std::string_view path) const {
  const std::lock_guard lock(state_->mutex);
  const std::vector<std::byte>& data = state_->disk.data(state_->file(path));
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

void FakeFileSystem::set_contents(std::string_view path, std::string_view contents) {
  const std::lock_guard lock(state_->mutex);
  const auto bytes = std::as_bytes(std::span(contents));
  state_->disk.set_data(state_->file(path), {bytes.begin(), bytes.end()});
}

void FakeFileSystem::flip(std::string_view path, std::int64_t byte, std::uint8_t mask) {
  std::string text = contents(path);
  const auto index = static_cast<std::size_t>(byte);
  EW_CHECK(byte >= 0 && index < text.size(), "{} has no byte {}", path, byte);
  text[index] = static_cast<char>(static_cast<std::uint8_t>(text[index]) ^ mask);
  set_contents(path, text);
}

void FakeFileSystem::truncate(std::string_view path, std::int64_t size_bytes) {
  std::string text = contents(path);
  text.resize(static_cast<std::size_t>(size_bytes));
  set_contents(path, text);
}

void FakeFileSystem::swap_contents(std::string_view first, std::string_view second) {
  const std::string kept = contents(first);
  set_contents(first, contents(second));
  set_contents(second, kept);
}

}  // namespace elaswave::testing
