// A group is a list of world ranks plus a generation: a value. Editing a group is editing the list.
// Collectives over it are built on World's point-to-point messages; every member must call them in
// the same order.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/comm/world.h"

namespace elaswave::comm {

struct Group {
  std::vector<int> world_ranks;  // ascending
  Generation generation{};

  int size() const { return static_cast<int>(world_ranks.size()); }
  /// Position of `world_rank`, or -1.
  int index_of(int world_rank) const;
  bool operator==(const Group&) const = default;
};

/// The group of all ranks of the world.
Group everyone(const World& world);

/// COLLECTIVE over `group`. Element-wise sum (two's complement) into every member's `inout`; same
/// length everywhere. Integer addition: any algorithm gives the same bits.
Result<void> all_reduce_sum(World& world, const Group& group, std::span<std::int64_t> inout,
                            std::string_view operation, Deadline deadline);

/// COLLECTIVE over `group`. `bytes` of the member at `root_index` reach every member; same length
/// everywhere.
Result<void> broadcast(World& world, const Group& group, int root_index, std::span<std::byte> bytes,
                       std::string_view operation, Deadline deadline);

/// COLLECTIVE over `group`. out holds size() rows of in.size() bytes; row i is the `in` of member
/// i.
Result<void> all_gather(World& world, const Group& group, std::span<const std::byte> in,
                        std::span<std::byte> out, std::string_view operation, Deadline deadline);

}  // namespace elaswave::comm
