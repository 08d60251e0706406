// How a rank started by `elaswave launch` tells its exit code: with mpirun --enable-recovery the
// launcher's own exit code is always 0, so each rank leaves a file exit-<world rank> with one
// decimal number in the private run directory named by ELASWAVE_RUN_DIR; " alone" follows it when
// the others go on without this rank. A rank without a file was killed. Without that variable all
// functions here do nothing, or answer "alone". THREADS: report_exit and print_error from any one
// at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/launch_rules.h"
#include "io/base/error.h"

namespace elaswave::app {

inline constexpr const char* kRunDirVariable = "ELASWAVE_RUN_DIR";
/// Set to 1 by `elaswave launch` when its own stdout is a terminal: ranks write into a pipe.
inline constexpr const char* kTerminalVariable = "ELASWAVE_TERMINAL";

/// What the launcher of this process says about it before MPI is up. Open MPI 4 and 5 set the first
/// pair of variables; PMIx alone the second.
struct LaunchedAs {
  std::int64_t world_rank = 0;
  std::int64_t world_size = 1;
};
LaunchedAs launched_as();

/// True when a person's terminal is at the end of stdout. mpirun gives its ranks a pseudo-terminal
/// wherever its own output goes, so under a launcher only kTerminalVariable tells.
bool stdout_is_terminal();

/// Writes exit-<rank> (atomically: temporary name, then rename) when launched by `elaswave launch`.
/// Call as the last act before leaving, also before _exit. Never fails loudly: the launcher reads a
/// missing report as a killed rank. Calling it again replaces the report.
void report_exit(int code) noexcept;
/// The same of a rank that is alone with its error.
void report_exit_alone(int code) noexcept;

/// Prints the four lines on stderr, naming the rank when there are several. Ranks of one
/// `elaswave launch` that meet the same error print it once between them.
void print_error(const Error& error);

/// The file side of report_exit: REQUIRES an existing directory. False when it could not be
/// written.
bool write_exit_report(const std::string& dir, std::int64_t world_rank, const RankExit& exit);

/// By rank; nothing for a rank without a (whole) report.
std::vector<RankOutcome> read_exit_reports(const std::string& dir, std::int64_t ranks);

/// True for the first caller with this text in this directory; also when that cannot be told.
bool first_to_say(const std::string& dir, const std::string& text);

}  // namespace elaswave::app
