#include "tests/gpu/repeat_device.h"

namespace elaswave::test {

Result<std::unique_ptr<RepeatDevice>> make_repeat_cuda(const app::HostPart&) {
  return fail({Code::unavailable, "this build has no CUDA", "", "", ""});
}

}  // namespace elaswave::test
