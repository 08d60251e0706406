#include "model/optim/digest.h"

#include <algorithm>
#include <array>
#include <span>

#include "io/base/error.h"
#include "io/base/hash.h"

namespace elaswave::optim {
namespace {

using layout::kBlockElems;

constexpr std::int64_t kKinds = 3;
// Ranges handed to the device at once: a sliced model has hundreds of thousands.
constexpr std::size_t kBatch = std::size_t{1} << 16;

std::array<std::span<const float>, kKinds> state_of(zero::Shard& shard,
                                                    const zero::HeldBlock& owned) {
  return {shard.master(owned), shard.moment1(owned), shard.moment2(owned)};
}

/// Numbers canonical blocks by (kind, tensor, block) and knows their keys.
class CanonicalBlocks {
 public:
  explicit CanonicalBlocks(const spec::Inventory& inventory) {
    for (const spec::TensorSpec& tensor : inventory.tensors()) {
      first_.push_back(count_);
      count_ += ceil_div(tensor.elems(), kBlockElems);
      const std::uint64_t name = hash_text(tensor.name);
      for (std::uint64_t kind = 0; kind < kKinds; ++kind)
        prefixes_.push_back(combine64(name, kind));
    }
    first_.push_back(count_);
  }

  std::int64_t count() const { return kKinds * count_; }
  std::int64_t of_tensor(std::int32_t tensor) const {
    return first_[static_cast<std::size_t>(tensor) + 1] - first_[static_cast<std::size_t>(tensor)];
  }
  std::size_t number(std::int32_t tensor, std::int64_t kind, std::int64_t block) const {
    return static_cast<std::size_t>(kind * count_ + first_[static_cast<std::size_t>(tensor)] +
                                    block);
  }
  std::uint64_t key(std::int32_t tensor, std::int64_t kind, std::int64_t block) const {
    return combine64(prefixes_[static_cast<std::size_t>(tensor * kKinds + kind)],
                     static_cast<std::uint64_t>(block));
  }

 private:
  std::int64_t count_ = 0;               // of one kind
  std::vector<std::int64_t> first_;      // by tensor
  std::vector<std::uint64_t> prefixes_;  // by tensor and kind
};

/// Ranges to be digested, and where their sums go.
class Batch {
 public:
  Batch(kernels::Ops& ops, device::Stream& stream) : ops_(ops), stream_(stream) {}

  bool full() const { return ranges_.size() >= kBatch; }
  void add(std::span<const float> range, std::uint64_t key, std::size_t number) {
    ranges_.push_back(range);
    keys_.push_back(key);
    numbers_.push_back(number);
  }
  /// Calls take(number, key, sum) for every range and empties the batch.
  template <typename Take>
  void run(Take take) {
    sums_.resize(ranges_.size());
    ops_.digest(stream_, ranges_, keys_, sums_);
    stream_.synchronize();  // the sums are the host's from here on
    for (std::size_t i = 0; i < sums_.size(); ++i) take(numbers_[i], keys_[i], sums_[i]);
    ranges_.clear();
    keys_.clear();
    numbers_.clear();
  }

