// The backend under test is CUDA: a device, or the emulator, whichever is linked in.
#include "tests/support/backend.h"

namespace elaswave::testing {

Result<std::unique_ptr<Backend>> make_backend() {
  return fail({.code = Code::unavailable, .what = "no CUDA operations in this build"});
}

}  // namespace elaswave::testing
