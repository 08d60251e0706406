#include "parallel/layout/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/base/hash.h"

namespace elaswave::layout {
namespace {

bool all_within(const std::vector<std::int32_t>& values, std::int64_t limit) {
  return std::all_of(values.begin(), values.end(),
                     [limit](std::int32_t value) { return value >= 0 && value < limit; });
}

}  // namespace

std::int32_t Plan::stage_of_layer(std::int32_t layer) const {
  const std::int32_t chunk = chunk_of_layer[static_cast<std::size_t>(layer)];
  return stage_of_chunk[static_cast<std::size_t>(chunk)];
}

std::int32_t Plan::replica_for(std::int64_t micro_batch, std::int32_t stage) const {
  const std::size_t index =
      static_cast<std::size_t>(micro_batch) * stages.size() + static_cast<std::size_t>(stage);
  return route[index];
}

std::size_t Plan::row_index(std::int32_t stage, std::int32_t replica) const {
  std::size_t index = static_cast<std::size_t>(replica);
  for (std::int32_t before = 0; before < stage; ++before)
    index += static_cast<std::size_t>(replicas(before));
  return index;
}

std::int32_t Plan::owner_rank(const BlockTable& blocks, std::int64_t block) const {
  const std::int32_t member = owner[static_cast<std::size_t>(block)];
  return rank_of(
      {stage_of_layer(blocks.block(block).layer), member / tensor_degree, member % tensor_degree});
}

LayerRange layers_of_chunk(const Plan& plan, std::int32_t chunk) {
  const auto& layers = plan.chunk_of_layer;
  const auto range = std::equal_range(layers.begin(), layers.end(), chunk);
  return {static_cast<std::int32_t>(range.first - layers.begin()),
          static_cast<std::int32_t>(range.second - layers.begin())};
}

std::vector<std::int32_t> chunks_of_stage(const Plan& plan, std::int32_t stage) {
  std::vector<std::int32_t> chunks;
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk)
    if (plan.stage_of_chunk[static_cast<std::size_t>(chunk)] == stage) chunks.push_back(chunk);
  return chunks;
}

Place place_of(const Plan& plan, std::int32_t world_rank) {
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage) {
    const auto& replicas = plan.stages[stage].replicas;
    for (std::size_t replica = 0; replica < replicas.size(); ++replica) {
      const auto& ranks = replicas[replica].world_ranks;
      const auto found = std::find(ranks.begin(), ranks.end(), world_rank);
      if (found != ranks.end())
        return {static_cast<std::int32_t>(stage), static_cast<std::int32_t>(replica),
                static_cast<std::int32_t>(found - ranks.begin())};
    }
  }
  return {};
}

std::vector<std::int64_t> micro_batches_of(const Plan& plan, const Place& place) {
  std::vector<std::int64_t> mine;
  if (place.stage < 0) return mine;
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    if (plan.replica_for(micro_batch, place.stage) == place.replica) mine.push_back(micro_batch);
  return mine;
}

namespace {

std::string find_layout_fault(const Plan& plan, std::int32_t layers) {
  if (plan.layers() != layers)
    return fmt::format("{} layers placed, the model has {}", plan.layers(), layers);
  if (!all_within(plan.chunk_of_layer, plan.chunks()))
    return "a layer lies in a chunk that does not exist";
  std::int32_t chunk = -1;
  for (const std::int32_t next : plan.chunk_of_layer) {
    if (next != chunk && next != chunk + 1) return "the layers of a chunk are not contiguous";
    chunk = next;
  }
  if (chunk + 1 != plan.chunks()) return fmt::format("chunk {} has no layer", chunk + 1);
  if (!all_within(plan.stage_of_chunk, static_cast<std::int64_t>(plan.stages.size())))
    return "a chunk lies in a stage that does not exist";
  return {};
}

std::string find_rank_fault(const Plan& plan, std::int32_t world_size) {
  std::vector<std::int32_t> used;
  for (const Stage& stage : plan.stages) {
    if (stage.replicas.empty()) return "a stage has no replica";
    for (const Replica& replica : stage.replicas) {
      if (static_cast<std::int32_t>(replica.world_ranks.size()) != plan.tensor_degree)
        return fmt::format("a replica has {} ranks, the tensor degree is {}",
                           replica.world_ranks.size(), plan.tensor_degree);
      used.insert(used.end(), replica.world_ranks.begin(), replica.world_ranks.end());
    }
  }
  used.insert(used.end(), plan.spares.begin(), plan.spares.end());
  if (!all_within(used, world_size))
    return fmt::format("a world rank is outside 0..{}", world_size - 1);
  std::sort(used.begin(), used.end());
  if (std::adjacent_find(used.begin(), used.end()) != used.end())
    return "a world rank is used twice";
  return {};
}

std::string find_route_fault(const Plan& plan) {
  const auto stages = static_cast<std::int32_t>(plan.stages.size());
  if (static_cast<std::int64_t>(plan.route.size()) != plan.micro_batches * stages)
    return fmt::format("{} routes for {} micro-batches x {} stages", plan.route.size(),
                       plan.micro_batches, stages);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    for (std::int32_t stage = 0; stage < stages; ++stage) {
      const std::int32_t replica = plan.replica_for(micro_batch, stage);
      if (replica < 0 || replica >= plan.replicas(stage))
        return fmt::format("micro-batch {} is routed to replica {} of stage {}", micro_batch,
                           replica, stage);
    }
  return {};
}

std::string find_owner_fault(const Plan& plan, const BlockTable& blocks) {
  if (static_cast<std::int64_t>(plan.owner.size()) != blocks.count())
    return fmt::format("{} owners for {} blocks", plan.owner.size(), blocks.count());
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const Block& block = blocks.block(index);
    const std::int32_t stage = plan.stage_of_layer(block.layer);
    const std::int32_t owner = plan.owner[static_cast<std::size_t>(index)];
    if (owner < 0 || owner >= plan.replicas(stage) * plan.tensor_degree)
      return fmt::format("block {} is owned by member {} of stage {}", index, owner, stage);
    const std::int32_t slice = blocks.part(block.part).slice;
    if (slice >= 0 && owner % plan.tensor_degree != slice)
      return fmt::format("block {} of slice {} is owned by member {}", index, slice, owner);
  }
  return {};
}

