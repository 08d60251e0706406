// Small helpers on text shared by the option table and the subcommands. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace elaswave::app {

/// Levenshtein distance (insert, delete and replace cost 1) in bytes.
std::int64_t edit_distance(std::string_view a, std::string_view b);

/// The known word closest to `word` (the first of equals), or empty when none is close enough to be
/// what was meant: at most a third of the longer one's length, at least 2, may differ; a known
/// "section.key" whose key is exactly `word` always is close enough.
std::string nearest(std::string_view word, std::span<const std::string> known);

/// "did you mean X?" or, when nothing is near, `otherwise`.
std::string suggestion(std::string_view word, std::span<const std::string> known,
                       std::string_view otherwise);

/// "a, b, c"
std::string join(std::span<const std::string> words, std::string_view separator = ", ");

/// '-' becomes '_': both are accepted wherever a key is written.
std::string with_underscores(std::string_view key);

}  // namespace elaswave::app
