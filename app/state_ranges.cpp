#include "app/state_ranges.h"

#include <array>
#include <span>

namespace elaswave::app {
namespace {

constexpr std::size_t kKinds = static_cast<std::size_t>(checkpoint::Kind::count);
static_assert(kKinds == 3);

}  // namespace

std::vector<checkpoint::StateRange> state_ranges(const spec::Inventory& inventory,
                                                 const layout::BlockTable& blocks,
                                                 const zero::Shard& shard) {
  std::vector<checkpoint::StateRange> ranges;
  for (const zero::HeldBlock& owned : shard.owned()) {
    const layout::Block& block = blocks.block(owned.block);
    const spec::PartSpec& part = inventory.part(block.part);
    checkpoint::StateRange& range = ranges.emplace_back();
    range.tensor = part.tensor;
    for (const layout::ElementRuns& run : part.map.runs(block.begin, block.elems))
      range.runs.push_back({run.begin, run.elems, run.stride, run.count});
  }
  return ranges;
}

std::vector<checkpoint::StateSource> state_sources(zero::Shard& shard) {
  std::vector<checkpoint::StateSource> sources;
  for (const zero::HeldBlock& owned : shard.owned())
    sources.push_back({shard.master(owned), shard.moment1(owned), shard.moment2(owned)});
  return sources;
}

std::vector<checkpoint::Want> state_wants(const spec::Inventory& inventory,
                                          const layout::BlockTable& blocks, zero::Shard& shard) {
  std::vector<checkpoint::Want> wants;
  const auto add = [&](const zero::HeldBlock& held) {
    const layout::Block& block = blocks.block(held.block);
    const spec::PartSpec& part = inventory.part(block.part);
    const std::array<std::span<float>, kKinds> state = {shard.master(held), shard.moment1(held),
                                                        shard.moment2(held)};
    part.map.visit_runs(
        block.begin, block.elems,
        [&](std::int64_t index, std::int64_t element, std::int64_t length) {
          for (std::size_t kind = 0; kind < kKinds; ++kind)
            wants.push_back({part.tensor, static_cast<checkpoint::Kind>(kind), element,
                             state[kind].subspan(static_cast<std::size_t>(index - block.begin),
                                                 static_cast<std::size_t>(length))});
        });
  };
  for (const zero::HeldBlock& owned : shard.owned()) add(owned);
  // Read like the owned ones, so that a run that goes on from files is not exposed at its start.
  for (const zero::HeldBlock& backup : shard.backups()) add(backup);
  return wants;
}

}  // namespace elaswave::app
