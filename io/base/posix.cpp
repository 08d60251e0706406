#include "io/base/posix.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

namespace elaswave::posix {

Result<Descriptor> open_descriptor(const std::string& path, int flags, std::string_view purpose) {
  Descriptor descriptor(retry([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); }));
  if (!descriptor)
    return fail(system_error(fmt::format("cannot open a file {}", purpose), path, errno));
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0)
    return fail(system_error("cannot examine a file", path, errno));
  if (S_ISDIR(status.st_mode))
    return fail(system_error(fmt::format("cannot open a file {}", purpose), path, EISDIR));
  return descriptor;
}

Result<std::int64_t> size_bytes(int descriptor, const std::string& path) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0)
    return fail(system_error("cannot examine a file", path, errno));
  return static_cast<std::int64_t>(status.st_size);
}

int reserve(int descriptor, std::int64_t offset_bytes, std::int64_t size_bytes) {
  int error_number = EINTR;  // this call returns its error and leaves errno alone
  while (error_number == EINTR)
    error_number = ::posix_fallocate(descriptor, offset_bytes, size_bytes);
  return error_number;
}

Error reserve_error(const std::string& path, std::int64_t size_bytes, int error_number) {
  return system_error(fmt::format("cannot reserve {} bytes", size_bytes), path, error_number);
}

Result<void> sync(int descriptor, const std::string& path) {
  if (retry([&] { return ::fsync(descriptor); }) != 0)
    return fail(system_error("cannot make a file durable", path, errno));
  return {};
}

Result<void> sync_directory(const std::string& path) {
  const Descriptor directory(
      retry([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (!directory) return fail(system_error("cannot open a directory", path, errno));
  // EINVAL: a file system without directory sync; then nothing better can be done.
  if (retry([&] { return ::fsync(directory.get()); }) != 0 && errno != EINVAL)
    return fail(system_error("cannot make a directory durable", path, errno));
  return {};
}

std::string parent_directory(const std::string& path) {
  const std::filesystem::path whole(path);
  const std::string parent =
      (whole.has_filename() ? whole : whole.parent_path()).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace elaswave::posix
