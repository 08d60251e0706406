// Schedules as data: generators for one regular pipeline, passes over rows, the list scheduler for
// arbitrary routes, the model of time, and the validator that proves order and termination before
// anything runs. Pure; integer arithmetic; total orders.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::pipeline {

/// Published schedules (README.md, "Schedules": sources, preconditions, bubble, memory).
enum class Schedule : std::uint8_t { gpipe, one_f_one_b, interleaved, zb_h1, zbv };

/// As written in parallel.schedule: gpipe, 1f1b, interleaved, zb-h1, zbv.
std::string_view name(Schedule schedule);

struct PipelineShape {
  std::int32_t stages = 1;         // p
  std::int32_t chunks = 1;         // v, of each stage
  std::int32_t micro_batches = 1;  // m, of this pipeline
};

/// Code::usage with the precondition that fails and what would do.
Result<void> check_shape(Schedule schedule, const PipelineShape& shape);

/// Stage of each of p * v chunks: round and round, or down and up again for zbv.
std::vector<std::int32_t> placement(Schedule schedule, std::int32_t stages, std::int32_t chunks);

/// One row a stage; micro-batches are numbered 0 .. m - 1. Schedules that split the backward give I
/// and W, the others B. REQUIRES: check_shape().
std::vector<layout::Row> generate(Schedule schedule, const PipelineShape& shape);

/// B becomes I, W.
layout::Row split_backward(const layout::Row& row);
/// I directly followed by its own W becomes B.
layout::Row fuse_backward(const layout::Row& row);
/// Puts R before every B or I that does not directly follow its own F.
layout::Row with_recompute(const layout::Row& row);

/// Durations in nanoseconds, by chunk. B costs input + weight gradient.
struct ChunkCost {
  std::int64_t forward = 1, input_gradient = 1, weight_gradient = 1, recompute = 1;
};
struct Costs {
  std::vector<ChunkCost> chunks;
  std::int64_t message = 0;  // from the end of an action to the start of what needs it, elsewhere
  /// [row] how long its actions take, in kPaceUnits-ths of what the chunk costs; empty: all alike.
  std::vector<std::int64_t> pace;
};
inline constexpr std::int64_t kPaceUnits = 16;
/// On a row at the pace that chunks are priced at.
std::int64_t duration(const Costs& costs, const layout::Action& action);
std::int64_t duration(const Costs& costs, std::size_t row, const layout::Action& action);

/// The schedule's own prediction: every row runs in order, an action starts when its row is free
/// and what it needs has arrived. Sends cost the sender nothing (but see rendezvous in program.h).
struct Timing {
  std::vector<std::vector<std::int64_t>> begin, end;  // [row][action], ns
  std::int64_t makespan = 0;
  std::vector<std::int64_t> busy;  // [row]
  /// Idle share of the longest-running step: 1 - busy / makespan, over all rows.
  double bubble() const;
};
/// REQUIRES: check_schedule() finds nothing.
Timing predict(const layout::Plan& plan, const Costs& costs);

/// Most activations a row keeps at once, in units of one micro-batch over one chunk: from F (or R,
/// when there is one) to B or W.
struct RowMemory {
  std::int32_t live = 0;          // stashes
  std::int32_t inputs = 0;        // chunk inputs alone, from F to the R that rebuilds the rest
  std::int32_t weight_stash = 0;  // between I and W
};
std::vector<RowMemory> peak_memory(const layout::Plan& plan);

/// Where a schedule is wrong: the action at (row, column), or column == row length when the row
/// lacks something.
struct ScheduleFault {
  std::size_t row = 0, column = 0;
  std::string what;
};
/// Everything that must hold before lower() may run: each action once, where the route sends it, F
/// before R before B or I, I before W, and after what the neighbouring chunk of the same stage
/// hands over. Forwards alone are complete when no row has anything else. Empty `what` when sound.
/// REQUIRES: a plan in which layout::find_fault() finds nothing but, at most, the number of rows.
ScheduleFault check_rows(const layout::Plan& plan);
/// check_rows(), then proves that the lowered programs end with rendezvous sends (program.h), and
/// that no row keeps more than `cap` live stashes (0: any number).
ScheduleFault check_schedule(const layout::Plan& plan, std::int32_t cap);
/// The rows around the fault, the offending cell marked, and what is wrong. Empty without a fault.
std::string fault_text(const layout::Plan& plan, const ScheduleFault& fault);

/// Rows for arbitrary complete routes: any replica of each stage, unequal shares, unequal numbers
/// of replicas, chunks on any stages. Greedy in the order of simulated time: a free row takes the
/// most urgent action that is ready and allowed (forward and backward in turn, W when there is
/// nothing else), a forward only while everything in flight can still finish under the cap
/// (README.md). Ends with rendezvous sends (program.h), also after the passes above.
/// `plan.schedule` is ignored. O(actions * log); a row looks at all its neighbours before each
/// action. REQUIRES: the plan has stages, every chunk a cost, no cost is negative, cap >= 0.
struct ListOptions {
  bool split = false;  // I and W apart
  /// Live stashes of a row. 0: as few as a balanced pipeline needs: p with one chunk a stage, else
  /// the warm-up of interleaved or ZBV, and what messages under way add. Unequal routes gain from
  /// up to twice as many.
  std::int32_t cap = 0;
};
/// Code::does_not_fit when the cap is too small for these routes, with the least that would do.
Result<std::vector<layout::Row>> list_schedule(const layout::Plan& plan, const Costs& costs,
                                               const ListOptions& options);

}  // namespace elaswave::pipeline
