// Which backups follow the log at a step, and which are filled during it. Pure; the same on all
// ranks, since it depends on the plan, on what was agreed to be missing and on the number of steps
// since.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "parallel/layout/plan.h"

namespace elaswave::replica {

/// One copy of a block beside the owner's.
struct Copy {
  std::int64_t block = 0;
  std::int32_t owner = 0, backup = 0;  // world ranks
  bool operator==(const Copy&) const = default;
};

class Followers {
 public:
  /// `missing`: copies of the plan whose backup holds nothing yet, in the order in which they are
  /// to be filled. `fill_elems`: at most so many elements are sent by an owner in one step, but
  /// always at least one block; 0: all at once.
  /// REQUIRES: every missing copy is one of the plan's, none twice.
  Followers(const layout::BlockTable& blocks, const layout::Plan& plan, std::vector<Copy> missing,
            std::int64_t fill_elems);

  /// Copies that follow the log of the step under way: those filled before and those filled during
  /// it. By (block, backup).
  const std::vector<Copy>& following() const { return following_; }
  /// Copies filled during the step under way: their state is sent before its update. By (block,
  /// backup).
  const std::vector<Copy>& filling() const { return filling_; }
  /// Still missing after the step under way.
  std::int64_t missing() const { return std::ssize(missing_); }
  /// True when every copy of the plan follows.
  bool complete() const { return missing() == 0 && filling_.empty(); }
  /// The step is committed: the next one begins.
  void advance();

 private:
  struct Missing {
    Copy copy;
    std::int64_t elems = 0;
  };
  void fill_next();

  std::vector<Copy> following_, filling_;
  std::vector<Missing> missing_;
  std::int64_t fill_elems_ = 0;
};

}  // namespace elaswave::replica
