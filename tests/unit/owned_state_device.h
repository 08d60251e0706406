// The device that owned_state_test runs on: one of the two files that define this is linked.
#pragma once

#include "app/rank_device.h"

namespace elaswave::optim {

/// An app::MakeRankDevice, of a device that hides its memory.
Result<std::unique_ptr<app::RankDevice>> make_device_rank(const app::HostPart& host);

}  // namespace elaswave::optim
