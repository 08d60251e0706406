// Time of each CPU operation that is not a matrix product, at the shapes of GPT-2 124M, B = 4, T =
// 256.
//
// Metric: best of several runs (the machine is shared; the best is the least disturbed), bytes =
// what an operation must read and write at least once, each array counted once, and share = bytes /
// time over the triad bandwidth a[i] = b[i] + s * c[i] of the same run and thread count (12 bytes
// an element, arrays of 256 MiB). Operands that fit the caches can exceed 100 %. Attention counts
// the FLOPs of the causal half: 4 T^2 D / 2 a head forward, 10 T^2 D / 2 backward; its share is of
// the peak a loop of fma on registers reaches.
//
// Usage: kernel_bench [threads] [avx2|avx512]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string_view>
#include <vector>

#include "io/base/clock.h"
#include "io/base/philox.h"
#include "model/kernels/cpu_ops.h"

namespace elaswave::kernels {
namespace {

constexpr std::int64_t kB = 4, kT = 256, kH = 12, kC = 768, kN = kB * kT, kV = 50257;

double best_seconds(const std::function<void()>& body) {
  const RealClock clock;
  body();  // first touch, scratch
  double best = 1e9;
  const Nanoseconds begin = clock.now();
  for (int run = 0; run < 200 && (run < 5 || clock.now() - begin < kSecond / 3); ++run) {
    const Nanoseconds start = clock.now();
    body();
    best = std::min(best, 1e-9 * static_cast<double>(clock.now() - start));
  }
  return best;
}

std::vector<float> filled(std::int64_t n, float scale = 1) {
  std::vector<float> values(static_cast<std::size_t>(n));
  const RandomStream stream = random_stream(1, RandomUse::test);
  for (std::size_t i = 0; i < values.size(); i += 4) {
    const auto words = philox(stream, i / 4);
    for (std::size_t j = 0; j < 4 && i + j < values.size(); ++j)
      values[i + j] = scale * (2 * uniform01(words[j]) - 1);
  }
  return values;
}

// GB/s of a[i] = b[i] + s * c[i].
double triad(device::CpuStream& stream) {
  constexpr std::int64_t kElems = 64 << 20, kPiece = 1 << 20;
  device::Buffer a(kElems * 4), b(kElems * 4), c(kElems * 4);
  float *pa = a.as<float>().data(), *pb = b.as<float>().data(), *pc = c.as<float>().data();
  const double seconds = best_seconds([&] {
    stream.pool().run(kElems / kPiece, [&](std::int64_t task) {
      for (std::int64_t i = task * kPiece; i < (task + 1) * kPiece; ++i)
        pa[i] = pb[i] + 3.0f * pc[i];
    });
  });
  return 12e-9 * static_cast<double>(kElems) / seconds;
}

class Bench {
 public:
  Bench(Ops& ops, int threads) : ops_(ops), stream_(threads), bandwidth_(triad(stream_)) {
    fmt::print("{}; {} threads; triad {:.1f} GB/s\n", ops.numeric_class(), threads, bandwidth_);
    fmt::print("{:<34}{:>10}{:>10}{:>9}{:>8}{:>10}\n", "operation", "ms", "MB", "GB/s", "share",
               "GFLOP/s");
  }

  void report(std::string_view what, double bytes, double flops,
              const std::function<void()>& body) {
    const double seconds = best_seconds(body), rate = 1e-9 * bytes / seconds;
    fmt::print("{:<34}{:>10.3f}{:>10.1f}{:>9.1f}{:>7.0f}%", what, 1e3 * seconds, 1e-6 * bytes, rate,
               100 * rate / bandwidth_);
    if (flops > 0) fmt::print("{:>10.1f}", 1e-9 * flops / seconds);
    fmt::print("\n");
  }

  void element_wise();
  void norm();
  void embedding();
  void attention(std::int64_t B, std::int64_t T, float rate);
  void optimizer();

