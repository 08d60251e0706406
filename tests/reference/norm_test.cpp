// Layer norm against double precision.
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
Inputs inputs(std::int64_t N, std::int64_t C) {
  Inputs in = {N,
               C,
               random_floats(N * C, 1, 2),
               random_floats(C, 2),
               random_floats(C, 3),
               random_floats(N * C, 4),
               random_floats(N * C, 5)};
  for (float& x : in.x) x += 1;  // a mean to take away
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

class NormTest : public KernelTest {
 protected:
  struct Results {
    std::vector<float> y, mean, rstd, dx;
    std::vector<std::int64_t> dgamma, dbeta;
    std::vector<float> dgamma_values, dbeta_values;
    bool guards = false, flagged = false;
  };
  enum class Residual { separate, in_place, none };
  Results run(const Inputs& in, int threads, Residual residual) {
    device::CpuStream stream(threads);
    const Padded x(in.x, in.N, in.C), dy(in.dy, in.N, in.C, 1),
        dresidual(in.dresidual, in.N, in.C, 2);
    Padded y(in.N, in.C), dx = residual == Residual::in_place ? dresidual : Padded(in.N, in.C);
    ExactSums dgamma(in.C), dbeta(in.C);
    Results r;
    r.mean.resize(static_cast<std::size_t>(in.N));
    r.rstd = r.mean;
    ops().layernorm_forward(stream, {.x_NC = x.view(),
                                     .gamma_C = in.gamma,
                                     .beta_C = in.beta,
                                     .y_NC = y.mat(),
                                     .mean_N = r.mean,
                                     .rstd_N = r.rstd,
                                     .epsilon = kEpsilon});
    const ConstMat base = residual == Residual::none       ? ConstMat{}
                          : residual == Residual::in_place ? ConstMat(dx.mat())
                                                           : dresidual.view();
    ops().layernorm_backward(stream, {.dy_NC = dy.view(),
                                      .x_NC = x.view(),
                                      .gamma_C = in.gamma,
                                      .mean_N = r.mean,
                                      .rstd_N = r.rstd,
                                      .dresidual_NC = base,
                                      .dx_NC = dx.mat(),
                                      .dgamma_C = dgamma.sink(true),
                                      .dbeta_C = dbeta.sink(false)});
    r.y = y.values();
    r.dx = dx.values();
    r.dgamma = dgamma.sums;
    r.dbeta = dbeta.sums;
    r.dgamma_values = dgamma.values();
    r.dbeta_values = dbeta.values();
    r.guards = y.guards_intact() && dx.guards_intact();
    r.flagged = dgamma.flag.bad != 0 || dbeta.flag.bad != 0;
    return r;
  }
};

TEST_F(NormTest, matches_reference) {
  for (const auto& [N, C] :
       {std::pair<std::int64_t, std::int64_t>{113, 37}, {1, 1}, {70, 768}, {33, 203}, {5, 15}}) {
    SCOPED_TRACE(testing::Message() << N << " x " << C);
    const Inputs in = inputs(N, C);
    const auto reference = plain_of<double>(in);
    const auto plain = plain_of<float>(in);
    const Results ours = run(in, 2, Residual::separate);
    EXPECT_TRUE(ours.guards);
    EXPECT_FALSE(ours.flagged);
    expect_accurate("y", ours.y, plain.y, reference.y);
    expect_accurate("mean", ours.mean, plain.mean, reference.mean);
    expect_accurate("rstd", ours.rstd, plain.rstd, reference.rstd);
    expect_accurate("dx", ours.dx, plain.dx, reference.dx);
    expect_accurate("dgamma", ours.dgamma_values, plain.dgamma, reference.dgamma);
    expect_accurate("dbeta", ours.dbeta_values, plain.dbeta, reference.dbeta);
  }
}

TEST_F(NormTest, residual_in_place_or_absent) {
  Inputs in = inputs(40, 50);
  EXPECT_EQ(run(in, 1, Residual::separate).dx, run(in, 1, Residual::in_place).dx);
  const std::vector<float> without = run(in, 1, Residual::none).dx;
  std::fill(in.dresidual.begin(), in.dresidual.end(), 0.0f);
  EXPECT_EQ(run(in, 1, Residual::separate).dx, without);
}

TEST_F(NormTest, reference_gradient_is_the_derivative) {
  Inputs in = inputs(3, 9);
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

TEST_F(NormTest, same_bits_for_any_thread_count) {
  const Inputs in = inputs(257, 300);
  const Results first = run(in, 1, Residual::separate);
  for (const int threads : {2, 3, 4, 8}) {
    const Results r = run(in, threads, Residual::separate);
    EXPECT_TRUE(bytes_of(r.y, r.mean, r.rstd, r.dx, r.dgamma, r.dbeta) ==
                bytes_of(first.y, first.mean, first.rstd, first.dx, first.dgamma, first.dbeta))
        << threads;
  }
}

TEST_F(NormTest, flags_what_is_not_finite) {
  Inputs in = inputs(4, 20);
  in.dy[7] = INFINITY;
  EXPECT_TRUE(run(in, 1, Residual::separate).flagged);
}

}  // namespace
}  // namespace elaswave::kernels
