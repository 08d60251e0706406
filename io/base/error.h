// Errors. Three kinds, three mechanisms:
//   a bug              EW_CHECK(cond, fmt, ...): prints and ends this process with exit code 70;
//   peers see a lost rank expected failure   Result<T> carrying an Error: four lines (what, where,
//   why, fix) and a Code that callers branch on the aborted step   the one exception type,
//   parallel/comm/world.h, caught only by the step loop
#pragma once

#include <fmt/format.h>

#include <source_location>
#include <string>
#include <tl/expected.hpp>

namespace elaswave {

enum class Code {
  usage,          // command line, configuration, or a model that disagrees with what it meets
  data,           // a data file is missing, foreign, damaged or unfit
  does_not_fit,   // memory or layout
  non_finite,     // the loss or a gradient left the finite range
  unrecoverable,  // peers, shards or ranks are gone for good; also a wait past its deadline
  excluded,       // this process is no longer a member
  not_durable,    // finished, but the last wanted checkpoint is not on disk
  corrupt,        // a checkpoint, a message or the state is damaged
  device_lost,    // the accelerator context is poisoned: leave the process
  stopped,        // stopped on request; run again to go on
  deadline,  // a wait ran out of time (callers turn it into unrecoverable when nothing can be done)
  io,        // the operating system refused a file operation
  unavailable,  // not part of this build
  bug,
};

/// The process exit code for an error that reaches main.
int exit_code(Code code);

struct Error {
  Code code = Code::bug;
  std::string what;   // what went wrong, one line
  std::string where;  // file and line, key, rank, step
  std::string why;    // the value and the limit
  std::string fix;    // what the reader can do

  /// The four lines as shown to a person; empty parts are left out.
  std::string text() const;
};

template <typename T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(Error error) {
  return tl::unexpected<Error>(std::move(error));
}

/// Names this process in fatal messages ("rank 3"). Set once by main before any thread starts.
void set_process_label(std::string label);

/// Called with the exit code (70) before a failed check ends the process; set once by main.
void set_fatal_hook(void (*hook)(int code) noexcept);

[[noreturn]] void check_failed(const char* expression, const std::string& message,
                               std::source_location at);

}  // namespace elaswave

/// Always on. For bugs only, never for what a user or a peer can cause.
#define EW_CHECK(condition, ...)                                       \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::elaswave::check_failed(#condition, ::fmt::format(__VA_ARGS__), \
                               ::std::source_location::current());     \
  } while (false)

#ifdef NDEBUG
#define EW_DCHECK(condition, ...) \
  do {                            \
  } while (false)
#else
#define EW_DCHECK(condition, ...) EW_CHECK(condition, __VA_ARGS__)
#endif

#define EW_CONCAT_(a, b) a##b
#define EW_CONCAT(a, b) EW_CONCAT_(a, b)

/// Returns the error of a Result<void> expression from the enclosing function.
#define EW_TRY(expression)                                      \
  do {                                                          \
    if (auto ew_result = (expression); !ew_result) [[unlikely]] \
      return ::elaswave::fail(::std::move(ew_result).error());  \
  } while (false)

/// Declares `declaration` from the value of a Result<T> expression or returns its error.
// NOLINTBEGIN(bugprone-macro-parentheses): `declaration` declares, it cannot stand in parentheses
#define EW_ASSIGN(declaration, expression) \
  EW_ASSIGN_(EW_CONCAT(ew_result_, __LINE__), declaration, expression)
#define EW_ASSIGN_(name, declaration, expression)       \
  auto name = (expression);                             \
  if (!name) [[unlikely]]                               \
    return ::elaswave::fail(::std::move(name).error()); \
  declaration = *::std::move(name)
// NOLINTEND(bugprone-macro-parentheses)
