#include "elastic/plan/owners.h"

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

}  // namespace elaswave::plan
