// The table that a run shows at its start, and what its first step is compared with.
#pragma once

#include <optional>
#include <string>

#include "app/console.h"
#include "app/local_setup.h"
#include "app/restore.h"

namespace elaswave::app {

Console::Rows start_rows(const Settings& settings, const LocalSetup& setup,
                         const std::optional<Restored>& restored);

/// What was planned beside what came, of this rank. `bubble` as measured.
std::string first_step_text(const LocalSetup& setup, std::int32_t world_rank, double bubble);

}  // namespace elaswave::app
