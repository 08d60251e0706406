#include "parallel/layout/slice_map.h"

namespace elaswave::layout {

std::int64_t SliceMap::canonical(std::int64_t index) const {
  const std::int64_t width = groups * cols;
  const std::int64_t row = index / width, col = index % width;
  const std::int64_t group_cols = canonical_cols / groups;
  return (row_begin + row) * canonical_cols + col / cols * group_cols + col_begin + col % cols;
}

std::int64_t SliceMap::run_length(std::int64_t index) const {
  if (contiguous()) return elems() - index;
  return cols - index % cols;
}

std::vector<ElementRuns> SliceMap::runs(std::int64_t begin, std::int64_t elems) const {
  std::vector<ElementRuns> runs;
  visit_runs(begin, elems, [&runs](std::int64_t, std::int64_t from, std::int64_t length) {
    if (!runs.empty() && runs.back().elems == length) {
      ElementRuns& last = runs.back();
      if (last.count == 1) last.stride = from - last.begin;
      if (from == last.begin + last.count * last.stride) {
        ++last.count;
        return;
      }
    }
    runs.push_back({from, length, length, 1});
  });
  return runs;
}

}  // namespace elaswave::layout
