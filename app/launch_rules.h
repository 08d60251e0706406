// The decisions of `elaswave launch`, pure: which flags for which Open MPI, what the ranks' exit
// codes mean together, which of them end the run, what to say about the launcher.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "app/options.h"
#include "io/base/error.h"

namespace elaswave::app {

struct LauncherVersion {
  std::int64_t major = 0, minor = 0, patch = 0;
  bool operator==(const LauncherVersion&) const = default;
};

/// From the output of `mpirun --version`. Open MPI 4 and 5 alone; others are Code::unavailable.
Result<LauncherVersion> parse_launcher_version(std::string_view text);

enum class User { ordinary, root };

struct LaunchPlan {
  std::vector<std::string> arguments;                          // argv of mpirun, argv[0] included
  std::vector<std::pair<std::string, std::string>> variables;  // added to mpirun's environment
};

struct LaunchWish {
  std::int64_t ranks = 1;
  User user = User::ordinary;
  std::string mpirun;                  // path
  std::string program;                 // what every rank executes
  std::vector<std::string> arguments;  // its arguments
  Environment exported;                // ELASWAVE_* passed on to every rank
  int notes = -1;                      // an open file for mpirun's own notes; -1: its stderr
};

/// All ranks on this host. Why each flag: README.md, "Flags of mpirun".
LaunchPlan plan_launch(const LauncherVersion& version, const LaunchWish& wish);

/// How a rank left.
struct RankExit {
  int code = 0;
  bool alone = false;  // with its error: the others take it for dead and go on
  RankExit() = default;
  RankExit(int exit_code, bool is_alone = false)  // NOLINT: a code is how most leave
      : code(exit_code), alone(is_alone) {}
  bool operator==(const RankExit&) const = default;
};

/// Nothing when it left no report (killed, or died of a bug).
using RankOutcome = std::optional<RankExit>;

/// One exit code for the run. In order:
///   1. nobody reported                 6, nothing is known
///   2. all who reported agree          that code; ranks killed on the way are not held against a
///   run
///                                      that the others finished
///   3. code 7 (left), and any of a rank that is alone with it, is that rank's own fate: set aside
///   while others tell of the run
///   4. 2, 3, 4, 9, 5                   what one rank found wrong is the cause of the others'
///   failure
///   5. 6                               gives way to 10 or 70 of another rank, its cause
///   6. 8, then 75, then 0              the run ended in order; 10, 70 were the fate of single
///   ranks
///   7. 70, 10, then the lowest other
int combined_exit_code(std::span<const RankOutcome> outcomes);

/// True when one rank's exit says that the run is over for all (so those who linger are hung),
/// false when it may go on without that rank: 7 left, 10 device lost, 70 a bug, any code of one
/// alone.
bool ends_run(const RankExit& exit);

/// What the launcher does when a rank dies, from the variables it set; one line.
std::string launcher_note(const Environment& environment);

/// The same for this process.
std::string launcher_note();

}  // namespace elaswave::app
