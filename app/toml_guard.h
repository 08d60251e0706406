// What must be known of a text before toml++ (3.3.0) may see it. Pure. Where the library is handed
// something else, its behaviour is undefined or, with assertions, the process ends:
//   is_non_ascii_horizontal_whitespace() declares unreachable what U+00A1 and many others reach
//   parse_value() looks for a date's time in what follows, and steps back further than it kept
//   every part of a dotted key is a table in the one before, and tables are destroyed recursively
//   parse_table_header() goes into parse_key(), parse_array() into parse_value() and
//   parse_date_time() into parse_time() with characters that those assert away
#pragma once

#include <string>
#include <string_view>

#include "io/base/error.h"

namespace elaswave::app {

/// Refuses, with line and column (in characters, as toml++ counts):
///   - bytes that are not UTF-8, and control characters but tab, LF and CR before LF
///   - characters outside ASCII outside of strings and comments; a byte order mark may come first
///   - in a multi-line basic string, characters outside ASCII next after a backslash, or after the
///     white space that a line-ending backslash removes: the one thing here that is valid TOML
///   - quotes, brackets and the like in the middle of a word; words of more than 100 characters
///   - dates followed by T or a digit that begin no time
///   - keys of more than 16 parts
///   - table headers that do not begin with a key, and '}' in place of a value or key
/// Whatever else is wrong is left to the library. `path` is for errors. ERRORS: Code::usage.
Result<void> check_toml(std::string_view text, const std::string& path);

}  // namespace elaswave::app
