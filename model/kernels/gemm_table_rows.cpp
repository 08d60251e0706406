// The tuned rows of the program, as `elaswave tune` prints them (format: gemm_table.h). None has
// been measured yet: every product takes the library's first choice.
#include "model/kernels/gemm_table.h"

namespace elaswave::kernels {

std::string_view tuned_gemm_rows() {
  return R"(
)";
}

}  // namespace elaswave::kernels
