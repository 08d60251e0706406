#include "io/base/file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>

#include "io/base/log.h"
#include "io/base/posix.h"

namespace elaswave {
namespace {

using posix::retry;

/// How many bytes of a transfer, from its begin, a direct call can move.
std::int64_t direct_prefix(std::int64_t offset_bytes, const std::byte* memory,
                           std::int64_t size_bytes) {
  if (offset_bytes % kDirectAlignment != 0) return 0;
  if (reinterpret_cast<std::uintptr_t>(memory) % kDirectAlignment != 0) return 0;
  return size_bytes / kDirectAlignment * kDirectAlignment;
}

bool set_direct(int descriptor, Caching caching) {
  const int flags = ::fcntl(descriptor, F_GETFL);
  if (flags < 0) return false;
  const int wanted = caching == Caching::direct ? flags | O_DIRECT : flags & ~O_DIRECT;
  return ::fcntl(descriptor, F_SETFL, wanted) == 0;
}

class SystemFile final : public FileHandle {
 public:
  SystemFile(Descriptor descriptor, std::string path, Caching caching)
      : descriptor_(std::move(descriptor)), path_(std::move(path)) {
    // After the open and not with it: where O_DIRECT is unknown, an open that creates leaves its
    // file behind and fails. A file that stays buffered is slower, not wrong.
    direct_ = caching == Caching::direct && set_direct(descriptor_.get(), Caching::direct);
  }

  const std::string& path() const override { return path_; }
  Result<std::int64_t> size_bytes() const override {
    return posix::size_bytes(descriptor_.get(), path_);
  }
  Result<void> reserve(std::int64_t size_bytes) override {
    if (size_bytes <= 0) return {};
    const int error_number = posix::reserve(descriptor_.get(), 0, size_bytes);
    // Some file systems cannot reserve; there a full disk shows in a write.
    if (error_number == 0 || error_number == EOPNOTSUPP || error_number == EINVAL) return {};
    return fail(posix::reserve_error(path_, size_bytes, error_number));
  }
  Result<void> sync() override { return posix::sync(descriptor_.get(), path_); }

 private:
  Result<std::int64_t> read_some_at(std::int64_t offset_bytes,
                                    std::span<std::byte> out) const override {
    return transfer("cannot read a file", offset_bytes, out.data(), out.size(), [&](auto count) {
      return ::pread(descriptor_.get(), out.data(), count, offset_bytes);
    });
  }
  Result<std::int64_t> write_some_at(std::int64_t offset_bytes,
                                     std::span<const std::byte> bytes) override {
    return transfer(
        "cannot write a file", offset_bytes, bytes.data(), bytes.size(),
        [&](auto count) { return ::pwrite(descriptor_.get(), bytes.data(), count, offset_bytes); });
  }

  /// One call over as many bytes as it can take: the aligned ones while the file is direct.
  template <typename Call>
  Result<std::int64_t> transfer(std::string_view what, std::int64_t offset_bytes,
                                const std::byte* memory, std::size_t size, Call call) const {
    const auto wanted = static_cast<std::int64_t>(
        std::min<std::size_t>(size, static_cast<std::size_t>(posix::kLargestCallBytes)));
    const std::int64_t aligned = direct_ ? direct_prefix(offset_bytes, memory, wanted) : 0;
    ssize_t moved = -1;
    int error_number = EINVAL;
    if (aligned > 0) {
      moved = retry([&] { return call(static_cast<std::size_t>(aligned)); });
      error_number = errno;
    }
    // EINVAL of a direct call: this file system wants a coarser alignment than ours.
    if (moved < 0 && error_number == EINVAL) {
      EW_TRY(go_buffered());
      moved = retry([&] { return call(static_cast<std::size_t>(wanted)); });
      error_number = errno;
    }
    if (moved < 0) return fail(system_error(std::string(what), path_, error_number));
    return static_cast<std::int64_t>(moved);
  }

