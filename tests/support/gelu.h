// GELU as published (ops.h names the source), in any precision.
#pragma once

#include <cmath>

namespace elaswave::testing {

template <typename Real>
Real gelu(Real x) {
  const Real u =
      static_cast<Real>(std::sqrt(2.0 / M_PI)) * (x + static_cast<Real>(0.044715) * x * x * x);
  return static_cast<Real>(0.5) * x * (1 + std::tanh(u));
}
template <typename Real>
Real gelu_slope(Real x) {
  const Real root = static_cast<Real>(std::sqrt(2.0 / M_PI)), cubic = static_cast<Real>(0.044715);
  const Real t = std::tanh(root * (x + cubic * x * x * x));
  return static_cast<Real>(0.5) * (1 + t) +
         static_cast<Real>(0.5) * x * (1 - t * t) * root * (1 + 3 * cubic * x * x);
}

}  // namespace elaswave::testing
