#include "model/optim/copy_digest.h"

#include <bit>
#include <vector>

#include "io/base/hash.h"

namespace elaswave::optim {

bool scrubbed(std::int64_t block, Step step, std::int64_t period) {
  return period > 0 && (block + raw(step)) % period == 0;
}

std::int64_t copy_digest(kernels::Ops& ops, device::Stream& stream, zero::Shard& shard,
                         std::span<const zero::SharedBlock> shared, Step step,
                         std::int64_t period) {
  constexpr std::size_t kKinds = 3;
  std::vector<std::span<const float>> ranges;
  std::vector<std::uint64_t> keys, weights;
  for (const auto& [held, weight] : shared) {
    if (!scrubbed(held.block, step, period)) continue;
    weights.push_back(static_cast<std::uint64_t>(weight));
    for (const std::span<const float> range :
         {shard.master(held), shard.moment1(held), shard.moment2(held)}) {
      keys.push_back(combine64(static_cast<std::uint64_t>(held.block), ranges.size() % kKinds));
      ranges.push_back(range);
    }
  }
  if (ranges.empty()) return 0;
  std::vector<std::uint64_t> inner(ranges.size());
  ops.digest(stream, ranges, keys, inner);
  stream.synchronize();  // the sums are the host's from here on
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < inner.size(); ++i)
    sum += weights[i / kKinds] * mix64(inner[i] ^ keys[i]);
  return std::bit_cast<std::int64_t>(sum);
}

}  // namespace elaswave::optim
