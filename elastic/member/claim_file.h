// Claims as files of a directory that all ranks share: `view-<generation>-<run>` is created once
// and holds the value that won. A claim is a hard link to a file that is complete and on the disk:
// link() is atomic and fails when the name exists, also over NFS, and nobody can read half a value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "elastic/member/agent_shell.h"
#include "io/base/error.h"
#include "io/base/types.h"

namespace elaswave::member {

/// Blocks for as long as the file system takes. Any error is "cannot tell": the claim may even have
/// been won. THREADS: one caller.
class FileClaims final : public ClaimStore {
 public:
  struct Options {
    std::string directory;  // must exist
    std::uint64_t run = 0;  // runs that share the directory do not see each other's claims
    std::int32_t world_rank = 0;
    std::uint64_t incarnation = 0;
  };
  explicit FileClaims(Options options) : options_(std::move(options)) {}

  std::optional<std::vector<std::byte>> claim(Generation generation,
                                              const std::vector<std::byte>& value) override;

 private:
  /// What is wrong, for the log; claim() turns it into nothing.
  Result<std::vector<std::byte>> try_claim(Generation generation,
                                           const std::vector<std::byte>& value);

  Options options_;
};

}  // namespace elaswave::member
