// Agreement at start: every rank shows who it is and whether it is able to run; any difference ends
// the run on all ranks with one clear message instead of wrong bits or a hang.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/base/error.h"
#include "parallel/comm/group.h"

namespace elaswave::app {

/// What must be equal on all ranks.
struct StartIdentity {
  std::string numeric_class;  // at most 255 characters are compared
  std::uint64_t recipe = 0;
  std::uint64_t data = 0;
  std::uint64_t plan = 0;
  std::uint64_t fingerprint = 0;
};

/// COLLECTIVE. `failure` is this rank's own set-up error, if any: then it is returned here, and
/// every other rank gets an error of the same code that names this rank.
Result<void> agree_start(comm::World& world, const std::optional<Error>& failure,
                         const StartIdentity& identity, Nanoseconds timeout);

}  // namespace elaswave::app
