// The optimizer's operations of the CUDA backend bit by bit against the CPU's, on blocks that begin
// anywhere in one piece of memory, and the scratch memory that carries their lists.
#include <numeric>

#include "io/base/bf16.h"
#include "io/base/hash.h"
#include "model/kernels/cuda_scratch.h"
#include "tests/reference/cuda_case.h"

namespace elaswave::kernels {
namespace {

class CudaUpdate : public BitsTest {};

// Blocks as a shard has them; those behind an odd one are not aligned.
constexpr std::size_t kSizes[] = {16384, 1, 3, 4097, 8192, 16384, 0, 77};
constexpr std::size_t kTotal =
    std::accumulate(std::begin(kSizes), std::end(kSizes), std::size_t{0});

TEST_F(CudaUpdate, adamw_has_the_bits_of_the_cpu) {
  const std::int64_t n = kTotal;
  const auto w0 = random_floats(n, 1), m0 = random_floats(n, 2, 1e-3f), g0 = random_floats(n, 4);
  auto v0 = random_floats(n, 3, 1e-3f);
  for (float& x : v0) x *= x;
  v0[5] = 0, v0[6] = 1e-42f;
  expect_same_bits(here({}), cpu(), [&](const Side& on) {
    DeviceVector<float> w(on.stream, w0), m(on.stream, m0), v(on.stream, v0), g(on.stream, g0);
    DeviceVector<float> wide(on.stream, n, 9.0f);
    DeviceVector<bf16> narrow(on.stream, n, bf16{});
    std::vector<AdamW> blocks;
    std::size_t at = 0;
    for (const std::size_t size : kSizes) {
      const std::size_t i = blocks.size();
      blocks.push_back({.master = w.span().subspan(at, size),
                        .moment1 = m.span().subspan(at, size),
                        .moment2 = v.span().subspan(at, size),
                        .grad = g.span().subspan(at, size),
                        .scalars = {.lr = 1e-3f,
                                    .beta1 = 0.9f,
                                    .beta2 = 0.95f,
                                    .epsilon = 1e-8f,
                                    .weight_decay = i % 2 == 0 ? 0.1f : 0.0f,
                                    .clip = 0.7f,
                                    .correction1 = 1.9f,
                                    .correction2 = 2.3f}});
      AdamW& block = blocks.back();
      if (i % 3 == 0) block.working = wide.data() + at * 4;
      if (i % 3 == 1) block.working = narrow.data() + at * 2, block.working_dtype = DType::bf16;
      at += size;
    }
    // More calls than a ring of lists has slots.
    for (int step = 0; step < 6; ++step) on.ops.adamw(on.stream, blocks);
    return bytes_of(w.get(), m.get(), v.get(), wide.get(), narrow.get());
  });
}

TEST_F(CudaUpdate, stored_weights_have_the_bits_of_the_cpu) {
  const auto w0 = random_floats(kTotal, 1);
  expect_same_bits(here({}), cpu(), [&](const Side& on) {
    const DeviceVector<float> w(on.stream, w0);
    DeviceVector<float> wide(on.stream, kTotal, 9.0f);
    DeviceVector<bf16> narrow(on.stream, kTotal, bf16{});
    std::vector<StoreWeights> blocks;
    std::size_t at = 0;
    for (const std::size_t size : kSizes) {
      const bool f32 = blocks.size() % 2 == 0;
      blocks.push_back({.master = w.span().subspan(at, size),
                        .stored = f32 ? wide.data() + at * 4 : narrow.data() + at * 2,
                        .dtype = f32 ? DType::f32 : DType::bf16});
      at += size;
    }
    on.ops.store_weights(on.stream, blocks);
    return bytes_of(wide.get(), narrow.get());
  });
}

TEST_F(CudaUpdate, means_have_the_bits_of_the_cpu) {
  std::vector<std::int64_t> exact;
  for (std::uint64_t i = 0; i < kTotal; ++i)
    exact.push_back(static_cast<std::int64_t>(mix64(i)) >> (i % 60));
  const auto fast = random_floats(kTotal, 1);
  expect_same_bits(here({}), cpu(), [&](const Side& on) {
    const DeviceVector<std::int64_t> exact_there(on.stream, exact);
    const DeviceVector<float> fast_there(on.stream, fast);
    DeviceVector<float> mean(on.stream, kTotal, 7.0f);
    std::vector<MeanGradient> blocks;
    std::size_t at = 0;
    for (const std::size_t size : kSizes) {
      MeanGradient block{.scale = 0x1p-40 / 24, .mean = mean.span().subspan(at, size)};
      if (blocks.size() % 2 == 0)
        block.exact_sums = exact_there.span().subspan(at, size);
      else
        block.fast_sums = fast_there.span().subspan(at, size);
      blocks.push_back(block);
      at += size;
    }
    on.ops.mean_gradient(on.stream, blocks);
    return bytes_of(mean.get());
  });
}

TEST_F(CudaUpdate, sums_over_ranges_have_the_bits_of_the_cpu) {
  const std::vector<std::size_t> sizes = {16384, 0, 1, 31, 33, 3 * 65536 + 17, 65536, 0};
  const auto x = random_floats(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}), 1);
  expect_same_bits(here({}), cpu(), [&](const Side& on) {
    const DeviceVector<float> there(on.stream, x);
    std::vector<std::span<const float>> ranges;
    std::vector<std::uint64_t> keys;
    std::size_t at = 0;
    for (const std::size_t size : sizes) {
      ranges.push_back(there.span().subspan(at, size));
      keys.push_back(mix64(at));
      at += size;
    }
    std::vector<double> squares(sizes.size(), 7);
    std::vector<std::uint64_t> digests(sizes.size(), 7);
    on.ops.sum_squares(on.stream, ranges, squares);
    on.ops.digest(on.stream, ranges, keys, digests);
    on.stream.synchronize();
    return bytes_of(squares, digests);
  });
}

// Nothing waits between the lists: memory is outgrown, and a ring of lists goes round, while work
// on them is under way.
TEST_F(CudaUpdate, scratch_keeps_what_work_under_way_reads) {
  cuda::Scratch scratch(stream());
  const std::vector<std::int64_t> sizes = {4, 4096, 5, 6, 7, 5000, 8, 9, 10};
  std::vector<DeviceVector<std::int64_t>> outs;
  for (const std::int64_t n : sizes) outs.emplace_back(stream(), n, std::int64_t{0});
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    const std::int64_t n = sizes[k];
    const auto* list = scratch.upload<std::int64_t>(cuda::ScratchUse::list, n,
                                                    [n](std::int64_t i) { return n + i; });
    stream().copy(outs[k].data(), list, n * 8);
  }
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    std::vector<std::int64_t> want(static_cast<std::size_t>(sizes[k]));
    std::iota(want.begin(), want.end(), sizes[k]);
    EXPECT_EQ(outs[k].get(), want) << k;
  }
}

}  // namespace
}  // namespace elaswave::kernels