  Result<void> go_buffered() const {
    if (!direct_) return {};
    if (!set_direct(descriptor_.get(), Caching::buffered))
      return fail(system_error("cannot leave direct transfers", path_, errno));
    direct_ = false;
    return {};
  }

  Descriptor descriptor_;
  std::string path_;
  mutable bool direct_ = false;  // a property of the descriptor, not of the content
};

DirectoryEntry::Type entry_type(std::filesystem::file_type type) {
  switch (type) {
    case std::filesystem::file_type::regular:
      return DirectoryEntry::Type::file;
    case std::filesystem::file_type::directory:
      return DirectoryEntry::Type::directory;
    default:
      return DirectoryEntry::Type::other;
  }
}

class SystemFiles final : public FileSystem {
 public:
  Result<std::unique_ptr<FileHandle>> open(const std::string& path, Caching caching) override {
    EW_ASSIGN(Descriptor descriptor, posix::open_descriptor(path, O_RDONLY, "for reading"));
    return std::make_unique<SystemFile>(std::move(descriptor), path, caching);
  }

  Result<std::unique_ptr<FileHandle>> create(const std::string& path, Caching caching) override {
    EW_ASSIGN(Descriptor descriptor,
              posix::open_descriptor(path, O_RDWR | O_CREAT | O_EXCL, "for writing"));
    return std::make_unique<SystemFile>(std::move(descriptor), path, caching);
  }

  Result<void> make_directory(const std::string& path) override {
    if (::mkdir(path.c_str(), 0777) == 0) return {};
    const int error_number = errno;
    std::error_code ignored;
    if (error_number == EEXIST && std::filesystem::is_directory(path, ignored)) return {};
    return fail(system_error("cannot create a directory", path, error_number));
  }

  Result<void> rename(const std::string& from, const std::string& to) override {
    if (std::rename(from.c_str(), to.c_str()) != 0)
      return fail(system_error(fmt::format("cannot rename to {}", to), from, errno));
    return {};
  }

  Result<void> remove_file(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return fail(system_error("cannot remove a file", path, errno));
    return {};
  }

  Result<void> remove_directory(const std::string& path) override {
    if (::rmdir(path.c_str()) != 0)
      return fail(system_error("cannot remove a directory", path, errno));
    return {};
  }

  Result<void> sync_directory(const std::string& path) override {
    return posix::sync_directory(path);
  }

