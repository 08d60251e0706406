// Layer norm against double precision.
#include <algorithm>
#include <cmath>
#include <utility>

#include "tests/reference/kernel_test.h"

namespace elaswave::kernels {
namespace {

constexpr float kEpsilon = 1e-5f;

template <typename Real>
struct Plain {
  std::int64_t N, C;
  std::vector<Real> x, gamma, beta;
  std::vector<Real> y = x, mean = std::vector<Real>(static_cast<std::size_t>(N)), rstd = mean;
  std::vector<Real> dx = x, dgamma = std::vector<Real>(gamma.size()), dbeta = dgamma;

  void forward() {
    for (std::int64_t n = 0; n < N; ++n) {
      const auto row = static_cast<std::size_t>(n), start = static_cast<std::size_t>(n * C);
      const auto cols = static_cast<std::size_t>(C);
      Real sum = 0, squares = 0;
      for (std::size_t c = 0; c < cols; ++c) sum += x[start + c];
      mean[row] = sum / static_cast<Real>(C);
      for (std::size_t c = 0; c < cols; ++c)
        squares += (x[start + c] - mean[row]) * (x[start + c] - mean[row]);
      rstd[row] = 1 / std::sqrt(squares / static_cast<Real>(C) + static_cast<Real>(kEpsilon));
      for (std::size_t c = 0; c < cols; ++c)
        y[start + c] = (x[start + c] - mean[row]) * rstd[row] * gamma[c] + beta[c];
    }
  }

