// Owners, copies and rows of a plan whose layout is found, and whether it fits into memory.
// Internal to this folder.
#pragma once

#include <optional>

#include "elastic/plan/recovery_holders.h"

namespace elaswave::plan {

/// Keeps references to its arguments.
class Finisher {
 public:
  Finisher(const layout::BlockTable& blocks, const RecoveryRequest& request, const Holders& holders)
      : blocks_(blocks), request_(request), holders_(holders) {}

  /// Completes a plan of which layout, stages, routes and spares are set, and says what must move
  /// for it; false when some rank lacks the memory. Rows are those of the schedule asked for, where
  /// it can be had, else the fastest; where those take too much, the next fastest.
  /// ERRORS: of make_rows(), Code::bug.
  Result<bool> finish(RecoveryPlan& made);

  /// Code::unrecoverable, with the rank that was least beyond its budget. REQUIRES: finish() was
  /// false.
  Error too_large() const;

 private:
  Result<bool> try_rows(const Maker& maker, RecoveryPlan& made);

  const layout::BlockTable& blocks_;
  const RecoveryRequest& request_;
  const Holders& holders_;
  std::optional<Shortage> least_;  // of all that was tried
};

}  // namespace elaswave::plan
