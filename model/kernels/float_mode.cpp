#include "model/kernels/float_mode.h"

#include <xmmintrin.h>

namespace elaswave::kernels {

void ensure_float_mode() {
  // MXCSR: bit 15 flushes results to zero, bit 6 reads denormals as zero, bits 13 and 14 pick the
  // rounding direction.
  constexpr unsigned kMode = (1u << 15) | (1u << 6) | (3u << 13);
  const unsigned state = _mm_getcsr();
  if ((state & kMode) != 0) [[unlikely]]
    _mm_setcsr(state & ~kMode);
}

}  // namespace elaswave::kernels
