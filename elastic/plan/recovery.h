// The plan after a change of membership: what moves least first, what is fastest second. Pure and
// deterministic, integer arithmetic only: ranks that agree on the request agree on the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "elastic/plan/budget.h"
#include "elastic/plan/healthy.h"
#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Which members hold whole state of which blocks, all at the version that was chosen.
struct Holdings {
  std::vector<std::int32_t> members;     // world ranks, ascending
  std::vector<std::vector<bool>> holds;  // [index of member][block]
  /// Elements that each member holds: counting them here, members x blocks, would take long. Empty:
  /// not known.
  std::vector<std::int64_t> elems;
};

/// State that a plan gives its holder no role in: it stays in memory until the first step under the
/// plan is committed. By world rank up to the last member, bytes; 0 where nothing is known.
std::vector<std::int64_t> unused_bytes(const layout::BlockTable& blocks, const Holdings& holdings,
                                       const layout::Plan& plan);

struct RecoveryRequest {
  /// The newest plan that any member ran or was about to run: schedule, route, owners may be empty
  /// (the layout and the stages' ranks are what matters). Its ranks need not be members any more.
  layout::Plan previous;
  Holdings holdings;  // of all members of the view, whoever has a place or none
  /// What the run asks for: tensor degree, stages, chunks, schedule, costs, micro-batches, domains,
  /// copies. world_size is that of the start.
  HealthyRequest wish;
  Generation generation{};
  std::uint32_t id = 0;
  /// The rank of a complete plan that is asked for more memory than it may use, if there is one;
  /// the same answer on every rank. Empty: everything fits.
  std::function<std::optional<Shortage>(const layout::Plan&)> shortage;
};

/// State of a block that a member lacks: from a holder to it.
struct Move {
  std::int64_t block = 0;
  std::int32_t from = 0, to = 0;  // world ranks
  bool operator==(const Move&) const = default;
};

enum class Response : std::uint8_t {
  keep,     // every stage still has a replica: routes and owners are edited
  relayer,  // layers had to move: another number of stages, or replicas that changed stage
};

struct RecoveryPlan {
  layout::Plan plan;
  std::vector<Move> moves;    // before a step can run: new owners that hold nothing; by (block)
  std::vector<Move> refills;  // afterwards: backups that are not filled; by (block, to)
  Response response = Response::keep;
  std::string schedule;  // as HealthyPlan::schedule
};

/// ERRORS: Code::unrecoverable naming what is missing: blocks that nobody holds ("blocks lost"),
/// fewer members than one replica has slices, or memory: of the layouts and schedules that there
/// are, none fits with as many copies as are wished for.
Result<RecoveryPlan> recover_plan(const layout::BlockTable& blocks, const RecoveryRequest& request);

}  // namespace elaswave::plan
