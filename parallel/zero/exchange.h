// Who adds to, owns and reads which blocks: the lists that both ends of every reduction and gather
// build their messages from. Derived from the plan.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "parallel/layout/plan.h"
#include "parallel/layout/sums_order.h"

namespace elaswave::zero {

/// Parts of one layer with the same members: the ranks that add to their gradient sums and read
/// their working weights. A sliced part has the same slice of every replica of the layer's stage, a
/// replicated one all slices, a tied one also those of the tied layer's stage.
struct Unit {
  std::int32_t layer = 0;        // home
  std::int32_t tied_layer = -1;  // as in PartExtent, of any of its parts
  std::vector<std::int32_t> parts;
  std::vector<std::int32_t> members;             // world ranks, ascending
  std::vector<std::vector<std::int64_t>> owned;  // [member] -> blocks, ascending
  // What this rank adds: the layer's own gradients, those of the tied layer, or both.
  bool adds_home = false, adds_tied = false;
};

/// Parts that a rank works with, [part]: it adds to their gradient sums and reads their weights.
/// None for a rank that the plan does not use.
std::vector<bool> held_parts(const layout::Plan& plan, const layout::BlockTable& blocks,
                             std::int32_t world_rank);

/// The units that one rank is a member of, ascending by (layer, first part); together their parts
/// are held_parts(). REQUIRES: find_fault() finds none, and rows that sums_order() can read.
class ExchangeMap {
 public:
  ExchangeMap(const layout::BlockTable& blocks, const layout::Plan& plan, std::int32_t world_rank);

  std::int32_t world_rank() const { return world_rank_; }
  std::int32_t count() const { return static_cast<std::int32_t>(units_.size()); }
  const Unit& unit(std::int32_t index) const { return units_[static_cast<std::size_t>(index)]; }
  /// Index of a rank, or of this one, among the members of a unit. REQUIRES: it is one.
  std::int32_t member(std::int32_t unit, std::int32_t world_rank) const;
  std::int32_t self(std::int32_t unit) const { return member(unit, world_rank_); }

  /// All ranks that share a unit with this one, itself included, ascending.
  std::vector<std::int32_t> members() const;

  /// Units in the order in which `member` completes its sums of them, those shared with this rank
  /// alone; units that one event completes, ascending. So both ends of a pair see the same order.
  /// REQUIRES: member is in at least one of them.
  std::span<const std::int32_t> order_of(std::int32_t member) const;

  /// Units whose working weights `layer` reads on this rank, ascending.
  std::vector<std::int32_t> units_read_by(std::int32_t layer) const;

 private:
  void make_units(const layout::BlockTable& blocks, const layout::Plan& plan,
                  const layout::Place& self);
  void make_orders(const layout::Plan& plan);

  std::vector<Unit> units_;
  std::int32_t world_rank_;
  std::vector<std::pair<std::int32_t, std::vector<std::int32_t>>> orders_;  // by member, ascending
};

}  // namespace elaswave::zero
