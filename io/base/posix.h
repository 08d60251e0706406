// What File and the system's FileSystem share: calls that signals interrupt, descriptors that open
// files and nothing else, durable directories. For the .cpp files of io/base only. ERRORS, THREADS:
// as in file.h.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/base/file.h"

namespace elaswave::posix {

/// Linux moves at most 0x7ffff000 bytes a call; one GiB keeps well below on every system.
inline constexpr std::int64_t kLargestCallBytes = std::int64_t{1} << 30;

/// Repeats a system call that a signal interrupted.
template <typename Call>
auto retry(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

/// A directory is refused. `purpose` as in "cannot open a file for reading".
Result<Descriptor> open_descriptor(const std::string& path, int flags, std::string_view purpose);

Result<std::int64_t> size_bytes(int descriptor, const std::string& path);

/// posix_fallocate() of a range that is not empty; the error number, 0 when it worked.
int reserve(int descriptor, std::int64_t offset_bytes, std::int64_t size_bytes);
Error reserve_error(const std::string& path, std::int64_t size_bytes, int error_number);

/// fsync() of a file.
Result<void> sync(int descriptor, const std::string& path);
/// fsync() of a directory: a new or changed name in it is durable only after that.
Result<void> sync_directory(const std::string& path);

/// "." for a name without a directory; the root is its own parent.
std::string parent_directory(const std::string& path);

}  // namespace elaswave::posix
