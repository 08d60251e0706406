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
  std::vector<int> world_ranks;  // in any order, each at most once
  Generation generation{};

  int size() const { return static_cast<int>(world_ranks.size()); }
  /// Position of `world_rank`, or -1.
  int index_of(int world_rank) const;
  bool operator==(const Group&) const = default;
};

/// The group of all live ranks of the world, in its generation.
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

/// Elements [begin, end) of a vector.
struct ElementRange {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
  bool operator==(const ElementRange&) const = default;
};

/// For each member, in the order of the group, the ranges it owns: disjoint, otherwise as one
/// likes: none, several, of unequal lengths; elements may belong to nobody. The same at all
/// members.
using OwnedRanges = std::vector<std::vector<ElementRange>>;

/// COLLECTIVE over `group`. The ranges this member owns become the element-wise sums (two's
/// complement) over all members; the other elements of `inout` stay as they are. Same length
/// everywhere. Any order of adding gives the same bits. Travels on Channel::reduce, directly to
/// the owners; needs memory for two more copies of what this member owns.
Result<void> reduce_scatter_sum(World& world, const Group& group, const OwnedRanges& owned,
                                std::span<std::int64_t> inout, std::string_view operation,
                                Deadline deadline);

/// COLLECTIVE over `group`. Every range of `inout` (elements of `elem_bytes` bytes) becomes what
/// its owner holds there; elements nobody owns stay. Same length everywhere. Travels on
/// Channel::gather, directly from the owners.
Result<void> all_gather_v(World& world, const Group& group, const OwnedRanges& owned,
                          std::int64_t elem_bytes, std::span<std::byte> inout,
                          std::string_view operation, Deadline deadline);

}  // namespace elaswave::comm
