// Faults made to happen at the probes of one rank.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "elastic/chaos/faults.h"
#include "io/base/clock.h"

namespace elaswave::chaos {

/// What becomes of a rank. Those of tests and of the simulated world may return.
struct Effects {
  std::function<void()> kill;
  std::function<void()> stop;
  std::function<void(int code)> exit;
  std::function<void()> hang;  // the thread that calls it
  /// Before one of the above and when something else begins, for the log; may be empty. THREADS:
  /// any.
  std::function<void(const std::string& what)> say;
  /// The time that cuts are measured with; empty: it stands still.
  std::function<Nanoseconds()> now;
};

/// Of the process itself: SIGKILL, SIGSTOP (for ever; a SIGCONT from outside wakes it), _exit;
/// a hang sleeps for ever.
Effects process_effects();

/// Knows the step from the probes: `resumed`, the state the run begins with, goes up by one where a
/// step is applied (after_apply) or its record rolled forward (recover_roll_forward). A step that
/// is run again after a failure therefore keeps its number, and hits are counted anew. Points
/// between two steps, those of a recovery included, belong to the step begun last. Each fault
/// happens once. THREADS: any; copies of the hook share one state.
class Injector {
 public:
  Injector(Faults faults, Self self, Effects effects, Step resumed);

  /// Empty when there are no faults: probes then cost their one branch.
  ProbeHook hook() const;
  /// The state of the run has changed otherwise: a checkpoint was loaded in place.
  void at_step(Step state);

  /// The step begun last.
  Step step() const;
  double slow_factor() const;
  /// True while nothing gets to `peer` and nothing comes from it.
  bool cut(std::int32_t peer) const;
  /// Asked once for each thing of that kind; true for the one that a fault spoils.
  bool corrupts(Target target);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace elaswave::chaos
