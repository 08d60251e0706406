#include "io/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "io/base/log.h"
#include "io/base/posix.h"

namespace elaswave {
namespace {

using posix::kLargestCallBytes;
using posix::open_descriptor;
using posix::retry;

std::string_view remedy(int error_number) {
  switch (error_number) {
    case ENOENT:
      return "check the spelling and that the directory exists";
    case EACCES:
    case EPERM:
    case EROFS:
      return "check the permissions of the file and its directory";
    case ENOSPC:
    case EDQUOT:
      return "free some space or write elsewhere";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (ulimit -n)";
    case EISDIR:
      return "name a file, not a directory";
    case EEXIST:
    case ENOTEMPTY:
      return "remove or rename what is there";
    default:
      return "check the disk and the file system";
  }
}

/// True when `path` leads to the open file.
bool names(const std::string& path, int descriptor) {
  struct stat open {
  }, named{};
  return descriptor >= 0 && ::fstat(descriptor, &open) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open.st_ino == named.st_ino && open.st_dev == named.st_dev;
}

Result<void> set_content(const Descriptor& descriptor, const std::string& path,
                         std::string_view text) {
  if (retry([&] { return ::ftruncate(descriptor.get(), 0); }) == 0 &&
      retry([&] { return ::pwrite(descriptor.get(), text.data(), text.size(), 0); }) ==
          static_cast<ssize_t>(text.size()))
    return {};
  return fail(system_error("cannot write a file", path, errno));
}

}  // namespace

void DescriptorTraits::release(handle_type descriptor) {
  // Data is made durable by sync(), which is checked; a failing close can only be told.
  if (::close(descriptor) != 0 && errno != EINTR)
    log_warn("closing a file failed (errno {})", errno);
}

Error system_error(std::string what, std::string_view path, int error_number) {
  const bool absent_or_no_file =
      error_number == ENOENT || error_number == EISDIR || error_number == ENOTDIR;
  return {absent_or_no_file ? Code::data : Code::io, std::move(what), std::string(path),
          std::generic_category().message(error_number), std::string(remedy(error_number))};
}

Result<File> File::open(const std::string& path) {
  EW_ASSIGN(Descriptor descriptor, open_descriptor(path, O_RDONLY, "for reading"));
  return File(std::move(descriptor), path);
}

Result<File> File::create(const std::string& path) {
  EW_ASSIGN(Descriptor descriptor,
            open_descriptor(path, O_RDWR | O_CREAT | O_TRUNC, "for writing"));
  return File(std::move(descriptor), path);
}

Result<File> File::append(const std::string& path) {
  EW_ASSIGN(Descriptor descriptor,
            open_descriptor(path, O_RDWR | O_CREAT | O_APPEND, "for appending"));
  return File(std::move(descriptor), path);
}

Result<std::int64_t> File::size_bytes() const {
  return posix::size_bytes(descriptor(), path_);
}

bool File::is_named() const {
  return names(path_, descriptor());
}

Result<std::int64_t> File::read_some(std::span<std::byte> out) {
  const auto wanted = std::min<std::size_t>(out.size(), kLargestCallBytes);
  const ssize_t got = retry([&] { return ::read(descriptor(), out.data(), wanted); });
  if (got < 0) return fail(system_error("cannot read a file", path_, errno));
  return static_cast<std::int64_t>(got);
}

Result<void> File::read_at(std::int64_t offset_bytes, std::span<std::byte> out) const {
  while (!out.empty()) {
    const auto wanted = std::min<std::size_t>(out.size(), kLargestCallBytes);
    const ssize_t got =
        retry([&] { return ::pread(descriptor(), out.data(), wanted, offset_bytes); });
    if (got < 0) return fail(system_error("cannot read a file", path_, errno));
    if (got == 0)
      return fail({Code::data, "a file ends too early", path_,
                   fmt::format("nothing at byte {}, {} more expected", offset_bytes, out.size()),
                   "make or copy the file again"});
    out = out.subspan(static_cast<std::size_t>(got));
    offset_bytes += got;
  }
  return {};
}

Result<void> File::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto wanted = std::min<std::size_t>(bytes.size(), kLargestCallBytes);
    const ssize_t done = retry([&] { return ::write(descriptor(), bytes.data(), wanted); });
    if (done < 0) return fail(system_error("cannot write a file", path_, errno));
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
  return {};
}

Result<void> File::write_at(std::int64_t offset_bytes, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto wanted = std::min<std::size_t>(bytes.size(), kLargestCallBytes);
    const ssize_t done =
        retry([&] { return ::pwrite(descriptor(), bytes.data(), wanted, offset_bytes); });
    if (done < 0) return fail(system_error("cannot write a file", path_, errno));
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset_bytes += done;
  }
  return {};
}

