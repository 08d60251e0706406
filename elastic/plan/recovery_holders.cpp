#include "elastic/plan/recovery_holders.h"

#include <fmt/format.h>

#include <algorithm>

#include "elastic/plan/owners.h"

namespace elaswave::plan {

Holders::Holders(const layout::BlockTable& blocks, const RecoveryRequest& request)
    : holdings_(request.holdings), members_(request.holdings.members) {
  index_members(blocks);
  if (std::ssize(request.previous.owner) == blocks.count())
    previous_owners_ = owner_ranks(blocks, request.previous);
  list_holders(blocks, request);
}

void Holders::index_members(const layout::BlockTable& blocks) {
  EW_CHECK(holdings_.holds.size() == members_.size(), "holdings of {} ranks for {} members",
           holdings_.holds.size(), members_.size());
  for (std::size_t member = 0; member < members_.size(); ++member) {
    const auto rank = static_cast<std::size_t>(members_[member]);
    EW_CHECK(std::ssize(holdings_.holds[member]) == blocks.count(), "{} blocks of {} told",
             holdings_.holds[member].size(), blocks.count());
    if (index_.size() <= rank) index_.resize(rank + 1, -1);
    EW_CHECK(index_[rank] < 0, "rank {} is a member twice", rank);
    index_[rank] = static_cast<std::int32_t>(member);
  }
  std::sort(members_.begin(), members_.end());
}

void Holders::list_holders(const layout::BlockTable& blocks, const RecoveryRequest& request) {
  const layout::Plan& previous = request.previous;
  const auto slices = static_cast<std::size_t>(previous.tensor_degree);
  // Ranks of whole replicas by slice, and after those all of them: where slice is -1.
  std::vector<std::vector<std::vector<std::int32_t>>> homes(previous.stages.size());
  for (std::size_t stage = 0; stage < homes.size(); ++stage) {
    homes[stage].resize(slices + 1);
    for (const layout::Replica& replica : previous.stages[stage].replicas) {
      if (!std::all_of(replica.world_ranks.begin(), replica.world_ranks.end(),
                       [this](std::int32_t rank) { return is_member(rank); }))
        continue;
      for (std::size_t slice = 0; slice < slices; ++slice)
        for (const std::size_t list : {slice, slices})
          homes[stage][list].push_back(replica.world_ranks[slice]);
    }
  }
  const std::int64_t enough = std::int64_t{1} + request.wish.copies;
  std::vector<std::int32_t> found;
  const auto add_holders = [&](const std::vector<std::int32_t>& ranks, std::int64_t block) {
    found.clear();
    for (const std::int32_t rank : ranks)
      if (holds(rank, block)) found.push_back(rank);
  };
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const layout::Block& block = blocks.block(index);
    const std::int32_t slice = blocks.part(block.part).slice;
    const auto stage = static_cast<std::size_t>(previous.stage_of_layer(block.layer));
    add_holders(homes[stage][slice < 0 ? slices : static_cast<std::size_t>(slice)], index);
    if (std::ssize(found) < enough) add_holders(members_, index);
    lists_.add(found);
  }
}

Result<void> Holders::check_lost(const layout::BlockTable& blocks) const {
  std::int64_t lost = 0, first = -1;
  for (std::int64_t block = blocks.count(); block-- > 0;) {
    if (!of(block).empty()) continue;
    ++lost;
    first = block;
  }
  if (lost == 0) return {};
  return fail(
      {.code = Code::unrecoverable,
       .what = fmt::format("blocks lost: {} of {}", lost, blocks.count()),
       .where = fmt::format("the first is block {}, of layer {}", first, blocks.block(first).layer),
       .why = fmt::format("none of the {} members holds them", members_.size()),
       .fix = "resume from a checkpoint"});
}

}  // namespace elaswave::plan