std::string find_backup_fault(const Plan& plan, const BlockTable& blocks) {
  if (plan.copies < 0 || std::ssize(plan.backup) != blocks.count() * plan.copies)
    return fmt::format("{} backups for {} blocks of {} copies", plan.backup.size(), blocks.count(),
                       plan.copies);
  const std::vector<std::int32_t> present = members(plan);
  for (std::int64_t index = 0; index < blocks.count() && plan.copies > 0; ++index) {
    std::vector<std::int32_t> holders = {plan.owner_rank(blocks, index)};
    for (const std::int32_t rank : plan.backups_of(index)) {
      if (rank < 0) continue;
      if (!std::binary_search(present.begin(), present.end(), rank))
        return fmt::format("block {} has its backup on rank {}, which is no member", index, rank);
      if (std::find(holders.begin(), holders.end(), rank) != holders.end())
        return fmt::format("block {} is kept twice by rank {}", index, rank);
      holders.push_back(rank);
    }
  }
  return {};
}

}  // namespace

std::vector<std::int32_t> members(const Plan& plan) {
  std::vector<std::int32_t> ranks = plan.spares;
  for (const Stage& stage : plan.stages)
    for (const Replica& replica : stage.replicas)
      ranks.insert(ranks.end(), replica.world_ranks.begin(), replica.world_ranks.end());
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

std::string find_fault(const Plan& plan, const BlockTable& blocks, std::int32_t world_size) {
  if (plan.tensor_degree < 1) return fmt::format("tensor degree {}", plan.tensor_degree);
  if (std::string fault = find_layout_fault(plan, blocks.layers()); !fault.empty()) return fault;
  if (std::string fault = find_rank_fault(plan, world_size); !fault.empty()) return fault;
  if (std::string fault = find_route_fault(plan); !fault.empty()) return fault;
  const std::size_t rows = plan.row_index(static_cast<std::int32_t>(plan.stages.size()), 0);
  if (plan.schedule.size() != rows)
    return fmt::format("{} rows of schedule for {} replicas", plan.schedule.size(), rows);
  if (std::string fault = find_owner_fault(plan, blocks); !fault.empty()) return fault;
  return find_backup_fault(plan, blocks);
}

std::uint64_t digest(const Plan& plan) {
  std::uint64_t hash = combine64(raw(plan.generation), plan.id);
  auto fold = [&hash](const std::vector<std::int32_t>& values) {
    hash = combine64(hash, values.size());
    for (const std::int32_t value : values)
      hash = combine64(hash, static_cast<std::uint32_t>(value));
  };
  hash = combine64(hash, static_cast<std::uint32_t>(plan.tensor_degree));
  fold(plan.chunk_of_layer);
  fold(plan.stage_of_chunk);
  hash = combine64(hash, plan.stages.size());
  for (const Stage& stage : plan.stages) {
    hash = combine64(hash, stage.replicas.size());
    for (const Replica& replica : stage.replicas) fold(replica.world_ranks);
  }
  hash = combine64(hash, static_cast<std::uint64_t>(plan.micro_batches));
  fold(plan.route);
  hash = combine64(hash, plan.schedule.size());
  for (const Row& row : plan.schedule) {
    hash = combine64(hash, row.size());
    for (const Action& action : row)
      hash = combine64(
          hash, static_cast<std::uint64_t>(action.op) << 56 |
                    static_cast<std::uint64_t>(static_cast<std::uint32_t>(action.chunk)) << 32 |
                    static_cast<std::uint32_t>(action.micro_batch));
  }
  fold(plan.owner);
  hash = combine64(hash, static_cast<std::uint64_t>(plan.copies));
  fold(plan.backup);
  fold(plan.spares);
  return hash;
}

}  // namespace elaswave::layout
