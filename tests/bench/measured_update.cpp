#include "tests/bench/measured_update.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace elaswave::bench {
namespace {

constexpr std::string_view kSumsAdded = "sums of another rank added";
constexpr std::int64_t kUnit = 16;  // elements: blocks begin at whole cache lines

/// State in device memory, and the lists that operations take.
struct State {
  State(device::Device& device, const layout::BlockTable& blocks, std::int64_t elems, DType storage)
      : master(device, elems),
        moment1(device, elems),
        moment2(device, elems),
        log(device, elems),
        sums(device, elems),
        others(device, elems),
        working(device, elems * size_bytes(storage)) {
    std::int64_t first = 0;
    for (std::int64_t i = 0; i < blocks.count(); ++i) {
      const std::int64_t block_elems = blocks.block(i).elems;
      add_block(static_cast<std::size_t>(first), static_cast<std::size_t>(block_elems),
                working.data() + first * size_bytes(storage), storage);
      first += round_up(block_elems, kUnit);
    }
  }
  void add_block(std::size_t at, std::size_t count, std::byte* stored, DType storage) {
    updates.push_back({.master = master.span().subspan(at, count),
                       .moment1 = moment1.span().subspan(at, count),
                       .moment2 = moment2.span().subspan(at, count),
                       .grad = log.span().subspan(at, count),
                       .scalars = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f},
                       .working = stored,
                       .working_dtype = storage});
    means.push_back({.exact_sums = sums.span().subspan(at, count),
                     .scale = 0x1p-40,
                     .mean = log.span().subspan(at, count)});
    stores.push_back({master.span().subspan(at, count), stored, storage});
    ranges.emplace_back(log.span().subspan(at, count));
  }

  device::Array<float> master, moment1, moment2, log;
  device::Array<std::int64_t> sums, others;
  device::Buffer working;
  std::vector<kernels::AdamW> updates;
  std::vector<kernels::MeanGradient> means;
  std::vector<kernels::StoreWeights> stores;
  std::vector<std::span<const float>> ranges;
};

}  // namespace

void measure_update(MeasuredOps& ops, device::CudaStream& stream, device::Arithmetic& arithmetic,
                    const spec::Inventory& inventory) {
  const layout::BlockTable blocks = inventory.blocks();
  std::int64_t elems = 0;
  for (std::int64_t i = 0; i < blocks.count(); ++i) elems += round_up(blocks.block(i).elems, kUnit);
  // Matrices are nearly all of it.
  State state(stream.device(), blocks, elems, inventory.tensor(inventory.wte()).storage);
  std::vector<double> squares(state.ranges.size());
  std::vector<std::uint64_t> keys(state.ranges.size()), digests(state.ranges.size());
  ops.mean_gradient(stream, state.means);
  ops.sum_squares(stream, state.ranges, squares);
  ops.adamw(stream, state.updates);
  ops.store_weights(stream, state.stores);
  ops.digest(stream, state.ranges, keys, digests);
  ops.measure(std::string(kSumsAdded), false,
              {.bytes = 3 * static_cast<double>(state.sums.size_bytes()),
               .shape = fmt::format("{} of int64", elems)},
              1, [&] { arithmetic.add(state.sums, state.others); });
  stream.synchronize();
}

bool in_every_step(const Measurement& update) {
  constexpr std::array kRare = {std::string_view("digest"), std::string_view("store weights"),
                                kSumsAdded};
  return std::ranges::find(kRare, update.operation) == kRare.end();
}

}  // namespace elaswave::bench
