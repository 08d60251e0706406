#include "elastic/plan/partition.h"

#include <algorithm>
#include <limits>

namespace elaswave::plan {
namespace {

/// Sums of the first n weights.
std::vector<std::int64_t> prefix_sums(std::span<const std::int64_t> weights) {
  std::vector<std::int64_t> sums{0};
  for (const std::int64_t weight : weights) sums.push_back(sums.back() + weight);
  return sums;
}

/// Whether filling chunks from the left up to `most` needs no more than `chunks`.
bool fits(std::span<const std::int64_t> weights, std::int64_t most, std::int64_t chunks) {
  std::int64_t used = 1, weight = 0;
  for (const std::int64_t layer : weights) {
    if (layer > most) return false;
    if (weight + layer > most) {
      ++used;
      weight = 0;
    }
    weight += layer;
  }
  return used <= chunks;
}

/// The least bottleneck. Fewer chunks than asked for can always be cut further without a heavier
/// one.
std::int64_t least_bottleneck(std::span<const std::int64_t> weights, std::int64_t total,
                              std::int64_t chunks) {
  std::int64_t low = 0, high = total;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (fits(weights, middle, chunks))
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/// Weights of ranges scaled so that the sum of their squares fits: (2^31)^2.
class Squares {
 public:
  Squares(std::span<const std::int64_t> sums) : sums_(sums) {
    while (sums.back() >> shift_ >= std::int64_t{1} << 31) ++shift_;
  }
  std::int64_t of(std::size_t begin, std::size_t end) const {
    const std::int64_t weight = (sums_[end] - sums_[begin]) >> shift_;
    return weight * weight;
  }

 private:
  std::span<const std::int64_t> sums_;
  int shift_ = 0;
};

}  // namespace

std::vector<std::int32_t> chunk_layers(std::span<const std::int64_t> weights, std::int32_t chunks) {
  const std::vector<std::int64_t> sums = prefix_sums(weights);
  const std::int64_t most = least_bottleneck(weights, sums.back(), chunks);
  const Squares squares(sums);
  constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  const std::size_t layers = weights.size(), count = static_cast<std::size_t>(chunks);
  // best[end]: least sum of squares of the first `end` layers in as many chunks as looked at so
  // far. begin_of[chunk][end - chunk - 1]: where the last of them then begins.
  const std::size_t slack = layers - count;
  std::vector<std::int64_t> best(layers + 1, kNever), next(layers + 1, kNever);
  std::vector<std::vector<std::uint32_t>> begin_of(count, std::vector<std::uint32_t>(slack + 1));
  best[0] = 0;
  for (std::size_t chunk = 0; chunk < count; ++chunk) {
    std::fill(next.begin(), next.end(), kNever);
    for (std::size_t end = chunk + 1; end <= chunk + 1 + slack; ++end)
      for (std::size_t begin = end; begin-- > chunk && sums[end] - sums[begin] <= most;) {
        if (best[begin] == kNever) continue;
        const std::int64_t value = best[begin] + squares.of(begin, end);
        if (value > next[end]) continue;  // of equals the earliest begin
        next[end] = value;
        begin_of[chunk][end - chunk - 1] = static_cast<std::uint32_t>(begin);
      }
    best.swap(next);
  }
  std::vector<std::int32_t> chunk_of_layer(layers);
  for (std::size_t chunk = count, end = layers; chunk-- > 0;) {
    const std::size_t begin = begin_of[chunk][end - chunk - 1];
    for (std::size_t layer = begin; layer < end; ++layer)
      chunk_of_layer[layer] = static_cast<std::int32_t>(chunk);
    end = begin;
  }
  return chunk_of_layer;
}

std::vector<std::int32_t> deal_replicas(std::span<const std::int64_t> weights, std::int32_t total) {
  const auto stages = static_cast<std::int32_t>(weights.size());
  std::vector<std::int32_t> replicas(weights.size(), total / stages);
  for (std::int32_t rest = total % stages; rest > 0; --rest) {
    std::size_t heaviest = 0;
    for (std::size_t stage = 1; stage < weights.size(); ++stage) {
      // weight / replicas, compared without a division: quotients first, then what remains.
      const std::int64_t a = weights[stage], b = weights[heaviest];
      const std::int64_t m = replicas[stage], n = replicas[heaviest];
      if (a / m > b / n || (a / m == b / n && a % m * n > b % n * m)) heaviest = stage;
    }
    ++replicas[heaviest];
  }
  return replicas;
}

}  // namespace elaswave::plan
