#include "parallel/pipeline/list_flow.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace elaswave::pipeline {
namespace {

using layout::Plan;

struct Hop {
  std::int32_t from = 0, to = -1;  // rows; to: -1 when the output stays
  std::int32_t micro_batch = 0;
  bool operator<(const Hop& other) const {
    return std::tie(from, to, micro_batch) < std::tie(other.from, other.to, other.micro_batch);
  }
};

std::int32_t row_of(const Plan& plan, const Flow& flow, std::int64_t micro_batch,
                    std::int32_t position) {
  const std::int32_t stage = flow.stage_of_position[index_of(position)];
  return flow.first_row[index_of(stage)] + plan.replica_for(micro_batch, stage);
}

/// The hops of all micro-batches at one position, grouped by where from and where to.
void sort_hops(const Plan& plan, const Flow& flow, std::int32_t position, std::vector<Hop>& hops) {
  const auto& stages = flow.stage_of_position;
  const bool stays = position + 1 == flow.positions ||
                     stages[index_of(position)] == stages[index_of(position + 1)];
  hops.clear();
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    hops.push_back({row_of(plan, flow, micro_batch, position),
                    stays ? -1 : row_of(plan, flow, micro_batch, position + 1),
                    static_cast<std::int32_t>(micro_batch)});
  std::sort(hops.begin(), hops.end());
}

/// Numbers the links and tells them to the lanes; `to` holds each lane's receiving row or -1.
void add_links(const std::vector<std::int32_t>& to, Flow& flow) {
  std::vector<std::pair<std::int32_t, std::int32_t>> ends;
  for (std::size_t lane = 0; lane < to.size(); ++lane)
    if (to[lane] >= 0) ends.emplace_back(flow.lanes[lane].row, to[lane]);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  for (const auto& [from, receiver] : ends) flow.links.push_back({from, receiver});
  for (std::size_t lane = 0; lane < to.size(); ++lane) {
    if (to[lane] < 0) continue;
    const auto found =
        std::lower_bound(ends.begin(), ends.end(), std::pair(flow.lanes[lane].row, to[lane]));
    flow.lanes[lane].link = static_cast<std::int32_t>(found - ends.begin());
  }
}

void group_lanes_by_row(Flow& flow) {
  flow.lane_begin.assign(index_of(flow.rows()) + 1, 0);
  for (const Lane& lane : flow.lanes) ++flow.lane_begin[index_of(lane.row) + 1];
  for (std::size_t row = 1; row < flow.lane_begin.size(); ++row)
    flow.lane_begin[row] += flow.lane_begin[row - 1];
  std::vector<std::int32_t> filled(flow.lane_begin.begin(), flow.lane_begin.end() - 1);
  flow.lanes_of_row.resize(flow.lanes.size());
  for (std::size_t lane = 0; lane < flow.lanes.size(); ++lane)
    flow.lanes_of_row[index_of(filled[index_of(flow.lanes[lane].row)]++)] =
        static_cast<std::int32_t>(lane);
}

}  // namespace

Flow make_flow(const Plan& plan) {
  Flow flow;
  flow.chunks = plan.chunks();
  flow.positions = 2 * flow.chunks;
  flow.stage_of_position = plan.stage_of_chunk;
  flow.stage_of_position.insert(flow.stage_of_position.end(), plan.stage_of_chunk.rbegin(),
                                plan.stage_of_chunk.rend());
  flow.chunks_of_stage.assign(plan.stages.size(), 0);
  for (const std::int32_t stage : plan.stage_of_chunk) ++flow.chunks_of_stage[index_of(stage)];
  flow.first_row.push_back(0);
  for (const layout::Stage& stage : plan.stages)
    flow.first_row.push_back(flow.first_row.back() +
                             static_cast<std::int32_t>(stage.replicas.size()));

  flow.lane.resize(index_of(plan.micro_batches * flow.positions));
  std::vector<Hop> hops;
  std::vector<std::int32_t> to;  // of each lane
  for (std::int32_t position = 0; position < flow.positions; ++position) {
    sort_hops(plan, flow, position, hops);
    for (std::size_t index = 0; index < hops.size(); ++index) {
      const Hop& hop = hops[index];
      if (index == 0 ||
          std::pair(hop.from, hop.to) != std::pair(hops[index - 1].from, hops[index - 1].to)) {
        flow.lanes.push_back({.row = hop.from, .position = position});
        to.push_back(hop.to);
      }
      flow.lane[index_of(std::int64_t{hop.micro_batch} * flow.positions + position)] =
          static_cast<std::int32_t>(flow.lanes.size()) - 1;
    }
  }
  add_links(to, flow);
  group_lanes_by_row(flow);
  return flow;
}

}  // namespace elaswave::pipeline
