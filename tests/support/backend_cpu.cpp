// The backend under test is the CPU with one instruction set (ELASWAVE_TEST_ISA), since a process
// holds oneDNN to one.
#include "tests/support/cpu_backend.h"

namespace elaswave::testing {

Result<std::unique_ptr<Backend>> make_backend() {
  return make_cpu_backend(kernels::ELASWAVE_TEST_ISA);
}

}  // namespace elaswave::testing
