// What the logs of this folder share: JSON written so that it reads back exactly, and files of
// lines that are replaced whole. For the .cpp files of io/metrics only.
#pragma once

#include <string>
#include <string_view>

#include "io/base/file.h"

namespace elaswave::metrics {

/// ,"name":value - in the fewest digits that read back to the same double. One that JSON cannot
/// hold is null, with ,"name_text":"nan" (or "inf", "-inf") after it. No locale enters.
void add_number_field(std::string& json, std::string_view name, double value);

/// A text between quotes. Bytes that are no UTF-8 become U+FFFD: a name from the system may hold
/// anything, and a line must stay readable.
std::string json_text(std::string_view text);

Result<std::string> read_whole(const File& file);
Result<std::string> read_whole(const std::string& path);
/// Empty when there is no such file.
Result<std::string> read_whole_or_nothing(const std::string& path);

/// A new file with that text under the name, open for more at its end.
Result<File> replace_whole(const std::string& path, std::string_view text);

}  // namespace elaswave::metrics
