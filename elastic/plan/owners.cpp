#include "elastic/plan/owners.h"

#include <algorithm>

namespace elaswave::plan {

std::vector<std::int32_t> deal_owners(const layout::BlockTable& blocks, const layout::Plan& plan) {
  std::vector<std::int32_t> owner;
  owner.reserve(static_cast<std::size_t>(blocks.count()));
  const std::int32_t slices = plan.tensor_degree;
  std::vector<std::int64_t> dealt(static_cast<std::size_t>(slices));  // blocks of each slice so far
  for (std::int32_t layer = 0; layer < blocks.layers(); ++layer) {
    const std::int32_t replicas = plan.replicas(plan.stage_of_layer(layer));
    dealt.assign(dealt.size(), layer);
    std::int64_t dealt_to_all = layer;
    for (std::int64_t index = blocks.layer_begin(layer); index < blocks.layer_begin(layer + 1);
         ++index) {
      const std::int32_t slice = blocks.part(blocks.block(index).part).slice;
      std::int64_t member = 0;
      if (slice < 0) {
        member = dealt_to_all++ % (std::int64_t{replicas} * slices);
      } else {
        member = dealt[static_cast<std::size_t>(slice)]++ % replicas * slices + slice;
      }
      owner.push_back(static_cast<std::int32_t>(member));
    }
  }
  return owner;
}

std::vector<std::int32_t> owner_ranks(const layout::BlockTable& blocks, const layout::Plan& plan) {
  std::vector<std::int32_t> ranks;
  ranks.reserve(static_cast<std::size_t>(blocks.count()));
  std::vector<std::int32_t> members;  // of the layer's stage
  for (std::int32_t layer = 0; layer < blocks.layers(); ++layer) {
    members.clear();
    const auto stage = static_cast<std::size_t>(plan.stage_of_layer(layer));
    for (const layout::Replica& replica : plan.stages[stage].replicas)
      members.insert(members.end(), replica.world_ranks.begin(), replica.world_ranks.end());
    for (std::int64_t block = blocks.layer_begin(layer); block < blocks.layer_begin(layer + 1);
         ++block)
      ranks.push_back(
          members[static_cast<std::size_t>(plan.owner[static_cast<std::size_t>(block)])]);
  }
  return ranks;
}

std::vector<layout::Place> places(const layout::Plan& plan) {
  std::vector<layout::Place> by_rank;
  const auto at = [&](std::int32_t rank) -> layout::Place& {
    const auto index = static_cast<std::size_t>(rank);
    if (by_rank.size() <= index) by_rank.resize(index + 1);
    return by_rank[index];
  };
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage) {
    const auto& replicas = plan.stages[stage].replicas;
    for (std::size_t replica = 0; replica < replicas.size(); ++replica)
      for (std::size_t slice = 0; slice < replicas[replica].world_ranks.size(); ++slice)
        at(replicas[replica].world_ranks[slice]) = {static_cast<std::int32_t>(stage),
                                                    static_cast<std::int32_t>(replica),
                                                    static_cast<std::int32_t>(slice)};
  }
  for (const std::int32_t rank : plan.spares) at(rank) = {};
  return by_rank;
}

}  // namespace elaswave::plan