 private:
  kernels::Ops& ops_;
  device::Stream& stream_;
  std::vector<std::span<const float>> ranges_;
  std::vector<std::uint64_t> keys_, sums_;
  std::vector<std::size_t> numbers_;
};

std::int64_t as_word(std::uint64_t value) {
  return static_cast<std::int64_t>(value);
}

/// Blocks of whole tensors are the canonical ones.
DigestSums whole_sums(Batch& batch, const CanonicalBlocks& canonical,
                      const spec::Inventory& inventory, const layout::BlockTable& blocks,
                      zero::Shard& shard) {
  std::uint64_t sum = 0;
  std::int64_t count = 0;
  const auto take = [&](std::size_t, std::uint64_t key, std::uint64_t inner) {
    sum += mix64(inner ^ key);
    ++count;
  };
  for (const zero::HeldBlock& owned : shard.owned()) {
    const layout::Block& block = blocks.block(owned.block);
    const std::int32_t tensor = inventory.part(block.part).tensor;
    const auto state = state_of(shard, owned);
    for (std::int64_t kind = 0; kind < kKinds; ++kind)
      batch.add(state[static_cast<std::size_t>(kind)],
                canonical.key(tensor, kind, block.begin / kBlockElems), 0);
    if (batch.full()) batch.run(take);
  }
  batch.run(take);
  return {as_word(sum), count};
}

DigestSums sliced_sums(Batch& batch, const CanonicalBlocks& canonical,
                       const spec::Inventory& inventory, const layout::BlockTable& blocks,
                       zero::Shard& shard) {
  DigestSums sums(static_cast<std::size_t>(canonical.count()) + 1, 0);
  const auto take = [&](std::size_t number, std::uint64_t, std::uint64_t inner) {
    sums[number] = as_word(static_cast<std::uint64_t>(sums[number]) + inner);
  };
  for (const zero::HeldBlock& owned : shard.owned()) {
    const layout::Block& block = blocks.block(owned.block);
    const spec::PartSpec& part = inventory.part(block.part);
    const auto state = state_of(shard, owned);
    const auto add = [&](std::int64_t at, std::int64_t element, std::int64_t length) {
      const std::int64_t number = element / kBlockElems;
      const auto offset = static_cast<std::uint64_t>(element % kBlockElems) * kGolden64;
      for (std::int64_t kind = 0; kind < kKinds; ++kind)
        batch.add(state[static_cast<std::size_t>(kind)].subspan(static_cast<std::size_t>(at),
                                                                static_cast<std::size_t>(length)),
                  canonical.key(part.tensor, kind, number) + offset,
                  canonical.number(part.tensor, kind, number));
      sums.back() += kKinds * length;
      if (batch.full()) batch.run(take);
    };
    part.map.visit_runs(
        block.begin, block.elems,
        [&](std::int64_t index, std::int64_t element, std::int64_t length) {
          for (std::int64_t done = 0; done < length;) {
            const std::int64_t border = (element + done) / kBlockElems * kBlockElems + kBlockElems;
            const std::int64_t piece = std::min(length - done, border - element - done);
            add(index + done - block.begin, element + done, piece);
            done += piece;
          }
        });
  }
  batch.run(take);
  return sums;
}

}  // namespace

DigestSums digest_sums(kernels::Ops& ops, device::Stream& stream, const spec::Inventory& inventory,
                       const layout::BlockTable& blocks, zero::Shard& shard) {
  const CanonicalBlocks canonical(inventory);
  Batch batch(ops, stream);
  return inventory.tensor_degree() == 1 ? whole_sums(batch, canonical, inventory, blocks, shard)
                                        : sliced_sums(batch, canonical, inventory, blocks, shard);
}

std::uint64_t state_digest(const spec::Inventory& inventory, const DigestSums& total) {
  if (inventory.tensor_degree() == 1) {
    EW_CHECK(total.size() == 2, "{} digest words", total.size());
    return combine64(static_cast<std::uint64_t>(total[0]), static_cast<std::uint64_t>(total[1]));
  }
  const CanonicalBlocks canonical(inventory);
  EW_CHECK(std::ssize(total) == canonical.count() + 1, "{} digest words", total.size());
  EW_CHECK(total.back() == kKinds * inventory.total_elems(),
           "{} elements digested, {} in the state", total.back(), kKinds * inventory.total_elems());
  std::uint64_t sum = 0;
  for (std::int32_t tensor = 0; tensor < static_cast<std::int32_t>(inventory.tensors().size());
       ++tensor)
    for (std::int64_t kind = 0; kind < kKinds; ++kind)
      for (std::int64_t block = 0; block < canonical.of_tensor(tensor); ++block)
        sum += mix64(static_cast<std::uint64_t>(total[canonical.number(tensor, kind, block)]) ^
                     canonical.key(tensor, kind, block));
  return combine64(sum, static_cast<std::uint64_t>(canonical.count()));
}

std::int64_t digest_blocks(const spec::Inventory& inventory) {
  return CanonicalBlocks(inventory).count();
}

}  // namespace elaswave::optim
