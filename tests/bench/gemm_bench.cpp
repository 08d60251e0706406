// Metric: GFLOP/s of each matrix product of GPT-2 124M, ours over the GEMM library's own speed in
// the same run (one whole product as a single-threaded call on each thread), and what exact sums
// cost over f32 ones. Usage: gemm_bench [threads = 2] [tokens = 1024] [rounds = 5]; the two sides
// alternate, the best round of each counts.
#include <dnnl.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "model/kernels/linear_cpu.h"
#include "tests/support/kernel_testing.h"

namespace elaswave::kernels {
namespace {

using device::Buffer;

struct Options {
  int threads = 2;
  std::int64_t tokens = 1024;
  int rounds = 5;
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Best times of several pieces of work that take turns, so that a change of clock speed meets all
// of them.
std::vector<double> best_seconds(int rounds, const std::vector<std::function<void()>>& works) {
  std::vector<double> best(works.size(), std::numeric_limits<double>::max());
  for (int round = 0; round < rounds + 1; ++round)
    for (std::size_t i = 0; i < works.size(); ++i) {
      const double seconds = seconds_of(works[i]);
      if (round > 0) best[i] = std::min(best[i], seconds);  // the first one warms up
    }
  return best;
}

class Inputs {
 public:
  explicit Inputs(std::int64_t elems) : buffer_(elems * 4) {
    const std::vector<float> block = testing::random_values(4099, "bench", 0.05f);
    std::span<float> values = buffer_.as<float>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = block[i % block.size()];
  }
  device::Mat mat(std::int64_t rows, std::int64_t cols) {
    return device::mat(buffer_.as<float>(), rows, cols);
  }

