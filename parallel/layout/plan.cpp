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

std::string find_fault(const Plan& plan, const BlockTable& blocks, std::int32_t world_size) {
  if (static_cast<std::int32_t>(plan.chunk_of_layer.size()) != blocks.layers())
    return fmt::format("{} layers placed, the model has {}", plan.chunk_of_layer.size(),
                       blocks.layers());
  const auto stages = static_cast<std::int64_t>(plan.stages.size());
  if (!all_within(plan.chunk_of_layer, static_cast<std::int64_t>(plan.stage_of_chunk.size())))
    return "a layer lies in a chunk that does not exist";
  if (!all_within(plan.stage_of_chunk, stages))
    return "a chunk lies in a stage that does not exist";
  std::vector<std::int32_t> used;
  for (const Stage& stage : plan.stages) {
    if (stage.replicas.empty()) return "a stage has no replica";
    for (const Replica& replica : stage.replicas) {
      if (replica.world_ranks.empty()) return "a replica has no rank";
      used.insert(used.end(), replica.world_ranks.begin(), replica.world_ranks.end());
    }
  }
  if (!all_within(used, world_size))
    return fmt::format("a world rank is outside 0..{}", world_size - 1);
  std::sort(used.begin(), used.end());
  if (std::adjacent_find(used.begin(), used.end()) != used.end())
    return "a world rank is used twice";
  if (static_cast<std::int64_t>(plan.route.size()) != plan.micro_batches * stages)
    return fmt::format("{} routes for {} micro-batches x {} stages", plan.route.size(),
                       plan.micro_batches, stages);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    for (std::int32_t stage = 0; stage < stages; ++stage) {
      const std::int32_t replica = plan.replica_for(micro_batch, stage);
      if (replica < 0 ||
          replica >= static_cast<std::int32_t>(
                         plan.stages[static_cast<std::size_t>(stage)].replicas.size()))
        return fmt::format("micro-batch {} is routed to replica {} of stage {}", micro_batch,
                           replica, stage);
    }
  if (static_cast<std::int64_t>(plan.owner.size()) != blocks.count())
    return fmt::format("{} owners for {} blocks", plan.owner.size(), blocks.count());
  for (std::int64_t index = 0; index < blocks.count(); ++index) {
    const auto stage = static_cast<std::size_t>(plan.stage_of_layer(blocks.block(index).layer));
    const std::int32_t owner = plan.owner[static_cast<std::size_t>(index)];
    if (owner < 0 || owner >= static_cast<std::int32_t>(plan.stages[stage].replicas.size()))
      return fmt::format("block {} is owned by replica {} of stage {}", index, owner, stage);
  }
  return {};
}

std::uint64_t digest(const Plan& plan) {
  std::uint64_t hash = combine64(raw(plan.generation), plan.id);
  auto fold = [&hash](const std::vector<std::int32_t>& values) {
    hash = combine64(hash, values.size());
    for (const std::int32_t value : values)
      hash = combine64(hash, static_cast<std::uint32_t>(value));
  };
  fold(plan.chunk_of_layer);
  fold(plan.stage_of_chunk);
  hash = combine64(hash, plan.stages.size());
  for (const Stage& stage : plan.stages) {
    hash = combine64(hash, stage.replicas.size());
    for (const Replica& replica : stage.replicas) fold(replica.world_ranks);
  }
  hash = combine64(hash, static_cast<std::uint64_t>(plan.micro_batches));
  fold(plan.route);
  fold(plan.owner);
  return hash;
}

}  // namespace elaswave::layout
