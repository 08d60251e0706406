// The backend under test is the CPU behind glass: what passes here neither touches device memory
// from the host nor hands host memory to a kernel.
#include "tests/support/cpu_backend.h"

namespace elaswave::testing {

Result<std::unique_ptr<Backend>> make_backend() {
  return make_blind_backend(kernels::Isa::automatic);
}

}  // namespace elaswave::testing
