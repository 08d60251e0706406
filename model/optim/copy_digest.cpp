#include "model/optim/copy_digest.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "io/base/hash.h"

namespace elaswave::optim {

bool scrubbed(std::int64_t block, Step step, std::int64_t period) {
  return period > 0 && (block + raw(step)) % period == 0;
}

namespace {

constexpr std::size_t kKinds = 3;

/// Ranges of blocks on one side, the device's or the host's.
class Side {
 public:
  Side(kernels::Ops& ops, device::Stream& stream) : ops_(ops), stream_(stream) {}

  void add(const zero::SharedBlock& shared,
           const std::array<std::span<const float>, kKinds>& state) {
    weights_.push_back(static_cast<std::uint64_t>(shared.weight));
    for (std::uint64_t kind = 0; kind < kKinds; ++kind) {
      keys_.push_back(combine64(static_cast<std::uint64_t>(shared.held.block), kind));
      ranges_.push_back(state[kind]);
    }
  }
  std::uint64_t sum() {
    if (ranges_.empty()) return 0;
    std::vector<std::uint64_t> inner(ranges_.size());
    ops_.digest(stream_, ranges_, keys_, inner);
    stream_.synchronize();
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < inner.size(); ++i)
      sum += weights_[i / kKinds] * mix64(inner[i] ^ keys_[i]);
    return sum;
  }

 private:
  kernels::Ops& ops_;
  device::Stream& stream_;
  std::vector<std::span<const float>> ranges_;
  std::vector<std::uint64_t> keys_, weights_;
};

}  // namespace

std::int64_t copy_digest(const kernels::Machine& machine, zero::Shard& shard, OwnedState& owned,
                         std::span<const zero::SharedBlock> shared, Step step,
                         std::int64_t period) {
  Side device(machine.ops, machine.stream), host(machine.host_ops, machine.host_stream);
  for (const zero::SharedBlock& block : shared) {
    const zero::HeldBlock& held = block.held;
    if (!scrubbed(held.block, step, period)) continue;
    const auto mine =
        std::ranges::lower_bound(shard.owned(), held.block, {}, &zero::HeldBlock::block);
    if (mine != shard.owned().end() && mine->block == held.block) {
      const auto index = static_cast<std::size_t>(mine - shard.owned().begin());
      device.add(block, {owned.master(index), owned.moment1(index), owned.moment2(index)});
    } else {
      host.add(block, {shard.master(held), shard.moment1(held), shard.moment2(held)});
    }
  }
  return std::bit_cast<std::int64_t>(device.sum() + host.sum());
}

}  // namespace elaswave::optim
