// The diagnostic log (stderr). The console table and step lines are app/console's; this is for
// events and warnings.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace elaswave {

enum class LogLevel { debug, info, warn, error };

/// Sets the level and the prefix ("rank 3"). Called once by main before threads start.
void configure_log(LogLevel level, std::string_view prefix);

/// THREADS: any.
void log_line(LogLevel level, std::string_view text);

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warn, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace elaswave
