#include "elastic/member/claim_file.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "io/base/file.h"
#include "io/base/file_system.h"
#include "io/base/hash.h"
#include "io/base/log.h"

namespace elaswave::member {
namespace {

/// In front of the value. A file that does not say what its name says is not read.
struct Header {
  std::array<char, 8> magic = {'E', 'W', 'C', 'L', 'A', 'I', 'M', '1'};
  std::uint64_t run = 0;
  std::uint64_t generation = 0;
  std::uint64_t value_bytes = 0;
  std::uint64_t value_hash = 0;
};
static_assert(sizeof(Header) == 40);

Header header_of(std::uint64_t run, Generation generation, std::span<const std::byte> value) {
  return {.run = run,
          .generation = raw(generation),
          .value_bytes = value.size(),
          .value_hash = hash_bytes(value, run)};
}

/// Far above any view; a larger file is none of ours.
constexpr std::int64_t kLargestBytes = std::int64_t{1} << 24;

Result<void> write_file(FileSystem& files, const std::string& path, const Header& header,
                        const std::vector<std::byte>& value) {
  std::vector<std::byte> bytes(sizeof(Header) + value.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  if (!value.empty()) std::memcpy(bytes.data() + sizeof header, value.data(), value.size());
  EW_ASSIGN(const auto file, files.create(path, Caching::buffered));
  EW_TRY(file->write_at(0, bytes));
  return file->sync();
}

Result<std::vector<std::byte>> read_value(FileSystem& files, const std::string& path,
                                          std::uint64_t run, Generation generation) {
  EW_ASSIGN(const auto file, files.open(path, Caching::buffered));
  EW_ASSIGN(const std::int64_t size, file->size_bytes());
  std::vector<std::byte> value;
  Header header;
  if (size >= static_cast<std::int64_t>(sizeof header) && size <= kLargestBytes) {
    EW_TRY(file->read_at(0, std::as_writable_bytes(std::span(&header, 1))));
    value.resize(static_cast<std::size_t>(size) - sizeof header);
    if (!value.empty()) EW_TRY(file->read_at(sizeof header, value));
  }
  const Header expected = header_of(run, generation, value);
  if (size < static_cast<std::int64_t>(sizeof header) ||
      std::memcmp(&header, &expected, sizeof header) != 0)
    return fail(Error{.code = Code::data,
                      .what = "a claim cannot be read",
                      .where = path,
                      .why = "its content does not belong to its name or is damaged",
                      .fix = "check the file system of the run directory"});
  return value;
}

}  // namespace

Result<std::vector<std::byte>> FileClaims::try_claim(Generation generation,
                                                     const std::vector<std::byte>& value) {
  const auto files = make_file_system();
  const std::string name =
      fmt::format("{}/view-{}-{:016x}", options_.directory, raw(generation), options_.run);
  const std::string mine =
      fmt::format("{}.{}-{:016x}.tmp", name, options_.world_rank, options_.incarnation);
  (void)files->remove_file(mine);  // of an earlier try of this process
  const Result<void> written =
      write_file(*files, mine, header_of(options_.run, generation, value), value);
  const bool linked = written && ::link(mine.c_str(), name.c_str()) == 0;
  const int error = written && !linked ? errno : 0;
  (void)files->remove_file(mine);  // what stays behind is never read
  EW_TRY(written);
  if (!linked && error != EEXIST) return fail(system_error("cannot claim a view", name, error));
  // Whoever reads the claim makes its name durable first: a view must not be acted on whose claim a
  // crash of the file server could undo, and the winner may have died before its own sync.
  EW_TRY(files->sync_directory(options_.directory));
  // Read back in either case: over NFS a link() that was answered and sent again says EEXIST.
  return read_value(*files, name, options_.run, generation);
}

std::optional<std::vector<std::byte>> FileClaims::claim(Generation generation,
                                                        const std::vector<std::byte>& value) {
  auto held = try_claim(generation, value);
  if (held) return *std::move(held);
  log_warn("the claim of view {} has no answer: {}", raw(generation), held.error().text());
  return std::nullopt;
}

}  // namespace elaswave::member
