// Failures one after another, and what must hold of the plan after each: written without the
// planner's own code. Who holds what follows from the plans and from what they had moved.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "elastic/plan/recovery.h"
#include "parallel/pipeline/schedule.h"
#include "tests/support/plans.h"

namespace elaswave::test {

/// How much of the previous plan a recovery is told: everything, or layout and ranks alone.
enum class Told { everything, layout };

/// What a recovery is judged by: the request, with everything told, and sets in place of tables.
class RecoveryOracle {
 public:
  RecoveryOracle(const layout::BlockTable& blocks, const plan::RecoveryRequest& request, Told told)
      : blocks_(blocks),
        request_(request),
        told_(told),
        members_(request.holdings.members.begin(), request.holdings.members.end()) {}

  bool holds(std::int32_t rank, std::int64_t block) const {
    const auto& ranks = request_.holdings.members;
    const auto found = std::find(ranks.begin(), ranks.end(), rank);
    return found != ranks.end() && request_.holdings.holds[static_cast<std::size_t>(
                                       found - ranks.begin())][static_cast<std::size_t>(block)];
  }
  std::int64_t lost() const {
    std::int64_t lost = 0;
    for (std::int64_t block = 0; block < blocks_.count(); ++block)
      lost += std::none_of(members_.begin(), members_.end(),
                           [&](std::int32_t rank) { return holds(rank, block); });
    return lost;
  }
  /// Memory may say no to what would be best.
  bool limited() const { return request_.shortage != nullptr; }
  bool enough_ranks() const { return std::ssize(members_) >= request_.wish.tensor; }
  bool survives(const layout::Replica& replica) const {
    return std::all_of(replica.world_ranks.begin(), replica.world_ranks.end(),
                       [&](std::int32_t rank) { return members_.contains(rank); });
  }
  bool keeps_stages() const {
    return std::all_of(request_.previous.stages.begin(), request_.previous.stages.end(),
                       [&](const layout::Stage& stage) {
                         return std::any_of(
                             stage.replicas.begin(), stage.replicas.end(),
                             [&](const layout::Replica& replica) { return survives(replica); });
                       });
  }
  std::int32_t domain(std::int32_t rank) const {
    const plan::Domains& domains = request_.wish.domains;
    return domains.empty() ? rank : domains[static_cast<std::size_t>(rank)];
  }
  std::size_t domains() const {
    std::set<std::int32_t> all;
    for (const std::int32_t rank : members_) all.insert(domain(rank));
    return all.size();
  }

  /// What is wrong with an answer; empty when nothing is.
  std::string judge(const plan::RecoveryPlan& made) const;

 private:
  std::string judge_plan(const plan::RecoveryPlan& made) const;
  std::string judge_kept_stages(const plan::RecoveryPlan& made) const;
  std::string judge_owners(const plan::RecoveryPlan& made) const;
  std::string judge_backups(const plan::RecoveryPlan& made) const;
  std::string judge_routes(const plan::RecoveryPlan& made) const;

  /// Ranks of a block's home stage that may own it.
  std::vector<std::int32_t> home(const layout::Plan& plan, std::int64_t block) const;
  const layout::BlockTable& blocks_;
  const plan::RecoveryRequest& request_;
  Told told_;
  std::set<std::int32_t> members_;
};

/// A run from its first plan on. Every fail() and join() makes a plan and judges it.
class History {
 public:
  History(layout::BlockTable blocks, plan::HealthyRequest wish, layout::Plan first, Told told);

  enum class Outcome { went_on, lost, too_few, too_large };
  struct Answer {
    Outcome outcome = Outcome::went_on;
    std::string fault;  // what is wrong with the plan or the refusal
    plan::Response response = plan::Response::keep;
    std::int64_t moved = 0;  // blocks
    std::string text;        // of a refusal
  };
  /// From now on plans must fit; as plan::RecoveryRequest::shortage.
  using Shortage = std::function<std::optional<plan::Shortage>(const layout::Plan&)>;
  void limit(Shortage shortage) { shortage_ = std::move(shortage); }
  /// Ranks go, others come without holding anything.
  Answer change(const std::vector<std::int32_t>& gone, const std::vector<std::int32_t>& come);
  /// The first `count` moves of the plan are done. What was held is kept.
  void move(std::int64_t count);
  /// All moves are done and missing copies filled; what the plan does not want is dropped.
  void refill();

  const layout::Plan& plan() const { return plan_; }
  const std::vector<std::int32_t>& members() const { return members_; }
  /// A block that a failure of this domain would lose, or -1.
  std::int64_t lost_with(std::int32_t domain) const;
  std::int32_t domain(std::int32_t rank) const {
    return wish_.domains.empty() ? rank : wish_.domains[static_cast<std::size_t>(rank)];
  }
  std::vector<std::int32_t> ranks_of(std::int32_t domain) const;
  std::size_t domains() const;

 private:
  std::string judge_memory(plan::RecoveryRequest request,
                           const Result<plan::RecoveryPlan>& made) const;

  layout::BlockTable blocks_;
  plan::HealthyRequest wish_;
  Told told_;
  layout::Plan plan_;
  Shortage shortage_;
  std::vector<plan::Move> moves_;
  std::vector<std::int32_t> members_;
  std::vector<std::vector<bool>> holds_;  // [world rank][block]
};

}  // namespace elaswave::test
