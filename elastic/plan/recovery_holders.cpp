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
       .why = fmt::format("{}, nobody holds them", left_text(std::ssize(members_))),
       .fix = "resume from a checkpoint"});
}

std::string left_text(std::int64_t ranks) {
  return ranks == 1 ? "1 rank is left" : fmt::format("{} ranks are left", ranks);
}

std::vector<std::int64_t> unused_bytes(const layout::BlockTable& blocks, const Holdings& holdings,
                                       const layout::Plan& plan) {
  constexpr std::int64_t kStateBytes = 16;  // of an element: weight, both moments, log
  const auto ranks = static_cast<std::size_t>(*std::ranges::max_element(holdings.members)) + 1;
  std::vector<std::int64_t> unused(ranks, 0);
  if (holdings.elems.empty()) return unused;
  std::vector<const std::vector<bool>*> holds(ranks, nullptr);
  for (std::size_t index = 0; index < holdings.members.size(); ++index) {
    const auto rank = static_cast<std::size_t>(holdings.members[index]);
    unused[rank] = kStateBytes * holdings.elems[index];
    holds[rank] = &holdings.holds[index];
  }
  const auto use = [&](std::int32_t rank, std::int64_t block) {
    const auto at = static_cast<std::size_t>(rank);
    if (rank >= 0 && (*holds[at])[static_cast<std::size_t>(block)])
      unused[at] -= kStateBytes * blocks.block(block).elems;
  };
  for (std::int64_t block = 0; block < blocks.count(); ++block) {
    use(plan.owner_rank(blocks, block), block);
    for (const std::int32_t rank : plan.backups_of(block)) use(rank, block);
  }
  return unused;
}

}  // namespace elaswave::plan
