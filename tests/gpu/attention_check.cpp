// The library's attention against the plain kernels at the shapes of the presets: bf16, causal, no
// dropout. The judge is the plain kernels in f32 on the same (bf16) numbers, whose own error is 2^8
// times smaller: a result is right when its relative error in the 2-norm is at most twice that of
// the plain kernels in bf16 plus one rounding to bf16 (kernel_numbers.h has the rule for tests).
// Bits: all repeats must give the same. Times are of whole calls on an otherwise idle device.
// A line a shape; exit code 0: all right, 1: not, 77: no GPU.
//
// attention_check [repeats = 20] [tiny]
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string_view>

#include "io/base/clock.h"
#include "io/base/hash.h"
#include "model/kernels/cuda_ops.h"
#include "parallel/device/cuda_device.h"
#include "tests/support/cuda_test_attention.h"
#include "tests/support/device_memory.h"
#include "tests/support/kernel_numbers.h"

namespace elaswave::kernels {
namespace {

using testing::DeviceVector;
using testing::Padded;

constexpr double kRounding = 0x1p-9;  // of bf16, relative
// lse is f32 on both sides: exponentials of hardware are good to 2^-21 (CUDA C++ Programming Guide,
// "Intrinsic Functions", ex2.approx), scores of up to 2^4 bring four bits more.
constexpr double kLseRounding = 0x1p-17;

struct Shape {
  std::int64_t B, T, H, D;
  std::int64_t C() const { return H * D; }
  std::int64_t N() const { return B * T; }
};
constexpr Shape kShapes[] = {
    {4, 1024, 12, 64},  // 124M
    {2, 1024, 25, 64},  // 1.5B
    {2, 1000, 3, 64},   // no multiple of any tile
    {1, 129, 5, 80},   {1, 2048, 8, 96}, {1, 2048, 8, 128}, {1, 513, 4, 256},
};
constexpr Shape kTinyShapes[] = {{2, 33, 2, 16}, {1, 40, 1, 64}};

using MakeAttention = Result<std::unique_ptr<cuda::FusedAttention>> (*)(device::CudaDevice& device);

struct Numbers {
  std::vector<float> out, lse, dqkv;
};
struct Measured {
  Numbers numbers;
  std::int64_t digests = 0;
  double forward_ms = 0, backward_ms = 0;
};

std::vector<float> random(std::int64_t count, std::uint64_t seed) {
  return testing::stored(testing::random_floats(count, seed, 1.5f), DType::bf16);
}

/// Everything in memory of `dtype`.
Measured measure(Ops& ops, device::CudaStream& stream, const Shape& shape, DType dtype,
                 int repeats) {
  const testing::Place here{stream, dtype};
  const Padded qkv(here, random(shape.N() * 3 * shape.C(), 1), shape.N(), 3 * shape.C(), 0),
      dout(here, random(shape.N() * shape.C(), 2), shape.N(), shape.C(), 0);
  Padded out(here, shape.N(), shape.C(), 0), dqkv(here, shape.N(), 3 * shape.C(), 0);
  DeviceVector<float> lse(stream, shape.N() * shape.H, 0.0f);
  const auto forward = [&] {
    ops.attention_forward(stream, {.qkv_N3C = qkv.view(),
                                   .T = shape.T,
                                   .H = shape.H,
                                   .dropout = {},
                                   .out_NC = out.mat(),
                                   .lse_NH = lse});
  };
  const auto backward = [&] {
    ops.attention_backward(stream, {.qkv_N3C = qkv.view(),
                                    .out_NC = out.view(),
                                    .dout_NC = dout.view(),
                                    .lse_NH = lse,
                                    .T = shape.T,
                                    .H = shape.H,
                                    .dropout = {},
                                    .dqkv_N3C = dqkv.mat()});
  };
  Measured measured;
  std::set<std::uint64_t> digests;
  for (int repeat = 0; repeat < std::min(repeats, 3); ++repeat) {
    forward();
    backward();
    measured.numbers = {out.values(), lse.get(), dqkv.values()};
    const auto& [o, l, d] = measured.numbers;
    digests.insert(hash_bytes(
        std::as_bytes(std::span(o)),
        hash_bytes(std::as_bytes(std::span(l)), hash_bytes(std::as_bytes(std::span(d))))));
  }
  measured.digests = std::ssize(digests);
  const auto time = [&](const auto& body) {
    const RealClock clock;
    stream.synchronize();
    const Nanoseconds begin = clock.now();
    for (int repeat = 0; repeat < repeats; ++repeat) body();
    stream.synchronize();
    return static_cast<double>(clock.now() - begin) * 1e-6 / repeats;
  };
  measured.forward_ms = time(forward);
  measured.backward_ms = time(backward);
  return measured;
}

double error(const std::vector<float>& got, const std::vector<float>& judge) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < judge.size(); ++i) {
    const double d = double{got[i]} - double{judge[i]};
    difference += d * d;
    norm += double{judge[i]} * double{judge[i]};
  }
  return std::sqrt(difference / norm);
}

