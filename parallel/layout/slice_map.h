// Where the elements of a part lie in its canonical tensor: rows and columns of a row-major matrix
// that one slice of a tensor-parallel replica holds. Pure index math.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace elaswave::layout {

/// `count` runs of `elems` consecutive canonical elements, `stride` apart.
struct ElementRuns {
  std::int64_t begin = 0, elems = 0, stride = 0, count = 1;
  bool operator==(const ElementRuns&) const = default;
};

/// Rows [row_begin, row_begin + rows) and, of each of `groups` equal groups of columns, the columns
/// [col_begin, col_begin + cols) of that group. The part is dense: rows x (groups * cols).
struct SliceMap {
  std::int64_t canonical_cols = 0;
  std::int64_t row_begin = 0, rows = 0;
  std::int64_t groups = 1, col_begin = 0, cols = 0;

  std::int64_t elems() const { return rows * groups * cols; }
  /// True when the part's elements are consecutive in the canonical tensor.
  bool contiguous() const { return groups * cols == canonical_cols; }
  /// Canonical index of element `index` of the part.
  std::int64_t canonical(std::int64_t index) const;
  /// Elements of the part from `index` on that are consecutive in the canonical tensor too.
  std::int64_t run_length(std::int64_t index) const;
  /// Elements [begin, begin + elems) of the part as canonical runs, in the part's order; equal
  /// neighbours at equal distance are folded into one.
  std::vector<ElementRuns> runs(std::int64_t begin, std::int64_t elems) const;
  /// Calls visit(index, canonical, length) for each longest stretch of elements [begin, begin +
  /// elems) of the part, in order, that is consecutive in the canonical tensor too.
  template <typename Visit>
  void visit_runs(std::int64_t begin, std::int64_t elems, Visit visit) const {
    for (std::int64_t index = begin; index < begin + elems;) {
      const std::int64_t length = std::min(run_length(index), begin + elems - index);
      visit(index, canonical(index), length);
      index += length;
    }
  }
};

}  // namespace elaswave::layout
