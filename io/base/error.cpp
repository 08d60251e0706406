#include "io/base/error.h"

#include <cstdio>
#include <cstdlib>

namespace elaswave {
namespace {

// Written once by main before threads start, read only on the way out.
std::string& process_label() {
  static std::string label;
  return label;
}

void (*&fatal_hook())(int) noexcept {
  static void (*hook)(int) noexcept = nullptr;
  return hook;
}

}  // namespace

int exit_code(Code code) {
  switch (code) {
    case Code::usage:
    case Code::unavailable:
      return 2;
    case Code::data:
    case Code::io:
      return 3;
    case Code::does_not_fit:
      return 4;
    case Code::non_finite:
      return 5;
    case Code::unrecoverable:
    case Code::deadline:
      return 6;
    case Code::excluded:
      return 7;
    case Code::not_durable:
      return 8;
    case Code::corrupt:
      return 9;
    case Code::device_lost:
      return 10;
    case Code::stopped:
      return 75;
    case Code::bug:
      return 70;
  }
  return 70;
}

std::string Error::text() const {
  std::string text = fmt::format("error: {}", what);
  if (!where.empty()) text += fmt::format("\n  where: {}", where);
  if (!why.empty()) text += fmt::format("\n  why:   {}", why);
  if (!fix.empty()) text += fmt::format("\n  fix:   {}", fix);
  return text;
}

void set_process_label(std::string label) {
  process_label() = std::move(label);
}

void set_fatal_hook(void (*hook)(int) noexcept) {
  fatal_hook() = hook;
}

void check_failed(const char* expression, const std::string& message, std::source_location at) {
  std::fprintf(stderr, "elaswave: bug%s%s: %s\n  check: %s\n  at: %s:%u in %s\n",
               process_label().empty() ? "" : " on ", process_label().c_str(), message.c_str(),
               expression, at.file_name(), at.line(), at.function_name());
  std::fflush(stderr);
  if (fatal_hook() != nullptr) fatal_hook()(70);
  std::_Exit(70);
}

}  // namespace elaswave
