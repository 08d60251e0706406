// The engine of a fuzz target:
//   TARGET [--seconds N | --inputs N] [--seed S] [--corpus DIR] [--artifacts DIR]
//   TARGET FILE...        tries these inputs and nothing else, in this process
// Inputs of the corpus are changed at random; one that reaches new code joins it (and is written to
// DIR). The inputs are tried in a child process, each after a copy of it lies in the artifacts
// folder: whatever ends the child - a signal, a sanitizer, a failed check, 10 s on one input, 2 GiB
// of memory - the parent reports it, keeps the input as TARGET-crash-HASH, and exits with 1.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/fuzz/coverage.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mutate.h"

// Read by the sanitizer before main. One allocation has a limit: what a header asks for must be
// checked before it is allocated.
// NOLINTBEGIN(bugprone-reserved-identifier): the sanitizers' names
extern "C" const char* __asan_default_options() {
  return "max_allocation_size_mb=2048:detect_stack_use_after_return=1";
}
extern "C" const char* __ubsan_default_options() {
  return "print_stacktrace=1";
}
// NOLINTEND(bugprone-reserved-identifier)

namespace elaswave::fuzz {
namespace {

constexpr unsigned kMostInputSeconds = 10;
constexpr std::uint64_t kMostMemoryBytes = std::uint64_t{2} << 30;

struct Options {
  std::string target;  // name of the program
  double seconds = 60;
  std::optional<std::int64_t> inputs;  // instead of seconds
  std::uint64_t seed = 1;
  std::string corpus;           // empty: none
  std::string artifacts = ".";  // a folder
  std::vector<std::string> files;
};

template <typename Number>
bool parse(const std::string& text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end;
}

std::optional<Options> parse_options(const std::vector<std::string>& arguments) {
  Options options{.target = std::filesystem::path(arguments.at(0)).filename().string()};
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (!name.starts_with("--")) {
      options.files.push_back(name);
      continue;
    }
    if (++i == arguments.size()) return std::nullopt;
    const std::string& value = arguments[i];
    std::int64_t inputs = 0;
    if (name == "--seconds" && parse(value, options.seconds)) continue;
    if (name == "--seed" && parse(value, options.seed)) continue;
    if (name == "--inputs" && parse(value, inputs)) {
      options.inputs = inputs;
    } else if (name == "--corpus") {
      options.corpus = value;
    } else if (name == "--artifacts") {
      options.artifacts = value;
    } else {
      return std::nullopt;
    }
  }
  return options;
}

std::uint64_t hash(const std::string& bytes) {  // FNV-1a
  std::uint64_t value = 0xCBF29CE484222325U;
  for (const char c : bytes) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return value;
}

void try_input(const std::string& input) {
  // A copy of exactly this size, so that AddressSanitizer sees a read past its end.
  const auto copy = std::make_unique<std::uint8_t[]>(input.size());
  std::memcpy(copy.get(), input.data(), input.size());
  ::alarm(kMostInputSeconds);
  start_counting();
  LLVMFuzzerTestOneInput(copy.get(), input.size());
  stop_counting();
  ::alarm(0);
}

/// The input being tried, as a file: its content outlives this process without being synced.
class CurrentInput {
 public:
  explicit CurrentInput(const std::string& path)
      : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    EW_CHECK(descriptor_ >= 0, "cannot write {}", path);
  }
  void set(const std::string& input) const {
    const auto size = static_cast<ssize_t>(input.size());
    EW_CHECK(::pwrite(descriptor_, input.data(), input.size(), 0) == size &&
                 ::ftruncate(descriptor_, size) == 0,
             "cannot keep an input of {} bytes", size);
  }

 private:
  int descriptor_;  // until the process ends
};

class Campaign {
 public:
  Campaign(const Options& options, const std::string& current)
      : options_(options),
        current_(current),
        mutator_(options.seed,
                 fuzz_dictionary != nullptr ? fuzz_dictionary() : std::vector<std::string>()) {}

  void run() {
    read_corpus();
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(options_.seconds);
    const auto is_over = [&] {
      return options_.inputs ? tried_ >= *options_.inputs
                             : tried_ % 16 == 0 && std::chrono::steady_clock::now() >= end;
    };
    while (!is_over()) {
      const std::string input = mutator_.mutated(choose(), corpus_[mutator_.below(corpus_.size())]);
      if (is_new(input)) keep(input);
    }
    fmt::print("campaign: fuzz {} inputs={} corpus={} edges={}\n", options_.target, tried_,
               corpus_.size(), coverage_.edges());
  }

