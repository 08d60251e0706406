#include "elastic/plan/backups.h"

#include <algorithm>
#include <limits>

#include "elastic/plan/owners.h"
#include "elastic/plan/rank_lists.h"
#include "io/base/error.h"
#include "io/base/mutant.h"

namespace elaswave::plan {
namespace {

/// Chooses keepers one after another and counts what each has.
class Dealer {
 public:
  Dealer(const layout::Plan& plan, const Domains& domains)
      : slices_(plan.tensor_degree),
        stages_(static_cast<std::int32_t>(plan.stages.size())),
        spares_(plan.spares),
        places_(places(plan)),
        present_(places_.size(), false),
        kept_(places_.size(), 0) {
    by_slice_.resize(static_cast<std::size_t>(stages_) * static_cast<std::size_t>(slices_));
    for (std::int32_t stage = 0; stage < stages_; ++stage)
      for (const layout::Replica& replica : plan.stages[static_cast<std::size_t>(stage)].replicas)
        for (std::int32_t slice = 0; slice < slices_; ++slice)
          by_slice_[list_index(stage, slice)].push_back(
              replica.world_ranks[static_cast<std::size_t>(slice)]);
    for (const std::int32_t rank : layout::members(plan))
      present_[static_cast<std::size_t>(rank)] = true;
    for (std::size_t rank = 0; rank < places_.size(); ++rank)
      domain_.push_back(domains.empty() ? static_cast<std::int32_t>(rank) : -1);
    if (domains.empty()) return;
    EW_CHECK(domains.size() >= places_.size(), "{} domains for rank {}", domains.size(),
             places_.size() - 1);
    std::copy_n(domains.begin(), domain_.size(), domain_.begin());
  }

  /// A block is dealt: its home stage, its slice or -1, and who has it already.
  void begin(std::int32_t home, std::int32_t slice, std::int32_t owner) {
    home_ = home;
    slice_ = slice;
    replica_ = places_[static_cast<std::size_t>(owner)].replica;
    taken_.assign(1, owner);
  }

  /// The keeper of the next copy, or -1.
  std::int32_t next(std::span<const std::int32_t> holders, std::int64_t elems) {
    for (const bool apart : {true, false}) {
      apart_ = apart && !mutant(Mutant::copy_in_owner_domain);
      best_ = -1;
      best_class_ = std::numeric_limits<std::int32_t>::max();
      if (!find_among_holders(holders)) find_among_all();
      if (best_ < 0) continue;
      taken_.push_back(best_);
      kept_[static_cast<std::size_t>(best_)] += elems;
      return best_;
    }
    return -1;
  }

 private:
  std::size_t list_index(std::int32_t stage, std::int32_t slice) const {
    return static_cast<std::size_t>(stage) * static_cast<std::size_t>(slices_) +
           static_cast<std::size_t>(slice);
  }
  std::int32_t domain_of(std::int32_t rank) const {
    return domain_[static_cast<std::size_t>(rank)];
  }

  bool fit(std::int32_t rank) const {
    for (const std::int32_t other : taken_)
      if (other == rank || (apart_ && domain_of(other) == domain_of(rank))) return false;
    return true;
  }

  /// Whether it could take the block over when the owner goes: the owner's replica goes with it.
  bool right(std::int32_t stage, std::int32_t slice, std::int32_t replica) const {
    return (slice_ < 0 || slice == slice_) && (stage != home_ || replica != replica_);
  }

  /// How far a place is from one that could take the block over at once. At home the wrong places
  /// count as the neighbours' wrong ones.
  std::int32_t class_of(std::int32_t rank) const {
    const layout::Place& place = places_[static_cast<std::size_t>(rank)];
    if (place.stage < 0) return std::numeric_limits<std::int32_t>::max() - 1;
    const std::int32_t distance = std::abs(place.stage - home_);
    if (right(place.stage, place.slice, place.replica)) return 2 * distance;
    return 2 * std::max(distance, 1) + 1;
  }

