#include "parallel/layout/sums_order.h"

namespace elaswave::layout {
namespace {

void add_layers(const Plan& plan, std::int32_t chunk, std::vector<SumsEvent>& events) {
  const LayerRange range = layers_of_chunk(plan, chunk);
  for (std::int32_t layer = range.end; layer-- > range.begin;) events.push_back({layer, false});
}

template <typename Matches>
std::int64_t last_of(const Row& row, Matches matches) {
  for (std::size_t index = row.size(); index-- > 0;)
    if (matches(row[index])) return static_cast<std::int64_t>(index);
  return -1;
}

}  // namespace

std::int64_t last_gradient(const Row& row, std::int32_t chunk) {
  return last_of(row, [chunk](const Action& action) {
    return action.chunk == chunk && (action.op == Op::backward || action.op == Op::weight_gradient);
  });
}

std::int64_t last_forward(const Row& row, std::int32_t chunk) {
  return last_of(row, [chunk](const Action& action) {
    return action.chunk == chunk && action.op == Op::forward;
  });
}

std::vector<SumsEvent> sums_order(const Plan& plan, std::int32_t stage, std::int32_t replica) {
  const Row& row = plan.row(stage, replica);
  const std::int32_t last_chunk = plan.chunks() - 1;
  const std::vector<std::int32_t> chunks = chunks_of_stage(plan, stage);
  const SumsEvent head{plan.layers() - 1, true};
  std::vector<SumsEvent> events;
  if (row.empty()) {
    if (!chunks.empty() && chunks.back() == last_chunk) events.push_back(head);
    for (std::size_t index = chunks.size(); index-- > 0;) add_layers(plan, chunks[index], events);
    return events;
  }
  std::vector<std::int64_t> last(static_cast<std::size_t>(plan.chunks()), -1);
  for (const std::int32_t chunk : chunks)
    last[static_cast<std::size_t>(chunk)] = last_gradient(row, chunk);
  const std::int64_t head_forward = last_forward(row, last_chunk);
  for (std::int64_t index = 0; index < static_cast<std::int64_t>(row.size()); ++index) {
    const std::int32_t chunk = row[static_cast<std::size_t>(index)].chunk;
    if (index == head_forward) events.push_back(head);
    if (index == last[static_cast<std::size_t>(chunk)]) add_layers(plan, chunk, events);
  }
  return events;
}

}  // namespace elaswave::layout
