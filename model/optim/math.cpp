#include "model/optim/math.h"

#include <bit>
#include <cmath>

namespace elaswave::optim {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kLn2 = 0.693147180559945309417;

// Taylor series on |a| <= pi/4, where eight terms leave less than 1e-17.
double sin_near_zero(double a) {
  const double s = a * a;
  double sum = -1.0 / 1307674368000.0;
  sum = sum * s + 1.0 / 6227020800.0;
  sum = sum * s - 1.0 / 39916800.0;
  sum = sum * s + 1.0 / 362880.0;
  sum = sum * s - 1.0 / 5040.0;
  sum = sum * s + 1.0 / 120.0;
  sum = sum * s - 1.0 / 6.0;
  return a + a * s * sum;
}

double cos_near_zero(double a) {
  const double s = a * a;
  double sum = 1.0 / 20922789888000.0;
  sum = sum * s - 1.0 / 87178291200.0;
  sum = sum * s + 1.0 / 479001600.0;
  sum = sum * s - 1.0 / 3628800.0;
  sum = sum * s + 1.0 / 40320.0;
  sum = sum * s - 1.0 / 720.0;
  sum = sum * s + 1.0 / 24.0;
  return 1.0 - 0.5 * s + s * s * sum;
}

}  // namespace

double power(double base, std::int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

double cos_turns(double x) {
  const double quarters =
      std::nearbyint(x * 4);  // exact: nearbyint rounds, the product by 4 is exact
  const double angle = (x - quarters * 0.25) * (2 * kPi);  // |angle| <= pi/4
  switch (static_cast<std::int64_t>(quarters) & 3) {
    case 0:
      return cos_near_zero(angle);
    case 1:
      return -sin_near_zero(angle);
    case 2:
      return -cos_near_zero(angle);
    default:
      return sin_near_zero(angle);
  }
}

double sin_turns(double x) {
  return cos_turns(x - 0.25);
}

double natural_log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  auto exponent = static_cast<std::int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u);  // [1, 2)
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 atanh(z), z = (m - 1) / (m + 1), |z| <= 0.1716: eleven odd terms leave less than
  // 1e-17.
  const double z = (m - 1) / (m + 1), s = z * z;
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * s + 1.0 / k;
  return static_cast<double>(exponent) * kLn2 + 2 * z * sum;
}

}  // namespace elaswave::optim
