// The plan after a change of membership: what moves least first, what is fastest second. Pure and
// deterministic, integer arithmetic only: ranks that agree on the request agree on the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "elastic/plan/healthy.h"
#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::plan {

/// Which members hold whole state of which blocks, all at the version that was chosen.
struct Holdings {
  std::vector<std::int32_t> members;     // world ranks, ascending
  std::vector<std::vector<bool>> holds;  // [index of member][block]
};

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
  /// Whether every rank has the memory that a plan needs, of which layout, stages and routes are
  /// set; the same answer on every rank. Empty: everything fits.
  std::function<bool(const layout::Plan&)> fits;
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

/// ERRORS: Code::unrecoverable naming what is missing: blocks that nobody holds ("blocks lost"), or
/// fewer members than one replica has slices.
Result<RecoveryPlan> recover_plan(const layout::BlockTable& blocks, const RecoveryRequest& request);

}  // namespace elaswave::plan
