// Which ranks make replicas after a change of membership. Internal to this folder.
#pragma once

#include <cstdint>
#include <vector>

#include "elastic/plan/recovery_holders.h"

namespace elaswave::plan {

/// Ranks that run a stage together, by slice, and where they did so before (-1: nowhere).
struct Group {
  std::vector<std::int32_t> ranks;
  std::int32_t stage = -1, replica = -1;
};

/// Members that are in no whole replica, and what they hold of each stage of the previous plan.
class Pool {
 public:
  Pool(const layout::BlockTable& blocks, const layout::Plan& previous, const Holders& holders,
       std::vector<std::int32_t> ranks);

  std::int32_t size() const { return static_cast<std::int32_t>(ranks_.size()); }
  const std::vector<std::int32_t>& ranks() const { return ranks_; }  // ascending

  /// A replica for a stage: slice and rank that fit best first, then the next best of the others;
  /// fit is elements held of the stage in the slice, ties go to the lower slice and rank. `held` is
  /// their sum. REQUIRES: size() >= tensor degree.
  struct Offer {
    std::vector<std::int32_t> ranks;  // by slice
    std::int64_t held = 0;
  };
  Offer offer(std::int32_t stage) const;
  void take(const Offer& offer);

 private:
  std::int64_t held(std::size_t index, std::int32_t stage, std::int32_t slice) const {
    return held_[index][static_cast<std::size_t>(std::int64_t{stage} * slices_ + slice)];
  }

  std::int32_t slices_;
  std::vector<std::int32_t> ranks_;
  std::vector<std::vector<std::int64_t>> held_;  // [index][stage * slices + slice], elements
};

struct Survivors {
  std::vector<std::vector<Group>> stages;  // replicas without losses, by previous stage
  std::vector<std::int32_t> others;        // members without one, ascending

  /// Every stage has somebody to run it.
  bool complete() const;
};
Survivors find_survivors(const layout::Plan& previous, const Holders& holders);

/// New replicas of whoever has none, one after another to the stage that bears most: whose largest
/// share of micro-batches takes longest, then the one with most work for each replica, then the one
/// whose blocks are held already, then the lowest. Whoever is left over stays in `others`.
void refill_stages(const layout::BlockTable& blocks, const layout::Plan& previous,
                   const HealthyRequest& wish, const Holders& holders, Survivors& survivors);

/// The same without stages to give them to: groups that hold most of some stage first.
std::vector<Group> regroup(const layout::BlockTable& blocks, const layout::Plan& previous,
                           const Holders& holders, std::vector<std::int32_t>& others);

}  // namespace elaswave::plan
