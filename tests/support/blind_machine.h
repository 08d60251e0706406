// A rank's CPU behind glass: the device of a rank whose memory host code cannot touch, for whole
// training runs.
#pragma once

#include "app/rank_device.h"

namespace elaswave::testing {

/// An app::MakeRankDevice.
Result<std::unique_ptr<app::RankDevice>> make_blind_rank(const app::HostPart& host);

/// As above, and the update of the shard, which waits for its log, takes a while.
Result<std::unique_ptr<app::RankDevice>> make_slow_blind_rank(const app::HostPart& host);

}  // namespace elaswave::testing