  Result<std::vector<DirectoryEntry>> list(const std::string& path) override {
    std::error_code error;
    std::vector<DirectoryEntry> found;
    std::filesystem::directory_iterator at(path, error);
    while (!error && at != std::filesystem::directory_iterator()) {
      std::error_code gone;  // removed by another process since its name was read
      const std::filesystem::file_type type = at->symlink_status(gone).type();
      if (!gone) found.push_back({at->path().filename().string(), entry_type(type)});
      at.increment(error);
    }
    if (error) return fail(system_error("cannot list a directory", path, error.value()));
    std::sort(found.begin(), found.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return found;
  }

  Result<std::int64_t> free_bytes(const std::string& path) override {
    struct statvfs status {};
    if (retry([&] { return ::statvfs(path.c_str(), &status); }) != 0)
      return fail(system_error("cannot examine a file system", path, errno));
    // Network file systems without a limit report one near 2^64.
    const std::uint64_t blocks =
        std::min<std::uint64_t>(status.f_bavail, std::numeric_limits<std::int64_t>::max() /
                                                     std::max<std::uint64_t>(status.f_frsize, 1));
    return static_cast<std::int64_t>(blocks * status.f_frsize);
  }
};

/// What the parent lists under this name; symbolic links are not followed. Nothing when there is no
/// such name or no parent.
Result<std::optional<DirectoryEntry>> find_entry(FileSystem& files, const std::string& path) {
  const std::filesystem::path whole(path);
  const std::string name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  const bool is_place = name.empty() || name == "." || name == "..";  // no parent lists these
  auto listed = files.list(is_place ? path : posix::parent_directory(path));
  if (!listed) {
    if (listed.error().code == Code::data) return std::optional<DirectoryEntry>();
    return fail(std::move(listed).error());
  }
  if (is_place) return DirectoryEntry{name, DirectoryEntry::Type::directory};
  const auto found = std::find_if(listed->begin(), listed->end(),
                                  [&](const DirectoryEntry& entry) { return entry.name == name; });
  if (found == listed->end()) return std::optional<DirectoryEntry>();
  return *found;
}

Result<void> unless_gone(Result<void> result) {
  if (!result && result.error().code == Code::data) return {};
  return result;
}

Result<void> remove_below(FileSystem& files, const std::string& path, DirectoryEntry::Type type) {
  if (type != DirectoryEntry::Type::directory) return unless_gone(files.remove_file(path));
  auto listed = files.list(path);
  if (!listed) return unless_gone(fail(std::move(listed).error()));
  for (const DirectoryEntry& entry : *listed)
    EW_TRY(remove_below(files, path + "/" + entry.name, entry.type));
  return unless_gone(files.remove_directory(path));
}

}  // namespace

Result<void> FileHandle::read_at(std::int64_t offset_bytes, std::span<std::byte> out) const {
  while (!out.empty()) {
    EW_ASSIGN(const std::int64_t got, read_some_at(offset_bytes, out));
    if (got == 0)
      return fail({Code::data, "a file ends too early", path(),
                   fmt::format("nothing at byte {}, {} more expected", offset_bytes, out.size()),
                   "make or copy the file again"});
    out = out.subspan(static_cast<std::size_t>(got));
    offset_bytes += got;
  }
  return {};
}

Result<void> FileHandle::write_at(std::int64_t offset_bytes, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    EW_ASSIGN(const std::int64_t done, write_some_at(offset_bytes, bytes));
    if (done == 0)
      return fail(
          {Code::io, "cannot write a file", path(),
           fmt::format("a write of {} bytes at byte {} moved nothing", bytes.size(), offset_bytes),
           "check the disk and the file system"});
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset_bytes += done;
  }
  return {};
}

std::unique_ptr<FileSystem> make_file_system() {
  return std::make_unique<SystemFiles>();
}

Result<bool> exists(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::optional<DirectoryEntry> entry, find_entry(files, path));
  return entry.has_value();
}

Result<void> make_directories(FileSystem& files, const std::string& path) {
  const std::string parent = posix::parent_directory(path);
  if (path.empty() || parent == path) return {};  // the root and ".": they need no one's entry
  const auto listed = files.list(path);
  if (!listed) {
    if (listed.error().code != Code::data) return fail(listed.error());
    EW_TRY(make_directories(files, parent));
    EW_TRY(files.make_directory(path));
    return files.sync_directory(parent);
  }
  // A process that died may have made it and not come to the sync: a power loss would then take it
  // away with all that was stored in it since. It gained no entry here, and its parent may be one
  // that this user cannot open, so a failure is only told.
  if (const auto synced = files.sync_directory(parent); !synced)
    log_warn("a directory may not be durable yet: {}", synced.error().text());
  return {};
}

Result<void> remove_tree(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::optional<DirectoryEntry> entry, find_entry(files, path));
  if (!entry) return {};
  return remove_below(files, path, entry->type);
}

Result<std::string> read_text(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const std::unique_ptr<FileHandle> file, files.open(path, Caching::buffered));
  EW_ASSIGN(const std::int64_t size_bytes, file->size_bytes());
  std::string text(static_cast<std::size_t>(size_bytes), '\0');
  EW_TRY(file->read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

Result<void> write_text(FileSystem& files, const std::string& path, std::string_view text) {
  EW_ASSIGN(const std::unique_ptr<FileHandle> file, files.create(path, Caching::buffered));
  EW_TRY(file->write_at(0, std::as_bytes(std::span(text))));
  return file->sync();
}

}  // namespace elaswave
