#include "parallel/zero/shard.h"

#include <algorithm>
#include <utility>

#include "io/base/error.h"

namespace elaswave::zero {
namespace {

constexpr std::int64_t kLineElems = 16;  // 64 bytes: where every range starts
constexpr std::int64_t kRanges = 4;      // master, both moments, log
constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

bool before(const HeldBlock& held, std::int64_t block) {
  return held.block < block;
}

}  // namespace

Shard::Shard(const layout::BlockTable& blocks, const layout::Plan& plan, std::int32_t world_rank,
             device::Device& device)
    : version{Step{0}, plan.generation},
      blocks_(&blocks),
      device_(&device),
      world_rank_(world_rank) {
  adopt(plan);
  whole_.assign(whole_.size(), 1);
}

void Shard::adopt(const layout::Plan& plan) {
  settle();
  take_roles(plan);
  allocate(missing());
  for (auto* role : {&owned_, &backups_})
    for (HeldBlock& held : *role) held = held_[position(held.block)];
}

/// Roles as the plan has them; where the blocks are comes later.
void Shard::take_roles(const layout::Plan& plan) {
  owned_.clear();
  backups_.clear();
  unused_.clear();
  layer_begin_.clear();
  std::size_t next = 0;  // of held_
  for (std::int32_t layer = 0; layer < blocks_->layers(); ++layer) {
    layer_begin_.push_back(owned_.size());
    for (std::int64_t block = blocks_->layer_begin(layer); block < blocks_->layer_begin(layer + 1);
         ++block) {
      const bool is_held = next < held_.size() && held_[next].block == block;
      const auto copies = plan.backups_of(block);
      if (plan.owner_rank(*blocks_, block) == world_rank_)
        owned_.push_back({.block = block});
      else if (std::find(copies.begin(), copies.end(), world_rank_) != copies.end())
        backups_.push_back({.block = block});
      else if (is_held)
        unused_.push_back(held_[next]);
      if (is_held) ++next;
    }
  }
  layer_begin_.push_back(owned_.size());
}

/// Blocks with a role and without memory, owned ones first.
std::vector<std::int64_t> Shard::missing() const {
  std::vector<std::int64_t> missing;
  for (const auto* role : {&owned_, &backups_})
    for (const HeldBlock& held : *role)
      if (find(held.block) == nullptr) missing.push_back(held.block);
  return missing;
}

/// Gives the blocks memory, none of them whole: freed slots of the same size first, one slab for
/// all others, in the order of the list.
void Shard::allocate(std::span<const std::int64_t> missing) {
  if (missing.empty()) return;
  std::vector<HeldBlock> added;
  std::vector<std::size_t> without_slot;
  std::int64_t elems = 0;
  for (const std::int64_t block : missing) {
    HeldBlock& held = added.emplace_back(HeldBlock{.block = block});
    const auto slots = free_.find(stride(block));
    if (slots == free_.end() || slots->second.empty()) {
      without_slot.push_back(added.size() - 1);
      held.offset = std::exchange(elems, elems + stride(block));
      continue;
    }
    const Slot slot = slots->second.back();
    slots->second.pop_back();
    held.slab = slot.slab;
    held.offset = slot.offset;
  }
  if (!without_slot.empty()) {
    const std::int32_t slab = add_slab(elems);
    for (const std::size_t index : without_slot) added[index].slab = slab;
  }
  for (const HeldBlock& held : added) ++slabs_[static_cast<std::size_t>(held.slab)].held;
  std::ranges::sort(added, {}, &HeldBlock::block);

  std::vector<HeldBlock> all;
  std::vector<char> whole;
  all.reserve(held_.size() + added.size());
  whole.reserve(all.capacity());
  auto next = added.begin();
  for (std::size_t i = 0; i <= held_.size(); ++i) {
    for (; next != added.end() && (i == held_.size() || next->block < held_[i].block); ++next) {
      all.push_back(*next);
      whole.push_back(0);
    }
    if (i == held_.size()) break;
    all.push_back(held_[i]);
    whole.push_back(whole_[i]);
  }
  held_ = std::move(all);
  whole_ = std::move(whole);
}

std::int32_t Shard::add_slab(std::int64_t range_elems) {
  const auto gone = std::find_if(slabs_.begin(), slabs_.end(),
                                 [](const Slab& slab) { return slab.memory.size_bytes() == 0; });
  Slab& slab = gone == slabs_.end() ? slabs_.emplace_back() : *gone;
  slab.memory = device::Buffer(*device_, kRanges * range_elems * kFloatBytes, device::Space::host);
  slab.range_elems = range_elems;
  return static_cast<std::int32_t>(&slab - slabs_.data());
}

void Shard::drop_unused() {
  std::size_t kept = 0;
  auto next = unused_.begin();
  for (std::size_t i = 0; i < held_.size(); ++i) {
    const HeldBlock& held = held_[i];
    if (next != unused_.end() && next->block == held.block) {
      --slabs_[static_cast<std::size_t>(held.slab)].held;
      free_[stride(held.block)].push_back({held.slab, held.offset});
      ++next;
      continue;
    }
    held_[kept] = held;
    whole_[kept++] = whole_[i];
  }
  held_.resize(kept);
  whole_.resize(kept);
  unused_.clear();
  for (auto& [elems, slots] : free_)
    std::erase_if(slots, [&](const Slot& slot) {
      return slabs_[static_cast<std::size_t>(slot.slab)].held == 0;
    });
  for (Slab& slab : slabs_)
    if (slab.held == 0) slab.memory = device::Buffer();
}

std::span<const HeldBlock> Shard::of_layer(std::int32_t layer) const {
  const auto index = static_cast<std::size_t>(layer);
  return std::span(owned_).subspan(layer_begin_[index],
                                   layer_begin_[index + 1] - layer_begin_[index]);
}

const HeldBlock* Shard::find(std::int64_t block) const {
  const auto found = std::lower_bound(held_.begin(), held_.end(), block, before);
  return found == held_.end() || found->block != block ? nullptr : &*found;
}

std::size_t Shard::position(std::int64_t block) const {
  const HeldBlock* held = find(block);
  EW_CHECK(held != nullptr, "block {} is not held by rank {}", block, world_rank_);
  return static_cast<std::size_t>(held - held_.data());
}

bool Shard::whole(std::int64_t block) const {
  const HeldBlock* held = find(block);
  return held != nullptr && whole_[static_cast<std::size_t>(held - held_.data())] != 0;
}

void Shard::set_whole(std::int64_t block, bool whole) {
  whole_[position(block)] = whole ? 1 : 0;
}

std::int64_t Shard::owned_elems() const {
  std::int64_t elems = 0;
  for (const HeldBlock& held : owned_) elems += blocks_->block(held.block).elems;
  return elems;
}

std::int64_t Shard::owned_bytes() const {
  std::int64_t elems = 0;
  for (const HeldBlock& held : owned_) elems += kRanges * stride(held.block);
  return elems * kFloatBytes;
}

std::int64_t Shard::size_bytes() const {
  std::int64_t bytes = 0;
  for (const Slab& slab : slabs_) bytes += slab.memory.size_bytes();
  return bytes;
}

std::int64_t Shard::stride(std::int64_t block) const {
  return round_up(blocks_->block(block).elems, kLineElems);
}

std::span<float> Shard::range(const HeldBlock& held, std::int64_t kind) {
  if (update_.pending()) settle();
  Slab& slab = slabs_[static_cast<std::size_t>(held.slab)];
  return slab.memory.as<float>().subspan(
      static_cast<std::size_t>(held.offset + kind * slab.range_elems),
      static_cast<std::size_t>(blocks_->block(held.block).elems));
}

void Shard::update_beside(std::function<void()> work) {
  settle();
  update_.start(std::move(work));
}

void Shard::settle() {
  update_.finish();
}

void Shard::wait_for_update() noexcept {
  update_.wait();
}

}  // namespace elaswave::zero
