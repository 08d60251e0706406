// The plan: all a view needs to run a step, as plain data that can be compared, printed and
// digested. Its makers live in elastic/plan; everything that runs reads it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/base/types.h"
#include "parallel/layout/action.h"
#include "parallel/layout/blocks.h"

namespace elaswave::layout {

/// One tensor-parallel group able to run a stage: the unit of failure. World ranks in slice order.
struct Replica {
  std::vector<std::int32_t> world_ranks;
  bool operator==(const Replica&) const = default;
};

struct Stage {
  std::vector<Replica> replicas;
  bool operator==(const Stage&) const = default;
};

/// Where a world rank stands in a plan; stage is -1 for a rank the plan does not use.
struct Place {
  std::int32_t stage = -1;
  std::int32_t replica = 0;
  std::int32_t slice = 0;
  bool operator==(const Place&) const = default;
};

struct Plan {
  Generation generation{};  // membership it was made for
  std::uint32_t id = 0;     // grows with every change of plan, also within a generation

  std::int32_t tensor_degree = 1;            // slices of every replica
  std::vector<std::int32_t> chunk_of_layer;  // ascending from 0 without gaps
  std::vector<std::int32_t> stage_of_chunk;
  std::vector<Stage> stages;

  std::int64_t micro_batches = 0;   // G
  std::vector<std::int32_t> route;  // [micro_batch * stages + stage] -> replica of that stage
  std::vector<Row> schedule;        // [row_index(stage, replica)]
  /// Block -> member of its home stage, replica * tensor_degree + slice. A block of a sliced part
  /// is owned in its own slice.
  std::vector<std::int32_t> owner;
  /// Copies of a block's state beside the owner's, and who keeps them: [block * copies + i] ->
  /// world rank, or -1 where there is nobody fit to. A backup follows the log from when it was
  /// filled; it need not be in the block's home stage, nor have a place in any.
  std::int32_t copies = 0;
  std::vector<std::int32_t> backup;
  /// Members of the view without a place, ascending: they keep backups, take part in the commit
  /// point and compute nothing.
  std::vector<std::int32_t> spares;

  bool operator==(const Plan&) const = default;

  std::int32_t chunks() const { return static_cast<std::int32_t>(stage_of_chunk.size()); }
  std::int32_t layers() const { return static_cast<std::int32_t>(chunk_of_layer.size()); }
  std::int32_t stage_of_layer(std::int32_t layer) const;
  std::int32_t replica_for(std::int64_t micro_batch, std::int32_t stage) const;
  const Replica& replica(std::int32_t stage, std::int32_t index) const {
    return stages[static_cast<std::size_t>(stage)].replicas[static_cast<std::size_t>(index)];
  }
  std::int32_t replicas(std::int32_t stage) const {
    return static_cast<std::int32_t>(stages[static_cast<std::size_t>(stage)].replicas.size());
  }
  /// Rows are ordered by stage, then replica.
  std::size_t row_index(std::int32_t stage, std::int32_t replica) const;
  const Row& row(std::int32_t stage, std::int32_t replica) const {
    return schedule[row_index(stage, replica)];
  }
  std::int32_t rank_of(const Place& place) const {
    return replica(place.stage, place.replica).world_ranks[static_cast<std::size_t>(place.slice)];
  }
  /// World ranks that keep copies of a block, -1 for none.
  std::span<const std::int32_t> backups_of(std::int64_t block) const {
    return std::span(backup).subspan(static_cast<std::size_t>(block * copies),
                                     static_cast<std::size_t>(copies));
  }
  /// World rank of the owner of a block.
  std::int32_t owner_rank(const BlockTable& blocks, std::int64_t block) const;
};

Place place_of(const Plan& plan, std::int32_t world_rank);

/// All world ranks of a plan, spares included, ascending: the members of its view.
std::vector<std::int32_t> members(const Plan& plan);

/// First and one past the last layer of a chunk.
struct LayerRange {
  std::int32_t begin = 0, end = 0;
};
LayerRange layers_of_chunk(const Plan& plan, std::int32_t chunk);
/// Chunks of a stage, ascending.
std::vector<std::int32_t> chunks_of_stage(const Plan& plan, std::int32_t stage);

/// Micro-batches that `place` runs, ascending.
std::vector<std::int64_t> micro_batches_of(const Plan& plan, const Place& place);

/// Says what is wrong with a plan: lengths, ranges, a rank used twice, a layer or block without a
/// home. Empty when sound. The order of the schedule is the validator's (parallel/pipeline).
std::string find_fault(const Plan& plan, const BlockTable& blocks, std::int32_t world_size);

/// Ranks that computed a plan on their own compare this before they use it.
std::uint64_t digest(const Plan& plan);

}  // namespace elaswave::layout
