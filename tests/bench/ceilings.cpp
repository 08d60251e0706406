#include "tests/bench/ceilings.h"

#include <algorithm>
#include <span>
#include <vector>

#include "io/base/bf16.h"
#include "io/base/philox.h"

namespace elaswave::bench {
namespace {

using device::Buffer;
using kernels::cuda::CudaContext;

/// Random numbers, because the clock of a GPU follows what its multipliers switch.
void fill(device::CudaStream& stream, Buffer& buffer) {
  constexpr std::int64_t kDrawn = 65'537;  // prime: rows differ
  const RandomStream numbers = random_stream(1, RandomUse::test);
  std::vector<bf16> drawn(static_cast<std::size_t>(kDrawn));
  for (std::size_t i = 0; i < drawn.size(); ++i)
    drawn[i] = to_bf16(2 * uniform01(random_word(numbers, i)) - 1);
  std::int64_t filled = std::min(kDrawn * size_bytes(DType::bf16), buffer.size_bytes());
  stream.copy(buffer.data(), drawn.data(), filled);
  while (filled < buffer.size_bytes()) {
    const std::int64_t more = std::min(filled, buffer.size_bytes() - filled);
    stream.copy(buffer.data() + filled, buffer.data(), more);
    filled += more;
  }
}

double copy_rate(const CudaContext& context, const CeilingSizes& sizes) {
  Buffer from(context.stream.device(), sizes.copy_bytes),
      to(context.stream.device(), sizes.copy_bytes);
  ColdTimer timer(context.stream, 256);
  const double seconds = timer.seconds(
      sizes.rounds, [&] { context.stream.copy(to.data(), from.data(), sizes.copy_bytes); });
  return 2 * static_cast<double>(sizes.copy_bytes) / seconds;
}

double product_rate(const CudaContext& context, kernels::cuda::Gemm& gemm,
                    const CeilingSizes& sizes) {
  const std::int64_t n = sizes.product, bytes = n * n * size_bytes(DType::bf16);
  Buffer a(context.stream.device(), bytes), b(context.stream.device(), bytes),
      c(context.stream.device(), bytes);
  fill(context.stream, a);
  fill(context.stream, b);
  const auto view = [&](Buffer& buffer) -> device::Mat {
    return {buffer.data(), DType::bf16, n, n, n};
  };
  constexpr int kProducts = 10;  // of a round: as long as a step has the clock settle
  ColdTimer timer(context.stream, 256);
  const double seconds = timer.seconds(sizes.rounds, [&] {
    for (int i = 0; i < kProducts; ++i)
      gemm.multiply(context, kernels::cuda::factors(kernels::ProductForm::nn, view(a), view(b)),
                    view(c));
  });
  const auto size = static_cast<double>(n);
  return 2 * size * size * size * kProducts / seconds;
}

}  // namespace

ColdTimer::ColdTimer(device::CudaStream& stream, std::int64_t flush_bytes)
    : stream_(stream), flush_(stream.device(), flush_bytes), watch_(stream.stopwatch(clock_)) {}

double ColdTimer::seconds(int rounds, const std::function<void()>& work) {
  work();
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) {
    stream_.zero(flush_.data(), flush_.size_bytes());
    watch_->clear();
    watch_->stamp();
    work();
    watch_->stamp();
    stream_.synchronize();
    times.push_back(1e-9 * static_cast<double>(watch_->at(1)));
  }
  std::ranges::sort(times);
  return std::max(times[times.size() / 2], 1e-9);  // copies take no time on the emulator
}

Ceilings measure_ceilings(const CudaContext& context, kernels::cuda::Gemm& gemm,
                          const CeilingSizes& sizes) {
  return {.bytes_per_second = copy_rate(context, sizes),
          .flops_per_second = product_rate(context, gemm, sizes)};
}

}  // namespace elaswave::bench
