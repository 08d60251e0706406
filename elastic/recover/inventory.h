// What each member tells the others after a change of view: where its state stands, what it holds,
// the newest commit record it knows and the layout it ran. All that recovery decides from. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/base/error.h"
#include "io/base/types.h"
#include "parallel/layout/plan.h"

namespace elaswave::recover {

struct RankInventory {
  std::int32_t world_rank = 0;
  Version version;                   // that all blocks held stand at
  Version record_version;            // of the newest commit record this rank knows; step 0: none
  std::vector<std::int64_t> record;  // the record, as its owner writes it
  Step reported{};                   // newest step this rank has told its observer
  Step durable{};                    // newest checkpoint this rank knows to be on disk; 0: none
  /// Its state has made room for a checkpoint's, which it has not loaded to the end.
  bool given_up = false;
  /// Its state is damaged, or a copy's is: no checkpoint of a later step may take its place.
  std::optional<Step> trusted;
  bool done = false;  // all is trained and told; only the end of the world is left
  /// The plan it ran, or was about to run, last: without routes, schedule, owners and backups.
  layout::Plan layout;
  std::vector<bool> whole;       // [block]: state held
  std::int64_t whole_elems = 0;  // of those blocks
  bool operator==(const RankInventory&) const = default;
};

std::vector<std::int64_t> to_words(const RankInventory& inventory);
/// ERRORS: Code::unrecoverable when the words are not an inventory.
Result<RankInventory> from_words(std::span<const std::int64_t> words);

/// The part of a plan that travels.
layout::Plan layout_of(const layout::Plan& plan);

}  // namespace elaswave::recover