 private:
  static ConstMat view(const std::vector<float>& values, std::int64_t cols) {
    return device::mat(std::span<const float>(values), std::ssize(values) / cols, cols);
  }
  static Mat view(std::vector<float>& values, std::int64_t cols) {
    return device::mat(std::span<float>(values), std::ssize(values) / cols, cols);
  }

  Ops& ops_;
  device::CpuStream stream_;
  double bandwidth_;
};

std::vector<RandomStream> streams(std::int64_t B) {
  std::vector<RandomStream> all;
  for (std::int64_t b = 0; b < B; ++b)
    all.push_back(random_stream(1, RandomUse::test, static_cast<std::uint64_t>(b)));
  return all;
}

void Bench::element_wise() {
  const auto x = filled(kN * 4 * kC, 4), dy = filled(kN * 4 * kC);
  std::vector<float> y(x.size());
  const double wide = 4e0 * kN * 4 * kC, narrow = 4e0 * kN * kC;
  report("gelu forward", 2 * wide, 0, [&] {
    ops_.gelu_forward(stream_, {view(x, 4 * kC), view(y, 4 * kC)});
  });
  report("gelu backward", 3 * wide, 0, [&] {
    ops_.gelu_backward(stream_, {view(x, 4 * kC), view(dy, 4 * kC), view(y, 4 * kC)});
  });
  const auto a = filled(kN * kC), b = filled(kN * kC);
  std::vector<float> out(a.size());
  const auto s = streams(kB);
  for (const float rate : {0.0f, 0.1f}) {
    const Dropout dropout = {rate, s};
    report(fmt::format("residual forward, dropout {}", rate), 3 * narrow, 0, [&] {
      ops_.residual_forward(stream_, {view(a, kC), view(b, kC), kT, dropout, view(out, kC)});
    });
    report(fmt::format("residual backward, dropout {}", rate), 2 * narrow, 0, [&] {
      ops_.residual_backward(stream_, {view(a, kC), kT, dropout, view(out, kC)});
    });
  }
}

void Bench::norm() {
  const auto x = filled(kN * kC), dy = filled(kN * kC), residual = filled(kN * kC),
             gamma = filled(kC), beta = gamma;
  std::vector<float> y(x.size()), mean(kN), rstd(kN);
  std::vector<std::int64_t> dgamma(kC), dbeta(kC);
  RangeFlag flag;
  const auto sink = [&](std::vector<std::int64_t>& sums) {
    return GradSink{
        .exact = sums.data(), .elems = kC, .overwrite = true, .limit = 32768, .flag = &flag};
  };
  const double array = 4e0 * kN * kC;
  report("layer norm forward", 2 * array, 0, [&] {
    ops_.layernorm_forward(stream_, {view(x, kC), gamma, beta, view(y, kC), mean, rstd, 1e-5f});
  });
  report("layer norm backward", 4 * array, 0, [&] {
    ops_.layernorm_backward(stream_, {view(dy, kC), view(x, kC), gamma, mean, rstd,
                                      view(residual, kC), view(y, kC), sink(dgamma), sink(dbeta)});
  });
}

void Bench::embedding() {
  const auto wte = filled(kV * kC), wpe = filled(1024 * kC), dx = filled(kN * kC);
  std::vector<float> x(dx.size());
  std::vector<std::int32_t> ids(kN);
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(mix64(i) % static_cast<std::uint64_t>(kV));
  const auto s = streams(kB);
  device::Buffer dwte(kV * kC * 8), dwpe(1024 * kC * 8);
  RangeFlag flag;
  const auto sink = [&](device::Buffer& sums, bool overwrite) {
    return GradSink{.exact = sums.as<std::int64_t>().data(),
                    .elems = sums.size_bytes() / 8,
                    .overwrite = overwrite,
                    .limit = 32768,
                    .flag = &flag};
  };
  const Dropout dropout = {0.1f, s};
  const double array = 4e0 * kN * kC;
  report("embedding forward, dropout 0.1", 3 * array, 0, [&] {
    ops_.embedding_forward(stream_, {ids, view(wte, kC), view(wpe, kC), kT, dropout, view(x, kC)});
  });
  report("embedding backward, dropout 0.1", array + 4 * array, 0, [&] {
    ops_.embedding_backward(stream_,
                            {ids, view(dx, kC), kT, dropout, sink(dwte, false), sink(dwpe, false)});
  });
  report("embedding backward, overwrite", array + 8.0 * kV * kC, 0, [&] {
    ops_.embedding_backward(stream_,
                            {ids, view(dx, kC), kT, {}, sink(dwte, true), sink(dwpe, true)});
  });
}

void Bench::attention(std::int64_t B, std::int64_t T, float rate) {
  const std::int64_t N = B * T;
  const auto qkv = filled(N * 3 * kC, 2), dout = filled(N * kC);
  std::vector<float> out(dout.size()), lse(static_cast<std::size_t>(N * kH)), dqkv(qkv.size());
  const auto s = streams(B);
  const Dropout dropout = {rate, s};
  const double array = 4e0 * static_cast<double>(N) * kC;
  const double unit = static_cast<double>(B) * static_cast<double>(T) * static_cast<double>(T) * kC;
  const std::string shape = fmt::format(" B{} T{} dropout {}", B, T, rate);
  report("attention fwd" + shape, 4 * array, 2 * unit, [&] {
    ops_.attention_forward(stream_, {view(qkv, 3 * kC), T, kH, dropout, view(out, kC), lse});
  });
  report("attention bwd" + shape, 8 * array, 5 * unit, [&] {
    ops_.attention_backward(stream_, {view(qkv, 3 * kC), view(out, kC), view(dout, kC), lse, T, kH,
                                      dropout, view(dqkv, 3 * kC)});
  });
}

void Bench::optimizer() {
  constexpr std::int64_t kElems = 32 << 20, kBlock = 16384;
  device::Buffer master(kElems * 4), m(kElems * 4), v(kElems * 4), grad(kElems * 4),
      working(kElems * 4);
  device::Buffer sums(kElems * 8);
  std::vector<AdamW> updates;
  std::vector<MeanGradient> means;
  std::vector<std::span<const float>> ranges;
  const AdamWScalars scalars = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1, 1};
  for (std::int64_t first = 0; first < kElems; first += kBlock) {
    const auto part = [&](device::Buffer& all) {
      return all.as<float>().subspan(static_cast<std::size_t>(first), kBlock);
    };
    updates.push_back({part(master), part(m), part(v), part(grad), scalars,
                       working.data() + first * 4, DType::f32});
    means.push_back({sums.as<std::int64_t>().subspan(static_cast<std::size_t>(first), kBlock),
                     {},
                     1e-12,
                     part(grad)});
    ranges.emplace_back(part(grad));
  }
  std::vector<double> squares(ranges.size());
  std::vector<std::uint64_t> keys(ranges.size()), digests(ranges.size());
  const double array = 4.0 * kElems;
  report("adamw, 32 Mi elements", 8 * array, 0, [&] { ops_.adamw(stream_, updates); });
  report("mean gradient", 3 * array, 0, [&] { ops_.mean_gradient(stream_, means); });
  report("sum of squares", array, 0, [&] { ops_.sum_squares(stream_, ranges, squares); });
  report("digest", array, 0, [&] { ops_.digest(stream_, ranges, keys, digests); });
}

int run(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::string_view isa = argc > 2 ? argv[2] : "auto";
  auto ops = make_cpu_ops(isa == "avx2"     ? Isa::avx2
                          : isa == "avx512" ? Isa::avx512
                                            : Isa::automatic);
  if (threads < 1 || !ops) {
    fmt::print(stderr, "{}\n",
               ops ? "usage: kernel_bench [threads] [avx2|avx512]" : ops.error().text());
    return 2;
  }
  Bench bench(**ops, threads);
  bench.attention(kB, kT, 0);
  bench.attention(kB, kT, 0.1f);
  bench.attention(kB, 1024, 0);
  bench.element_wise();
  bench.norm();
  bench.embedding();
  bench.optimizer();
  return 0;
}

}  // namespace
}  // namespace elaswave::kernels

int main(int argc, char** argv) {
  return elaswave::kernels::run(argc, argv);
}