 private:
  Buffer buffer_;
};

struct Case {
  std::string name;
  Product product;
  std::int64_t M, N, K;
};

std::vector<Case> cases(std::int64_t tokens) {
  constexpr std::int64_t C = 768, V = 50257;
  std::vector<Case> list;
  struct Layer {
    const char* name;
    std::int64_t in, out;
  };
  for (const Layer layer :
       {Layer{"qkv", C, 3 * C}, {"proj", C, C}, {"up", C, 4 * C}, {"down", 4 * C, C}}) {
    list.push_back(
        {std::string("forward ") + layer.name, Product::nn, tokens, layer.out, layer.in});
    list.push_back(
        {std::string("dX      ") + layer.name, Product::nt, tokens, layer.in, layer.out});
    list.push_back(
        {std::string("dW      ") + layer.name, Product::tn, layer.in, layer.out, tokens});
  }
  const std::int64_t chunk = std::min(tokens, kCpuLossChunkTokens);
  list.push_back({"head forward", Product::nt, chunk, V, C});
  list.push_back({"head dX", Product::nn, chunk, C, V});
  list.push_back({"head dW", Product::tn, V, C, chunk});
  return list;
}

// One library call for the whole product on each thread, results side by side.
void raw_library(device::CpuStream& stream, const Gemm& gemm, float* c) {
  stream.pool().run(stream.pool().threads(), [&](std::int64_t copy) {
    omp_set_num_threads(1);
    dnnl_sgemm(gemm.product == Product::tn ? 'T' : 'N', gemm.product == Product::nt ? 'T' : 'N',
               gemm.M, gemm.N, gemm.K, 1.0f, gemm.a.f32(), gemm.a.stride, gemm.b.f32(),
               gemm.b.stride, 0.0f, c + copy * gemm.M * gemm.N, gemm.N);
  });
}

void bench_products(const Options& options, const GemmSimd& simd) {
  testing::CpuBench bench(options.threads, simd);
  const CpuContext& context = bench.context();
  fmt::print("{:<13} {:>18} {:>15} {:>9} {:>9} {:>7} {:>9} {:>9}\n", "product", "M x N x K",
             "tiles", "library", "ours", "share", "exact sum", "f32 sum");
  double flops_all = 0, library_all = 0, ours_all = 0;
  for (const Case& one : cases(options.tokens)) {
    Inputs a(one.M * one.K), b(one.N * one.K);
    const bool at = one.product == Product::tn, bt = one.product == Product::nt;
    const Gemm args = gemm_of(one.product, at ? a.mat(one.K, one.M) : a.mat(one.M, one.K),
                              bt ? b.mat(one.N, one.K) : b.mat(one.K, one.N));
    Buffer c(options.threads * one.M * one.N * 4);
    const device::Mat c_MN = device::mat(c.as<float>(), one.M, one.N);
    Buffer exact(at ? one.M * one.N * 8 : 0);
    RangeFlag flag;
    const GradSink exact_sink = {.exact = exact.as<std::int64_t>().data(),
                                 .elems = one.M * one.N,
                                 .limit = 1024,
                                 .flag = &flag};
    const GradSink fast_sink = {
        .fast = c.as<float>().data(), .elems = one.M * one.N, .flag = &flag};
    std::vector<std::function<void()>> works = {
        [&] { raw_library(context.stream, args, c.as<float>().data()); },
        [&] { gemm(context, args, c_MN); }};
    if (at) {
      works.push_back([&] { gemm_into_sink(context, args, exact_sink); });
      works.push_back([&] { gemm_into_sink(context, args, fast_sink); });
    }
    const std::vector<double> best = best_seconds(options.rounds, works);
    const double flops =
        2.0 * static_cast<double>(one.M) * static_cast<double>(one.N) * static_cast<double>(one.K);
    const double library =
        best[0] / options.threads;  // seconds of one product when all threads do one each
    const double ours = at ? best[3] : best[1];  // weight gradients always end in a sum
    flops_all += flops, library_all += library, ours_all += ours;
    const Tiling tiling = gemm_tiling(one.M, one.N, one.K);
    fmt::print("{:<13} {:>18} {:>15} {:>9.1f} {:>9.1f} {:>6.1f}%", one.name,
               fmt::format("{}x{}x{}", one.M, one.N, one.K),
               fmt::format("{}*{}x{}", tiling.tiles(), tiling.tile_rows, tiling.tile_cols),
               flops / library / 1e9, flops / best[1] / 1e9, 100 * library / best[1]);
    if (at) fmt::print(" {:>9.1f} {:>9.1f}", flops / best[2] / 1e9, flops / best[3] / 1e9);
    fmt::print("\n");
  }
  fmt::print(
      "all, f32 sums included: library {:.1f} GFLOP/s, ours {:.1f} GFLOP/s, share {:.1f} %\n",
      flops_all / library_all / 1e9, flops_all / ours_all / 1e9, 100 * library_all / ours_all);
}

void bench_head(const Options& options, const GemmSimd& simd) {
  constexpr std::int64_t C = 768, V = 50257;
  const std::int64_t N = options.tokens;
  testing::CpuBench bench(options.threads, simd);
  Inputs x(N * C), w(V * C);
  Buffer dx(N * C * 4), exact(V * C * 8), fast(V * C * 4);
  std::vector<std::int32_t> targets(static_cast<std::size_t>(N));
  for (std::size_t i = 0; i < targets.size(); ++i)
    targets[i] = static_cast<std::int32_t>(i * 97 % V);
  std::vector<float> loss(targets.size());
  RangeFlag flag;
  HeadLoss args = {.x_NC = x.mat(N, C),
                   .w_VC = w.mat(V, C),
                   .targets_N = targets,
                   .loss_N = loss,
                   .dx_NC = {},
                   .dw_VC = {},
                   .chunk_tokens = kCpuLossChunkTokens};
  HeadLoss exact_args = args, fast_args = args;
  exact_args.dx_NC = fast_args.dx_NC = device::mat(dx.as<float>(), N, C);
  exact_args.dw_VC = {
      .exact = exact.as<std::int64_t>().data(), .elems = V * C, .limit = 1024, .flag = &flag};
  fast_args.dw_VC = {.fast = fast.as<float>().data(), .elems = V * C, .flag = &flag};
  const auto best = best_seconds(options.rounds, {[&] { head_loss(bench.context(), args); },
                                                  [&] { head_loss(bench.context(), exact_args); },
                                                  [&] { head_loss(bench.context(), fast_args); }});
  const double product = 2.0 * static_cast<double>(N) * C * V / 1e9;  // GFLOP
  fmt::print(
      "head and loss, {} tokens: loss alone {:.1f} ms ({:.1f} GFLOP/s); with gradients exact "
      "{:.1f} ms ({:.1f} GFLOP/s), "
      "f32 {:.1f} ms ({:.1f} GFLOP/s), exact / f32 {:.3f}\n",
      N, best[0] * 1e3, product / best[0], best[1] * 1e3, 3 * product / best[1], best[2] * 1e3,
      3 * product / best[2], best[1] / best[2]);
}

// A small model's layer: microseconds a call, to be compared with its own work.
void bench_small(const Options& options, const GemmSimd& simd) {
  constexpr std::int64_t C = 64, N = 132;
  testing::CpuBench bench(options.threads, simd);
  Inputs x(N * C), w(C * 4 * C), dy(N * 4 * C);
  Buffer y(N * 4 * C * 4), dx(N * C * 4), dw(4 * C * C * 8);
  RangeFlag flag;
  const GradSink sink = {
      .exact = dw.as<std::int64_t>().data(), .elems = 4 * C * C, .limit = 1024, .flag = &flag};
  constexpr int kCalls = 200;
  const auto best = best_seconds(
      options.rounds,
      {[&] {
         for (int i = 0; i < kCalls; ++i)
           linear_forward(bench.context(),
                          {x.mat(N, C), w.mat(C, 4 * C), {}, device::mat(y.as<float>(), N, 4 * C)});
       },
       [&] {
         for (int i = 0; i < kCalls; ++i)
           linear_backward_input(bench.context(), {dy.mat(N, 4 * C), w.mat(C, 4 * C),
                                                   device::mat(dx.as<float>(), N, C)});
       },
       [&] {
         for (int i = 0; i < kCalls; ++i)
           linear_backward_weight(bench.context(), {x.mat(N, C), dy.mat(N, 4 * C), sink, {}});
       }});
  const double flops = 2.0 * N * C * 4 * C * kCalls;
  fmt::print("small layer, {} tokens, {} -> {}:", N, C, 4 * C);
  const char* const names[] = {"forward", "dX", "dW"};
  for (std::size_t i = 0; i < best.size(); ++i)
    fmt::print(" {} {:.1f} us ({:.1f} GFLOP/s)", names[i], best[i] / kCalls * 1e6,
               flops / best[i] / 1e9);
  fmt::print("\n");
}

// The pieces around the products: how much of the head is not a product, what a hand-over costs.
void bench_pieces(const Options& options, const GemmSimd& simd) {
  constexpr std::int64_t V = 50257, kElems = 38'597'376;  // V * 768
  device::CpuStream stream(options.threads);
  Inputs logits(V * 16), g(kElems);
  Buffer exact(kElems * 8), fast(kElems * 4);
  constexpr std::int64_t kStrip = 1 << 16;
  const auto strips = [&](auto&& body) {
    stream.pool().run(kElems / kStrip, [&](std::int64_t strip) { body(strip * kStrip); });
  };
  const auto g_data = g.mat(1, kElems).f32();
  constexpr int kDispatches = 1000;
  const auto best = best_seconds(
      options.rounds,
      {[&] {
         stream.pool().run(16, [&](std::int64_t row) {
           simd.token_loss_gradient(logits.mat(16, V).f32() + row * V, V, 7, 1);
         });
       },
       [&] {
         strips([&](std::int64_t i) {
           simd.add_exact(g_data + i, kStrip, 1024, exact.as<std::int64_t>().data() + i);
         });
       },
       [&] {
         strips([&](std::int64_t i) {
           simd.store_exact(g_data + i, kStrip, 1024, exact.as<std::int64_t>().data() + i);
         });
       },
       [&] {
         strips([&](std::int64_t i) {
           simd.add_fast(g_data + i, kStrip, fast.as<float>().data() + i);
         });
       },
       [&] {
         for (int i = 0; i < kDispatches; ++i) stream.pool().run(4, [](std::int64_t) {});
       }});
  const double elems = static_cast<double>(kElems);
  fmt::print(
      "loss and gradient of logits {:.2f} ns an element; sums of {} elements: exact add {:.1f} ms "
      "({:.1f} GB/s), exact store "
      "{:.1f} ms, f32 add {:.1f} ms ({:.1f} GB/s); pool hand-over {:.2f} us\n",
      best[0] / (16.0 * V) * 1e9, kElems, best[1] * 1e3, elems * 20 / best[1] / 1e9, best[2] * 1e3,
      best[3] * 1e3, elems * 12 / best[3] / 1e9, best[4] / kDispatches * 1e6);
}

}  // namespace
}  // namespace elaswave::kernels

int main(int argc, char** argv) {
  using namespace elaswave::kernels;
  Options options;
  if (argc > 1) options.threads = std::max(1, std::atoi(argv[1]));
  if (argc > 2) options.tokens = std::max(1, std::atoi(argv[2]));
  if (argc > 3) options.rounds = std::max(1, std::atoi(argv[3]));
  const auto simd = elaswave::testing::simd_tables().back();
  fmt::print(
      "gemm_bench: GFLOP/s and share of the library's own speed; {} threads, {} tokens, best of "
      "{}, {}\n",
      options.threads, options.tokens, options.rounds, simd.name);
  bench_products(options, *simd.table);
  bench_head(options, *simd.table);
  bench_small(options, *simd.table);
  bench_pieces(options, *simd.table);
}