  void consider(std::int32_t rank, std::int32_t of_class) {
    if (of_class > best_class_ || !fit(rank)) return;
    const std::int64_t kept = kept_[static_cast<std::size_t>(rank)];
    if (best_ >= 0 && of_class == best_class_) {
      const std::int64_t least = kept_[static_cast<std::size_t>(best_)];
      if (kept > least || (kept == least && rank > best_)) return;
    }
    best_ = rank;
    best_class_ = of_class;
  }

  bool find_among_holders(std::span<const std::int32_t> holders) {
    for (const std::int32_t rank : holders)
      if (static_cast<std::size_t>(rank) < present_.size() &&
          present_[static_cast<std::size_t>(rank)])
        consider(rank, class_of(rank));
    return best_ >= 0;
  }

  void consider_stage(std::int32_t stage, bool right_places) {
    if (stage < 0 || stage >= stages_) return;
    for (std::int32_t slice = 0; slice < slices_; ++slice) {
      const std::vector<std::int32_t>& ranks = by_slice_[list_index(stage, slice)];
      for (std::size_t replica = 0; replica < ranks.size(); ++replica)
        if (right(stage, slice, static_cast<std::int32_t>(replica)) == right_places)
          consider(ranks[replica], 0);
    }
  }

  /// In the order of class_of(), ending with the first class that has anybody fit.
  void find_among_all() {
    consider_stage(home_, true);
    for (std::int32_t distance = 1; best_ < 0 && distance <= stages_; ++distance) {
      consider_stage(home_ - distance, true);
      consider_stage(home_ + distance, true);
      if (best_ >= 0) return;
      if (distance == 1) consider_stage(home_, false);
      consider_stage(home_ - distance, false);
      consider_stage(home_ + distance, false);
    }
    if (best_ >= 0) return;
    for (const std::int32_t rank : spares_) consider(rank, 0);
  }

  std::int32_t slices_, stages_;
  const std::vector<std::int32_t>& spares_;
  std::vector<layout::Place> places_;
  std::vector<bool> present_;
  std::vector<std::int32_t> domain_;                 // by world rank
  std::vector<std::int64_t> kept_;                   // elements, by world rank
  std::vector<std::vector<std::int32_t>> by_slice_;  // [stage, slice][replica]
  // Of the block that is dealt.
  std::int32_t home_ = 0, slice_ = -1, replica_ = -1;
  std::vector<std::int32_t> taken_;
  bool apart_ = true;
  std::int32_t best_ = -1, best_class_ = 0;
};

}  // namespace

std::vector<std::int32_t> deal_backups(const layout::BlockTable& blocks, const layout::Plan& plan,
                                       const Domains& domains, const RankLists& prefers) {
  std::vector<std::int32_t> backup;
  if (plan.copies == 0) return backup;
  backup.reserve(static_cast<std::size_t>(blocks.count() * plan.copies));
  const std::vector<std::int32_t> owners = owner_ranks(blocks, plan);
  Dealer dealer(plan, domains);
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const layout::Block& block = blocks.block(index);
    dealer.begin(plan.stage_of_layer(block.layer), blocks.part(block.part).slice,
                 owners[static_cast<std::size_t>(index)]);
    for (std::int32_t copy = 0; copy < plan.copies; ++copy)
      backup.push_back(dealer.next(prefers.of(index), block.elems));
  }
  return backup;
}

std::vector<std::int32_t> deal_backups(const layout::BlockTable& blocks, const layout::Plan& plan,
                                       const Domains& domains,
                                       const std::vector<std::vector<std::int32_t>>& prefers) {
  RankLists lists;
  EW_CHECK(prefers.empty() || std::ssize(prefers) == blocks.count(), "{} lists for {} blocks",
           prefers.size(), blocks.count());
  for (const std::vector<std::int32_t>& ranks : prefers) lists.add(ranks);
  return deal_backups(blocks, plan, domains, lists);
}

}  // namespace elaswave::plan