 private:
  void read_corpus() {
    corpus_ = fuzz_seeds != nullptr ? fuzz_seeds() : std::vector<std::string>();
    corpus_.emplace_back();
    if (!options_.corpus.empty()) {
      std::filesystem::create_directories(options_.corpus);
      std::set<std::string> names;  // in the same order on every system
      for (const auto& entry : std::filesystem::directory_iterator(options_.corpus))
        if (entry.is_regular_file()) names.insert(entry.path().string());
      for (const std::string& name : names) corpus_.push_back(read_file(name));
    }
    for (const std::string& input : corpus_) is_new(input);
  }

  /// Half of the time one of the latest: what lies just behind new code is new as well.
  const std::string& choose() {
    const std::size_t window =
        mutator_.below(2) == 0 ? corpus_.size() : std::min<std::size_t>(corpus_.size(), 16);
    return corpus_[corpus_.size() - 1 - mutator_.below(window)];
  }

  bool is_new(const std::string& input) {
    current_.set(input);
    try_input(input);
    ++tried_;
    return coverage_.add();
  }

  void keep(const std::string& input) {
    corpus_.push_back(input);
    if (!options_.corpus.empty())
      write_file(fmt::format("{}/{:016x}", options_.corpus, hash(input)), input);
  }

  const Options& options_;
  CurrentInput current_;
  Mutator mutator_;
  Coverage coverage_;
  std::vector<std::string> corpus_;
  std::int64_t tried_ = 0;
};

void limit_memory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // The sanitizers reserve terabytes of addresses, so this limit is for other builds.
  const rlimit limit{.rlim_cur = kMostMemoryBytes, .rlim_max = kMostMemoryBytes};
  EW_CHECK(::setrlimit(RLIMIT_AS, &limit) == 0, "cannot limit the memory");
#endif
  // No core files of hundreds of crashes.
  const rlimit none{.rlim_cur = 0, .rlim_max = 0};
  EW_CHECK(::setrlimit(RLIMIT_CORE, &none) == 0, "cannot forbid core files");
}

std::string ending(int status) {
  if (WIFSIGNALED(status))
    return WTERMSIG(status) == SIGALRM
               ? fmt::format("an input took more than {} s", kMostInputSeconds)
               : fmt::format("signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

/// The parent's part. The input stays as a file when the child did not end well.
int watch(pid_t child, const Options& options, const std::string& current) {
  int status = 0;
  EW_CHECK(::waitpid(child, &status, 0) == child, "lost the child process");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    std::filesystem::remove(current);
    return 0;
  }
  const std::string kept = fmt::format("{}/{}-crash-{:016x}", options.artifacts, options.target,
                                       hash(read_file(current)));
  std::filesystem::rename(current, kept);
  fmt::print(stderr, "fuzz {}: {}\n  input: {}\n  again: {} {}\n", options.target, ending(status),
             kept, options.target, kept);
  return 1;
}

int run(const Options& options) {
  for (const std::string& file : options.files) {
    fmt::print("{}\n", file);
    std::fflush(stdout);
    try_input(read_file(file));
  }
  if (!options.files.empty()) return 0;
  std::filesystem::create_directories(options.artifacts);
  const std::string current = fmt::format("{}/{}-current", options.artifacts, options.target);
  const pid_t child = ::fork();
  EW_CHECK(child >= 0, "cannot fork");
  if (child > 0) return watch(child, options, current);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a campaign without its parent would never be reported
  limit_memory();
  Campaign(options, current).run();
  return 0;
}

}  // namespace
}  // namespace elaswave::fuzz

int main(int argc, char** argv) {
  const auto options = elaswave::fuzz::parse_options({argv, argv + argc});
  if (!options) {
    fmt::print(stderr,
               "usage: {} [--seconds N | --inputs N] [--seed S] [--corpus DIR] [--artifacts DIR]\n"
               "       {} FILE...\n",
               argv[0], argv[0]);
    return 2;
  }
  return elaswave::fuzz::run(*options);
}