Result<void> File::reserve(std::int64_t offset_bytes, std::int64_t size_bytes) {
  if (size_bytes <= 0) return {};
  const int error_number = posix::reserve(descriptor(), offset_bytes, size_bytes);
  if (error_number != 0) return fail(posix::reserve_error(path_, size_bytes, error_number));
  return {};
}

Result<void> File::resize(std::int64_t size_bytes) {
  if (retry([&] { return ::ftruncate(descriptor(), size_bytes); }) != 0)
    return fail(system_error("cannot change the size of a file", path_, errno));
  return {};
}

Result<void> File::sync() {
  return posix::sync(descriptor(), path_);
}

Result<ReplacementFile> ReplacementFile::create(const std::string& final_path) {
  if (std::error_code ignored; std::filesystem::is_directory(final_path, ignored))
    return fail(system_error("cannot open a file for writing", final_path, EISDIR));
  // The process id keeps two writers of one file apart: the later rename wins, and wins whole.
  EW_ASSIGN(File file, File::create(fmt::format("{}.tmp-{}", final_path, ::getpid())));
  return ReplacementFile(std::move(file), final_path);
}

ReplacementFile::ReplacementFile(ReplacementFile&& other) noexcept
    : file_(std::move(other.file_)),
      final_path_(std::move(other.final_path_)),
      state_(std::exchange(other.state_, State::over)) {}

ReplacementFile::~ReplacementFile() {
  if (state_ == State::writing) ::unlink(file_.path().c_str());
}

Result<void> ReplacementFile::publish() {
  EW_CHECK(state_ == State::writing, "published twice: {}", final_path_);
  EW_TRY(file_.sync());
  if (std::rename(file_.path().c_str(), final_path_.c_str()) != 0)
    return fail(system_error("cannot rename a finished file", final_path_, errno));
  state_ = State::over;
  return posix::sync_directory(posix::parent_directory(final_path_));
}

Result<File> ReplacementFile::publish_and_keep(ReplacementFile replacement) {
  EW_TRY(replacement.publish());
  return File(std::move(replacement.file_.descriptor_), replacement.final_path_);
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  EW_ASSIGN(const Descriptor descriptor, open_descriptor(path, O_RDONLY, "for reading"));
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0)
    return fail(system_error("cannot examine a file", path, errno));
  if (!S_ISREG(status.st_mode))
    return fail(
        {Code::data, "cannot map a file", path, "it is a pipe or a device", "name a regular file"});
  MappedFile mapped;
  if (status.st_size == 0) return mapped;  // an empty range cannot be mapped
  const auto size = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor.get(), 0);
  if (address == MAP_FAILED) return fail(system_error("cannot map a file", path, errno));
  mapped.bytes_ = {static_cast<const std::byte*>(address), size};
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Result<std::optional<FileLock>> FileLock::try_acquire(const std::string& path,
                                                      std::string_view text) {
  EW_ASSIGN(Descriptor descriptor, open_descriptor(path, O_RDWR | O_CREAT, "for locking"));
  if (retry([&] { return ::flock(descriptor.get(), LOCK_EX | LOCK_NB); }) != 0) {
    if (errno == EWOULDBLOCK) return std::optional<FileLock>();
    log_warn("{} cannot be locked ({}): nothing keeps a second run out", path,
             std::generic_category().message(errno));
    return std::optional(FileLock());
  }
  // Taken over between open and lock: the file that counts is another by now.
  if (!names(path, descriptor.get())) return std::optional<FileLock>();
  EW_TRY(set_content(descriptor, path, text));
  return std::optional(FileLock(std::move(descriptor), path));
}

Result<FileLock> FileLock::take_over(const std::string& path, std::string_view text) {
  const std::string draft = fmt::format("{}.tmp-{}", path, ::getpid());
  EW_ASSIGN(Descriptor descriptor, open_descriptor(draft, O_RDWR | O_CREAT, "for locking"));
  if (retry([&] { return ::flock(descriptor.get(), LOCK_EX | LOCK_NB); }) != 0)
    log_warn("{} cannot be locked ({}): nothing keeps a second run out", path,
             std::generic_category().message(errno));
  auto written = set_content(descriptor, draft, text);
  if (written && std::rename(draft.c_str(), path.c_str()) != 0)
    written = fail(system_error("cannot take over a lock", path, errno));
  if (!written) {
    ::unlink(draft.c_str());
    return fail(std::move(written).error());
  }
  return FileLock(std::move(descriptor), path);
}

bool FileLock::is_named() const {
  return names(path_, descriptor_.get());
}

Result<void> create_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return fail(system_error("cannot create a directory", path, error.value()));
  return {};
}

}  // namespace elaswave
