#include "app/exit_report.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "io/base/hash.h"

namespace elaswave::app {
namespace {

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

/// The number in the variable, or `otherwise` when it is not there or not a whole number >= 0.
std::int64_t number_in(const char* name, std::int64_t otherwise) {
  const std::string text = variable(name);
  std::int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end && !text.empty() && number >= 0 ? number : otherwise;
}

void report(const RankExit& exit) noexcept {
  try {
    const std::string dir = variable(kRunDirVariable);
    if (!dir.empty()) write_exit_report(dir, launched_as().world_rank, exit);
  } catch (const std::exception&) {
    // Out of memory on the way out: the launcher takes the rank for killed, which is near enough.
  }
}

std::string report_path(const std::string& dir, std::int64_t world_rank) {
  return fmt::format("{}/exit-{}", dir, world_rank);
}

}  // namespace

LaunchedAs launched_as() {
  LaunchedAs as;
  as.world_rank = number_in("OMPI_COMM_WORLD_RANK", number_in("PMIX_RANK", 0));
  as.world_size = number_in("OMPI_COMM_WORLD_SIZE", as.world_rank + 1);
  return as;
}

bool stdout_is_terminal() {
  if (!variable("OMPI_COMM_WORLD_SIZE").empty() || !variable("PMIX_RANK").empty())
    return variable(kTerminalVariable) == "1";
  return ::isatty(STDOUT_FILENO) == 1;
}

bool write_exit_report(const std::string& dir, std::int64_t world_rank, const RankExit& exit) {
  const std::string path = report_path(dir, world_rank);
  const std::string temporary = path + ".new";
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << exit.code << (exit.alone ? " alone\n" : "\n");
    file.flush();
    if (!file) return false;
  }
  return std::rename(temporary.c_str(), path.c_str()) == 0;
}

std::vector<RankOutcome> read_exit_reports(const std::string& dir, std::int64_t ranks) {
  std::vector<RankOutcome> outcomes;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    std::ifstream file(report_path(dir, rank));
    RankExit exit;
    std::string word;
    RankOutcome& outcome = outcomes.emplace_back();
    if (!(file >> exit.code)) continue;
    exit.alone = file >> word && word == "alone";
    outcome = exit;
  }
  return outcomes;
}

void report_exit(int code) noexcept {
  report(code);
}

void report_exit_alone(int code) noexcept {
  report({code, true});
}

bool first_to_say(const std::string& dir, const std::string& text) {
  const std::string path = fmt::format("{}/said-{:016x}", dir, hash_text(text));
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return errno != EEXIST;
  ::close(file);
  return true;
}

void print_error(const Error& error) {
  const std::string text = error.text();
  const std::string dir = variable(kRunDirVariable);
  if (!dir.empty() && !first_to_say(dir, text)) return;
  const LaunchedAs as = launched_as();
  const std::string label = as.world_size > 1 ? fmt::format("rank {}: ", as.world_rank) : "";
  std::fprintf(stderr, "%s%s\n", label.c_str(), text.c_str());
}

}  // namespace elaswave::app
