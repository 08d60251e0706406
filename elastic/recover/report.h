// What a recovery did and how long each of its phases took, on one rank's clock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "elastic/plan/recovery.h"
#include "io/base/clock.h"
#include "io/base/types.h"

namespace elaswave::recover {

/// Phases in the order in which they follow each other. A recovery that is broken off by a further
/// failure starts again with `agree`; time spent adds up.
enum class Phase : std::uint8_t {
  agree,       // this rank's agent doubts a peer -> the view is decided
  abort,       // -> the step loop has left the step and entered the view
  choose,      // inventories, the version to go on from, rolling forward
  plan,        // the plan
  promote,     // state moved, memory rearranged, working weights of owned blocks
  gate,        // -> all members are ready
  first_step,  // -> the first step under the plan is committed
  count,
};

constexpr std::string_view name(Phase phase) {
  constexpr std::string_view names[] = {"agree",   "abort", "choose",    "plan",
                                        "promote", "gate",  "first_step"};
  static_assert(std::size(names) == static_cast<std::size_t>(Phase::count));
  return names[static_cast<std::size_t>(phase)];
}

struct RecoveryReport {
  Generation generation{};
  std::vector<std::int32_t> lost;     // members of the last view that ran a step; may be nobody
  std::vector<std::int32_t> members;  // of the new one
  Step step{};                        // the state that training goes on from
  /// Blocks were gone with all their copies, and that state was loaded from a checkpoint. The steps
  /// from there to `undone` are trained again.
  bool from_checkpoint = false;
  Step undone{};
  bool copies_differed = false;  // the reason for it: the state itself was not to be trusted
  bool rolled_forward = false;   // this rank applied that step from its log
  std::string_view interrupted;  // what this rank was doing when it left the step: a phase
  std::int64_t attempts = 1;     // views that this recovery went through
  plan::Response response = plan::Response::keep;
  std::string schedule;
  std::int64_t stages = 0, replicas = 0, spares = 0;
  std::int64_t moved_bytes = 0;         // received by all members, on the critical path
  std::int64_t refilled_bytes = 0;      // to new copies, afterwards
  std::int64_t micro_batches_lost = 0;  // of the step under way: computed again
  Nanoseconds phases[static_cast<std::size_t>(Phase::count)] = {};
  Nanoseconds total = 0;  // from the first doubt to the first committed step
  Nanoseconds exposure =
      0;  // from the failure until every block had its copies again; 0: still open
};

}  // namespace elaswave::recover
