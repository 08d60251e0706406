// What to do with the state after a change of view: decided by every member for itself from the
// table of inventories, which all have in common. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "elastic/plan/recovery.h"
#include "elastic/recover/inventory.h"

namespace elaswave::recover {

struct Choice {
  /// Where training goes on from: the newest step that anybody knows to be committed.
  Version version;
  /// Its record, for members that stand one step before it and roll forward from their log. Empty:
  /// all stand there already.
  std::vector<std::int64_t> record;
  /// What every member has told its observer; the report of a later step is made again.
  Step reported{};
  Step durable{};
  /// A member has given up its state for a checkpoint's and was interrupted, or knows that the
  /// state is damaged: all members load one. What is said of version and record means nothing then.
  bool given_up = false;
  /// Of the checkpoint that is loaded, when any member knows of damage: its step at most.
  std::optional<Step> trusted;
  bool done = false;      // a member has come to the end: nothing is trained again
  layout::Plan previous;  // the newest that any member ran or was about to run
  plan::Holdings holdings;
};

/// The rule of log before apply: whoever holds the record of C(v) may apply v, since every gradient
/// of v is in the logs of owners and copies; if nobody alive holds it, nobody has changed.
/// ERRORS: Code::unrecoverable when a member stands more than one step before the choice, or ahead
/// of every record: no state that this program leaves behind.
Result<Choice> choose(std::span<const RankInventory> table);

/// As if every member held every block: what the plan is made from when a checkpoint gives each of
/// them what it is to have.
plan::Holdings all_whole(const plan::Holdings& holdings);

}  // namespace elaswave::recover
