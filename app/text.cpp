#include "app/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace elaswave::app {

std::int64_t edit_distance(std::string_view a, std::string_view b) {
  // One row of the dynamic program: row[j] = distance between the first i bytes of a and j of b.
  std::vector<std::int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::int64_t diagonal = row[0];
    row[0] = static_cast<std::int64_t>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::int64_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replace, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string nearest(std::string_view word, std::span<const std::string> known) {
  std::string best;
  std::int64_t best_distance = 0;
  for (const std::string& candidate : known) {
    if (!word.empty() && candidate.ends_with(fmt::format(".{}", word))) return candidate;
    const std::int64_t distance = edit_distance(word, candidate);
    const auto longer = static_cast<std::int64_t>(std::max(word.size(), candidate.size()));
    if (distance > std::max<std::int64_t>(2, longer / 3) || distance >= longer) continue;
    if (best.empty() || distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string suggestion(std::string_view word, std::span<const std::string> known,
                       std::string_view otherwise) {
  const std::string near = nearest(word, known);
  return near.empty() ? std::string(otherwise) : fmt::format("did you mean {}?", near);
}

std::string join(std::span<const std::string> words, std::string_view separator) {
  return fmt::format("{}", fmt::join(words, separator));
}

std::string with_underscores(std::string_view key) {
  std::string text(key);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

}  // namespace elaswave::app
