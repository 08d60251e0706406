#include "parallel/zero/exchange.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "io/base/error.h"

namespace elaswave::zero {
namespace {

std::int32_t tied_stage(const layout::Plan& plan, std::int32_t tied_layer) {
  return tied_layer < 0 ? -1 : plan.stage_of_layer(tied_layer);
}

bool holds(const layout::Plan& plan, const layout::PartExtent& part, const layout::Place& place) {
  if (place.stage < 0) return false;
  if (part.slice >= 0 && part.slice != place.slice) return false;
  return place.stage == plan.stage_of_layer(part.layer) ||
         place.stage == tied_stage(plan, part.tied_layer);
}

/// What tells the members of a part among the parts that one rank holds.
struct Membership {
  bool sliced = false;
  std::int32_t home = 0, tied = -1;  // stages; tied: -1 when there is none besides home
  bool operator<(const Membership& other) const {
    return std::tie(sliced, home, tied) < std::tie(other.sliced, other.home, other.tied);
  }
};

Membership membership_of(const layout::Plan& plan, const layout::PartExtent& part) {
  Membership membership{.sliced = part.slice >= 0 && plan.tensor_degree > 1,
                        .home = plan.stage_of_layer(part.layer)};
  const std::int32_t tied = tied_stage(plan, part.tied_layer);
  if (tied != membership.home) membership.tied = tied;
  return membership;
}

std::vector<std::int32_t> ranks_of(const layout::Plan& plan, const Membership& membership,
                                   std::int32_t slice) {
  std::vector<std::int32_t> ranks;
  for (const std::int32_t stage : {membership.home, membership.tied}) {
    if (stage < 0) continue;
    for (const layout::Replica& replica : plan.stages[static_cast<std::size_t>(stage)].replicas)
      if (membership.sliced)
        ranks.push_back(replica.world_ranks[static_cast<std::size_t>(slice)]);
      else
        ranks.insert(ranks.end(), replica.world_ranks.begin(), replica.world_ranks.end());
  }
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

std::size_t position(const std::vector<std::int32_t>& ranks, std::int32_t world_rank) {
  const auto found = std::lower_bound(ranks.begin(), ranks.end(), world_rank);
  EW_CHECK(found != ranks.end() && *found == world_rank, "rank {} is no member", world_rank);
  return static_cast<std::size_t>(found - ranks.begin());
}

/// When the sums of a replica are complete: positions in its sums_order().
class Completion {
 public:
  Completion(const layout::Plan& plan, std::int32_t stage, std::int32_t replica)
      : plan_(plan), stage_(stage), home_at_(static_cast<std::size_t>(plan.layers()), kNever) {
    std::int64_t at = 0;
    for (const layout::SumsEvent& event : layout::sums_order(plan, stage, replica))
      (event.tied ? tied_at_ : home_at_[static_cast<std::size_t>(event.layer)]) = at++;
  }

  /// Of the last addend that a unit gets there.
  std::int64_t of(const Unit& unit) const {
    std::int64_t at = kNever;
    const auto wait_for = [&](std::int64_t event) {
      EW_CHECK(event != kNever, "the sums of layer {} are never complete on stage {}", unit.layer,
               stage_);
      at = std::max(at, event);
    };
    if (plan_.stage_of_layer(unit.layer) == stage_)
      wait_for(home_at_[static_cast<std::size_t>(unit.layer)]);
    if (tied_stage(plan_, unit.tied_layer) == stage_) wait_for(tied_at_);
    return at;
  }

 private:
  static constexpr std::int64_t kNever = -1;

  const layout::Plan& plan_;
  std::int32_t stage_;
  std::vector<std::int64_t> home_at_;  // by layer
  std::int64_t tied_at_ = kNever;
};

}  // namespace

std::vector<bool> held_parts(const layout::Plan& plan, const layout::BlockTable& blocks,
                             std::int32_t world_rank) {
  const layout::Place place = layout::place_of(plan, world_rank);
  std::vector<bool> held(static_cast<std::size_t>(blocks.parts()));
  for (std::int32_t part = 0; part < blocks.parts(); ++part)
    held[static_cast<std::size_t>(part)] = holds(plan, blocks.part(part), place);
  return held;
}

ExchangeMap::ExchangeMap(const layout::BlockTable& blocks, const layout::Plan& plan,
                         std::int32_t world_rank)
    : world_rank_(world_rank) {
  make_units(blocks, plan, layout::place_of(plan, world_rank));
  make_orders(plan);
}

void ExchangeMap::make_units(const layout::BlockTable& blocks, const layout::Plan& plan,
                             const layout::Place& self) {
  std::map<Membership, std::size_t> unit_of;  // of the layer under way
  for (std::int32_t index = 0; index < blocks.parts(); ++index) {
    const layout::PartExtent& part = blocks.part(index);
    if (!holds(plan, part, self)) continue;
    if (!units_.empty() && units_.back().layer != part.layer) unit_of.clear();
    const Membership membership = membership_of(plan, part);
    const auto [found, added] = unit_of.try_emplace(membership, units_.size());
    if (added) {
      Unit& unit = units_.emplace_back();
      unit.layer = part.layer;
      unit.members = ranks_of(plan, membership, self.slice);
      unit.owned.resize(unit.members.size());
      unit.adds_home = self.stage == membership.home;
    }
    Unit& unit = units_[found->second];
    unit.parts.push_back(index);
    if (part.tied_layer >= 0) {
      // sums_order() tells of one tied contribution, the last layer's.
      EW_CHECK(part.tied_layer == plan.layers() - 1, "part {} is tied to layer {}", index,
               part.tied_layer);
      unit.tied_layer = part.tied_layer;
      unit.adds_tied = self.stage == plan.stage_of_layer(part.tied_layer);
    }
    for (std::int64_t block = blocks.part_begin(index); block < blocks.part_begin(index + 1);
         ++block)
      unit.owned[position(unit.members, plan.owner_rank(blocks, block))].push_back(block);
  }
}

void ExchangeMap::make_orders(const layout::Plan& plan) {
  std::map<std::int32_t, std::vector<std::int32_t>> shared;
  for (std::int32_t index = 0; index < count(); ++index)
    for (const std::int32_t member : unit(index).members) shared[member].push_back(index);
  if (shared.empty()) return;
  // By stage and replica, whose slices all do the same.
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica) {
      const auto& ranks = plan.replica(stage, replica).world_ranks;
      if (std::none_of(ranks.begin(), ranks.end(),
                       [&](std::int32_t rank) { return shared.contains(rank); }))
        continue;
      const Completion completion(plan, stage, replica);
      for (const std::int32_t rank : ranks) {
        const auto units = shared.find(rank);
        if (units == shared.end()) continue;
        std::vector<std::pair<std::int64_t, std::int32_t>> timed;
        for (const std::int32_t index : units->second)
          timed.emplace_back(completion.of(unit(index)), index);
        std::sort(timed.begin(), timed.end());
        for (std::size_t i = 0; i < timed.size(); ++i) units->second[i] = timed[i].second;
      }
    }
  orders_.assign(std::make_move_iterator(shared.begin()), std::make_move_iterator(shared.end()));
}

std::int32_t ExchangeMap::member(std::int32_t unit, std::int32_t world_rank) const {
  return static_cast<std::int32_t>(position(this->unit(unit).members, world_rank));
}

std::vector<std::int32_t> ExchangeMap::members() const {
  std::vector<std::int32_t> members;
  for (const auto& [member, units] : orders_) members.push_back(member);
  return members;
}

std::span<const std::int32_t> ExchangeMap::order_of(std::int32_t member) const {
  const auto found = std::lower_bound(
      orders_.begin(), orders_.end(), member,
      [](const auto& entry, std::int32_t world_rank) { return entry.first < world_rank; });
  EW_CHECK(found != orders_.end() && found->first == member, "rank {} shares no unit with rank {}",
           member, world_rank_);
  return found->second;
}

std::vector<std::int32_t> ExchangeMap::units_read_by(std::int32_t layer) const {
  std::vector<std::int32_t> read;
  for (std::int32_t index = 0; index < count(); ++index) {
    const Unit& candidate = unit(index);
    if ((candidate.adds_home && candidate.layer == layer) ||
        (candidate.adds_tied && candidate.tied_layer == layer))
      read.push_back(index);
  }
  return read;
}

}  // namespace elaswave::zero
