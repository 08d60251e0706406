#include "elastic/plan/recovery_owners.h"

#include <algorithm>

#include "elastic/plan/owners.h"

namespace elaswave::plan {
namespace {

class Promotion {
 public:
  Promotion(const layout::BlockTable& blocks, const Holders& holders, layout::Plan& plan)
      : blocks_(blocks),
        holders_(holders),
        plan_(plan),
        places_(places(plan)),
        owned_(places_.size(), 0),
        sent_(places_.size(), 0) {}

  std::vector<Move> run() {
    plan_.owner.assign(static_cast<std::size_t>(blocks_.count()), -1);
    std::vector<std::int64_t> orphans;
    for (std::int64_t block = 0; block < blocks_.count(); ++block) {
      const std::int32_t owner = holders_.previous_owners().empty()
                                     ? -1
                                     : holders_.previous_owners()[static_cast<std::size_t>(block)];
      if (owner >= 0 && holders_.holds(owner, block) && is_home(owner, block))
        give(block, owner);
      else
        orphans.push_back(block);
    }
    std::vector<Move> moves;
    for (const std::int64_t block : orphans) {
      std::int32_t owner = -1;
      for (const std::int32_t rank : holders_.of(block))
        if (is_home(rank, block)) prefer(owner, rank, owned_);
      if (owner < 0) owner = least_of_home(block);
      give(block, owner);
      if (!holders_.holds(owner, block)) moves.push_back(move(block, owner));
    }
    return moves;
  }

 private:
  bool is_home(std::int32_t rank, std::int64_t index) const {
    const layout::Block& block = blocks_.block(index);
    const layout::Place& place = places_[static_cast<std::size_t>(rank)];
    const std::int32_t slice = blocks_.part(block.part).slice;
    return place.stage == plan_.stage_of_layer(block.layer) && (slice < 0 || slice == place.slice);
  }

  void give(std::int64_t block, std::int32_t rank) {
    const layout::Place& place = places_[static_cast<std::size_t>(rank)];
    plan_.owner[static_cast<std::size_t>(block)] =
        place.replica * plan_.tensor_degree + place.slice;
    owned_[static_cast<std::size_t>(rank)] += blocks_.block(block).elems;
  }

  static void prefer(std::int32_t& best, std::int32_t rank, const std::vector<std::int64_t>& load) {
    const std::int64_t mine = load[static_cast<std::size_t>(rank)];
    if (best >= 0) {
      const std::int64_t least = load[static_cast<std::size_t>(best)];
      if (mine > least || (mine == least && rank > best)) return;
    }
    best = rank;
  }

  std::int32_t least_of_home(std::int64_t index) const {
    const layout::Block& block = blocks_.block(index);
    const std::int32_t slice = blocks_.part(block.part).slice;
    std::int32_t least = -1;
    const auto stage = static_cast<std::size_t>(plan_.stage_of_layer(block.layer));
    for (const layout::Replica& replica : plan_.stages[stage].replicas)
      for (std::int32_t at = 0; at < plan_.tensor_degree; ++at)
        if (slice < 0 || at == slice)
          prefer(least, replica.world_ranks[static_cast<std::size_t>(at)], owned_);
    return least;
  }

  Move move(std::int64_t block, std::int32_t to) {
    std::int32_t from = -1;
    for (const std::int32_t rank : holders_.of(block)) prefer(from, rank, sent_);
    sent_[static_cast<std::size_t>(from)] += blocks_.block(block).elems;
    return {.block = block, .from = from, .to = to};
  }

  const layout::BlockTable& blocks_;
  const Holders& holders_;
  layout::Plan& plan_;
  std::vector<layout::Place> places_;
  std::vector<std::int64_t> owned_, sent_;  // elements, by world rank
};

}  // namespace

std::vector<Move> promote_owners(const layout::BlockTable& blocks, const Holders& holders,
                                 layout::Plan& plan) {
  return Promotion(blocks, holders, plan).run();
}

std::vector<Move> find_refills(const layout::BlockTable& blocks, const Holders& holders,
                               const layout::Plan& plan, const std::vector<Move>& moves) {
  std::vector<Move> refills;
  if (plan.copies == 0) return refills;
  const std::vector<std::int32_t> owners = owner_ranks(blocks, plan);
  auto move = moves.begin();
  for (std::int64_t block = 0; block < blocks.count(); ++block) {
    std::int32_t source = owners[static_cast<std::size_t>(block)];
    if (move != moves.end() && move->block == block) source = (move++)->from;
    const std::size_t begin = refills.size();
    for (const std::int32_t rank : plan.backups_of(block))
      if (rank >= 0 && !holders.holds(rank, block))
        refills.push_back({.block = block, .from = source, .to = rank});
    std::sort(refills.begin() + static_cast<std::ptrdiff_t>(begin), refills.end(),
              [](const Move& a, const Move& b) { return a.to < b.to; });
  }
  return refills;
}

}  // namespace elaswave::plan