  void backward(const std::vector<Real>& dy, const std::vector<Real>& dresidual) {
    for (std::int64_t n = 0; n < N; ++n) {
      const auto row = static_cast<std::size_t>(n), start = static_cast<std::size_t>(n * C);
      const auto cols = static_cast<std::size_t>(C);
      Real sum_g = 0, sum_gn = 0;
      const auto normal = [&](std::size_t c) { return (x[start + c] - mean[row]) * rstd[row]; };
      for (std::size_t c = 0; c < cols; ++c) {
        sum_g += dy[start + c] * gamma[c];
        sum_gn += dy[start + c] * gamma[c] * normal(c);
        dgamma[c] += dy[start + c] * normal(c);
        dbeta[c] += dy[start + c];
      }
      for (std::size_t c = 0; c < cols; ++c)
        dx[start + c] = dresidual[start + c] +
                        rstd[row] * (dy[start + c] * gamma[c] - sum_g / static_cast<Real>(C) -
                                     normal(c) * sum_gn / static_cast<Real>(C));
    }
  }
};

struct Inputs {
  std::int64_t N, C;
  std::vector<float> x, gamma, beta, dy, dresidual;
};
Inputs inputs(std::int64_t N, std::int64_t C, DType dtype) {
  Inputs in = {N,
               C,
               random_floats(N * C, 1, 2),
               random_floats(C, 2),
               random_floats(C, 3),
               random_floats(N * C, 4),
               random_floats(N * C, 5)};
  for (float& x : in.x) x += 1;  // a mean to take away
  for (auto* matrix : {&in.x, &in.dy, &in.dresidual}) *matrix = stored(*matrix, dtype);
  return in;
}

template <typename Real>
Plain<Real> plain_of(const Inputs& in) {
  Plain<Real> plain{in.N, in.C, converted<Real>(in.x), converted<Real>(in.gamma),
                    converted<Real>(in.beta)};
  plain.forward();
  plain.backward(converted<Real>(in.dy), converted<Real>(in.dresidual));
  return plain;
}

class NormTest : public StorageTest {
 protected:
  struct Results {
    std::vector<float> y, mean, rstd, dx;
    std::vector<std::int64_t> dgamma, dbeta;
    std::vector<double> dgamma_values, dbeta_values;
    bool guards = false, flagged = false;
  };
  enum class Residual { separate, in_place, none };
  Results run(Stream& stream, const Inputs& in, Residual residual, std::int64_t extra = 1) {
    const Place here = on(stream);
    const Padded x(here, in.x, in.N, in.C, 3 * extra), dy(here, in.dy, in.N, in.C, extra),
        dresidual(here, in.dresidual, in.N, in.C, 2 * extra);
    const DeviceVector<float> gamma(stream, in.gamma), beta(stream, in.beta);
    Padded y(here, in.N, in.C, 3 * extra), dx(here, in.dresidual, in.N, in.C, 3 * extra);
    DeviceVector<float> mean(stream, in.N, 0.0f), rstd(stream, in.N, 0.0f);
    Sums dgamma(stream, in.C), dbeta(stream, in.C);
    ops().layernorm_forward(stream, {.x_NC = x.view(),
                                     .gamma_C = gamma,
                                     .beta_C = beta,
                                     .y_NC = y.mat(),
                                     .mean_N = mean,
                                     .rstd_N = rstd,
                                     .epsilon = kEpsilon});
    const ConstMat base = residual == Residual::none       ? ConstMat{}
                          : residual == Residual::in_place ? ConstMat(dx.mat())
                                                           : dresidual.view();
    ops().layernorm_backward(stream, {.dy_NC = dy.view(),
                                      .x_NC = x.view(),
                                      .gamma_C = gamma,
                                      .mean_N = mean,
                                      .rstd_N = rstd,
                                      .dresidual_NC = base,
                                      .dx_NC = dx.mat(),
                                      .dgamma_C = dgamma.sink(true),
                                      .dbeta_C = dbeta.sink(false)});
    return {.y = y.values(),
            .mean = mean.get(),
            .rstd = rstd.get(),
            .dx = dx.values(),
            .dgamma = dgamma.exact(),
            .dbeta = dbeta.exact(),
            .dgamma_values = dgamma.values(),
            .dbeta_values = dbeta.values(),
            .guards = y.guards_intact() && dx.guards_intact(),
            .flagged = dgamma.raised() || dbeta.raised()};
  }
};
EW_FOR_STORAGE_TYPES(NormTest);

TEST_P(NormTest, matches_reference) {
  for (const auto& [N, C] :
       {std::pair<std::int64_t, std::int64_t>{113, 37}, {1, 1}, {70, 768}, {33, 203}, {5, 15}})
    for (const std::int64_t extra : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << N << " x " << C << " + " << extra);
      const Inputs in = inputs(N, C, dtype());
      const auto reference = plain_of<double>(in);
      const auto plain = plain_of<float>(in);
      const Results ours = run(stream(), in, Residual::separate, extra);
      EXPECT_TRUE(ours.guards);
      EXPECT_FALSE(ours.flagged);
      expect_accurate("y", ours.y, stored(plain.y), reference.y);
      expect_accurate("mean", ours.mean, plain.mean, reference.mean);
      expect_accurate("rstd", ours.rstd, plain.rstd, reference.rstd);
      expect_accurate("dx", ours.dx, stored(plain.dx), reference.dx);
      expect_accurate("dgamma", ours.dgamma_values, plain.dgamma, reference.dgamma);
      expect_accurate("dbeta", ours.dbeta_values, plain.dbeta, reference.dbeta);
    }
}

TEST_P(NormTest, residual_in_place_or_absent) {
  Inputs in = inputs(40, 50, dtype());
  const auto dx = [&](Residual residual) { return run(stream(), in, residual).dx; };
  EXPECT_EQ(dx(Residual::separate), dx(Residual::in_place));
  const std::vector<float> without = dx(Residual::none);
  std::fill(in.dresidual.begin(), in.dresidual.end(), 0.0f);
  EXPECT_EQ(dx(Residual::separate), without);
}

TEST(NormReference, gradient_is_the_derivative) {
  Inputs in = inputs(3, 9, DType::f32);
  std::fill(in.dresidual.begin(), in.dresidual.end(), 0.0f);
  const auto reference = plain_of<double>(in);
  const auto loss = [&](const std::vector<double>& x, const std::vector<double>& gamma,
                        const std::vector<double>& beta) {
    Plain<double> plain{in.N, in.C, x, gamma, beta};
    plain.forward();
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += plain.y[i] * static_cast<double>(in.dy[i]);
    return sum;
  };
  const auto& r = reference;
  expect_gradient("x", r.x, r.dx, [&](const auto& at) { return loss(at, r.gamma, r.beta); });
  expect_gradient("gamma", r.gamma, r.dgamma,
                  [&](const auto& at) { return loss(r.x, at, r.beta); });
  expect_gradient("beta", r.beta, r.dbeta, [&](const auto& at) { return loss(r.x, r.gamma, at); });
}

TEST_P(NormTest, same_bits_on_every_stream_and_stride) {
  const Inputs in = inputs(257, 300, dtype());
  expect_same_for_streams([&](Stream& stream, std::int64_t extra) {
    const Results r = run(stream, in, Residual::separate, extra);
    return bytes_of(r.y, r.mean, r.rstd, r.dx, r.dgamma, r.dbeta);
  });
}

TEST_P(NormTest, flags_what_is_not_finite) {
  Inputs in = inputs(4, 20, dtype());
  in.dy[7] = INFINITY;
  EXPECT_TRUE(run(stream(), in, Residual::separate).flagged);
}

}  // namespace
}  // namespace elaswave::kernels
