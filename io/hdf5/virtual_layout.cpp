#include "io/hdf5/virtual_layout.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "io/base/types.h"

namespace elaswave::hdf5 {
namespace {

/// Consecutive elements that form a box.
struct Box {
  std::vector<Slab> slabs;
  std::int64_t elems = 0;
};

std::int64_t product(std::span<const std::int64_t> dims) {
  return std::accumulate(dims.begin(), dims.end(), std::int64_t{1}, std::multiplies<>());
}

/// Cuts the elements begin .. end - 1 into boxes, in order: what precedes the first whole row, the
/// whole rows, the rest; up to 2 a dim less one. `outer` selects single indices of the dims before.
void cut(std::span<const std::int64_t> dims, std::int64_t begin, std::int64_t end,
         std::vector<Slab> outer, std::vector<Box>& boxes) {
  if (begin == end) return;
  const std::int64_t row = product(dims.subspan(1));
  const std::int64_t first = begin / row, last = end / row;
  const auto descend = [&](std::int64_t index, std::int64_t from, std::int64_t to) {
    std::vector<Slab> inner = outer;
    inner.push_back({.start = index});
    cut(dims.subspan(1), from - index * row, to - index * row, std::move(inner), boxes);
  };
  if (begin % row != 0 && last == first) return descend(first, begin, end);
  const std::int64_t body = ceil_div(begin, row);
  if (begin % row != 0) descend(first, begin, body * row);
  if (body < last) {
    Box box{outer, (last - body) * row};
    box.slabs.push_back({.start = body, .block = last - body});
    for (const std::int64_t dim : dims.subspan(1)) box.slabs.push_back({.block = dim});
    boxes.push_back(std::move(box));
  }
  if (end % row != 0) descend(last, last * row, end);
}

/// `count` repetitions of consecutive elements, a whole number of rows apart.
struct Pattern {
  std::int64_t begin = 0;
  std::int64_t elems = 0;
  std::int64_t count = 1;
  std::int64_t stride_rows = 1;
  std::int64_t source_begin = 0;
  std::int64_t source_stride = 1;
};

void add_pattern(std::span<const std::int64_t> dims, const Pattern& pattern,
                 std::vector<Mapping>& mappings) {
  std::vector<Box> boxes;
  cut(dims, pattern.begin, pattern.begin + pattern.elems, {}, boxes);
  std::int64_t source = pattern.source_begin;
  for (Box& box : boxes) {
    box.slabs.front().count = pattern.count;
    if (pattern.count > 1) box.slabs.front().stride = pattern.stride_rows;
    Slab from{.start = source, .count = pattern.count, .block = box.elems};
    if (pattern.count > 1) from.stride = pattern.source_stride;
    if (from.stride == from.block && pattern.count > 1)
      from = {.start = source, .block = pattern.count * box.elems};
    source += box.elems;
    mappings.push_back({std::move(box.slabs), from});
  }
}

}  // namespace

std::vector<Mapping> virtual_mappings(std::span<const std::int64_t> dims,
                                      std::span<const ElementRun> runs, std::int64_t source_begin) {
  std::vector<Mapping> mappings;
  const std::int64_t row = product(dims.subspan(1));
  for (ElementRun run : runs) {
    if (run.stride == run.elems) run = {run.begin, run.elems * run.count, run.elems, 1};
    // Every `period`-th range begins at the same place in a row.
    const std::int64_t period = run.count == 1 ? 1 : row / std::gcd(row, run.stride);
    for (std::int64_t i = 0; i < std::min(period, run.count); ++i)
      add_pattern(dims,
                  {.begin = run.begin + i * run.stride,
                   .elems = run.elems,
                   .count = ceil_div(run.count - i, period),
                   .stride_rows = period * run.stride / row,
                   .source_begin = source_begin + i * run.elems,
                   .source_stride = period * run.elems},
                  mappings);
    source_begin += run.elems * run.count;
  }
  return mappings;
}

}  // namespace elaswave::hdf5
