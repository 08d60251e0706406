#include "tests/support/blind_machine.h"
#include "tests/unit/owned_state_device.h"

namespace elaswave::optim {

Result<std::unique_ptr<app::RankDevice>> make_device_rank(const app::HostPart& host) {
  return ::elaswave::testing::make_slow_blind_rank(host);
}

}  // namespace elaswave::optim