bool check(Ops& library, Ops& plain, device::CudaStream& stream, const Shape& shape, int repeats) {
  const Numbers judge = measure(plain, stream, shape, DType::f32, 1).numbers;
  const Measured ours = measure(library, stream, shape, DType::bf16, repeats),
                 own = measure(plain, stream, shape, DType::bf16, repeats);
  bool right = ours.digests == 1 && own.digests == 1;
  std::string errors;
  const auto compare = [&](const char* name, std::vector<float> Numbers::*member, double rounding) {
    const double theirs = error(ours.numbers.*member, judge.*member),
                 mine = error(own.numbers.*member, judge.*member);
    right = right && theirs <= 2 * mine + rounding;  // false for NaN
    errors += fmt::format(" {} {:.2e} (plain {:.2e})", name, theirs, mine);
  };
  compare("out", &Numbers::out, kRounding);
  compare("lse", &Numbers::lse, kLseRounding);
  compare("dqkv", &Numbers::dqkv, kRounding);
  // The causal half: 4 T^2 D / 2 a head forward, 10 T^2 D / 2 backward.
  const double flops = 0.5 * static_cast<double>(shape.N() * shape.T * shape.C());
  fmt::print(
      "{} b{} t{} h{} d{}: error{}; digests {} {}; forward {:.3f} ms = {:.0f} TFLOP/s (plain "
      "{:.3f}), backward {:.3f} ms = {:.0f} TFLOP/s (plain {:.3f})\n",
      right ? "right" : "WRONG", shape.B, shape.T, shape.H, shape.D, errors, ours.digests,
      own.digests, ours.forward_ms, 4 * flops * 1e-9 / ours.forward_ms, own.forward_ms,
      ours.backward_ms, 10 * flops * 1e-9 / ours.backward_ms, own.backward_ms);
  std::fflush(stdout);
  return right;
}

Result<bool> run(int repeats, std::span<const Shape> shapes) {
  EW_ASSIGN(const std::unique_ptr<device::CudaDevice> device, device::make_cuda_device(0));
  device::CudaStream stream(*device);
  CudaOpsOptions with_library;
  EW_ASSIGN(with_library.attention, testing::make_test_attention(*device));
  EW_ASSIGN(const std::unique_ptr<Ops> library, make_cuda_ops(*device, std::move(with_library)));
  EW_ASSIGN(const std::unique_ptr<Ops> plain, make_cuda_ops(*device));
  fmt::print("{}: {} against {}\n", device->name(), library->numeric_class(),
             plain->numeric_class());
  bool right = true;
  for (const Shape& shape : shapes)
    right = check(*library, *plain, stream, shape, repeats) && right;
  return right;
}

}  // namespace
}  // namespace elaswave::kernels

int main(int argc, char** argv) {
  using namespace elaswave;
  const int repeats = argc > 1 ? std::max(1, std::atoi(argv[1])) : 20;
  const bool tiny = argc > 2 && std::string_view(argv[2]) == "tiny";
  std::span<const kernels::Shape> shapes = kernels::kShapes;
  if (tiny) shapes = kernels::kTinyShapes;
  try {
    const Result<bool> right = kernels::run(repeats, shapes);
    if (right) return *right ? 0 : 1;
    std::fprintf(stderr, "%s\n", right.error().text().c_str());
    return right.error().code == Code::unavailable ? 77 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
