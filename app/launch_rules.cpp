#include "app/launch_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "app/exit_report.h"

namespace elaswave::app {
namespace {

bool truthy(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found != environment.end() &&
         (found->second == "1" || found->second == "true" || found->second == "yes" ||
          found->second == "ulfm" || found->second == "mpi");
}

using Words = std::vector<std::string>;

void append(Words& words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
}

}  // namespace

Result<LauncherVersion> parse_launcher_version(std::string_view text) {
  LauncherVersion version;
  const std::size_t mark = text.find("(Open MPI) ");
  const std::string number(mark == std::string_view::npos ? "" : text.substr(mark + 11, 32));
  long long major = 0, minor = 0, patch = 0;
  const bool read = std::sscanf(number.c_str(), "%lld.%lld.%lld", &major, &minor, &patch) >= 2;
  version = {.major = major, .minor = minor, .patch = patch};
  if (read && (major == 4 || major == 5)) return version;
  const std::string first_line(text.substr(0, std::min(text.find('\n'), std::size_t{80})));
  return fail(
      {.code = Code::unavailable,
       .what = "this mpirun is not one that elaswave launch knows",
       .where = "mpirun --version",
       .why = fmt::format("it says '{}'; Open MPI 4 and 5 are known", first_line),
       .fix = "put Open MPI's mpirun first in PATH, or start the ranks with your own launcher"});
}

LaunchPlan plan_launch(const LauncherVersion& version, const LaunchWish& wish) {
  LaunchPlan plan;
  Words& words = plan.arguments;
  append(words, {wish.mpirun, "-n", std::to_string(wish.ranks), "--bind-to", "none"});
  if (wish.user == User::root) {
    if (version.major < 5) {
      words.emplace_back("--allow-run-as-root");
    } else {
      plan.variables.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
      plan.variables.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
  }
  if (version.major < 5) {
    append(words, {"--oversubscribe", "--enable-recovery"});
    append(words, {"--mca", "btl_vader_single_copy_mechanism", "none"});
    if (wish.notes >= 0) {
      plan.variables.emplace_back("PMIX_OUTPUT_STDERR_FD", std::to_string(wish.notes));
      append(words, {"-x", "PMIX_OUTPUT_STDERR_FD=2"});  // of ranks: that number is another file
    }
  } else {
    append(words, {"--map-by", ":OVERSUBSCRIBE", "--with-ft", "ulfm", "--mca", "coll", "^han"});
    append(words, {"--mca", "btl_tcp_disable_family", "6"});
    plan.variables.emplace_back("PRTE_MCA_state_base_recoverable", "1");
    plan.variables.emplace_back("PRTE_MCA_state_base_notify_errors", "1");
  }
  append(words, {"--mca", "mpi_yield_when_idle", "1"});
  for (const auto& [name, value] : wish.exported) append(words, {"-x", name});
  words.push_back(wish.program);
  append(words, wish.arguments);
  return plan;
}

int combined_exit_code(std::span<const RankOutcome> outcomes) {
  std::set<int> codes, of_one;
  for (const RankOutcome& outcome : outcomes)
    if (outcome) (outcome->alone || outcome->code == 7 ? of_one : codes).insert(outcome->code);
  if (codes.empty()) codes = of_one;
  if (codes.empty()) return 6;
  if (codes.size() == 1) return *codes.begin();
  codes.erase(7);
  const auto first_of = [&codes](std::initializer_list<int> order) {
    for (const int code : order)
      if (codes.contains(code)) return code;
    return -1;
  };
  const int cause = first_of({2, 3, 4, 9, 5});
  if (cause >= 0) return cause;
  if (codes.contains(6)) return first_of({70, 10, 6});
  const int finished = first_of({8, 75, 0});
  if (finished >= 0) return finished;
  const int single = first_of({70, 10});
  return single >= 0 ? single : *codes.begin();
}

bool ends_run(const RankExit& exit) {
  return !exit.alone && exit.code != 7 && exit.code != 10 && exit.code != 70;
}

std::string launcher_note(const Environment& environment) {
  const bool several = environment.contains("OMPI_COMM_WORLD_SIZE");
  if (environment.contains(kRunDirVariable))
    return "started by elaswave launch: when a rank dies, the launcher lets the others go on";
  if (!several) return "started without a launcher: this rank is alone";
  if (truthy(environment, "OMPI_MCA_orte_enable_recovery") ||
      truthy(environment, "OMPI_MCA_mpi_ft_enable"))
    return "started by mpirun with recovery: when a rank dies, the launcher lets the others go on, "
           "and mpirun's own exit code says nothing";
  return "started by plain mpirun: when a rank dies, the launcher ends all others (elaswave launch "
         "does not)";
}

std::string launcher_note() {
  Environment environment;
  for (const char* name : {kRunDirVariable, "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_enable_recovery",
                           "OMPI_MCA_mpi_ft_enable"})
    if (const char* text = std::getenv(name)) environment.emplace(name, text);
  return launcher_note(environment);
}

}  // namespace elaswave::app
