// Elementary functions from plain arithmetic: glibc's pow, cos and log change bits with the CPU's
// features (measured), and the learning rate and the initial weights must not. Pure; no table, no
// library call but sqrt.
#pragma once

#include <cstdint>

namespace elaswave::optim {

/// base^exponent by repeated squaring. REQUIRES: exponent >= 0.
double power(double base, std::int64_t exponent);

/// cos(2 pi x), absolute error below 1e-15. REQUIRES: |x| < 2^50.
double cos_turns(double x);

/// sin(2 pi x), as above.
double sin_turns(double x);

/// Natural logarithm, relative error below 1e-14. REQUIRES: x a normal positive number.
double natural_log(double x);

}  // namespace elaswave::optim
