#include "app/rank_device_cuda.h"
#include "tests/unit/owned_state_device.h"

namespace elaswave::optim {

Result<std::unique_ptr<app::RankDevice>> make_device_rank(const app::HostPart& host) {
  return app::make_cuda_rank(host, 0, 0, nullptr);
}

}  // namespace elaswave::optim
