// Validation: check_rows(), check_schedule(). README.md, "Validation".
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "parallel/pipeline/lowering.h"
#include "parallel/pipeline/schedule.h"
#include "parallel/pipeline/wait_graph.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;
using layout::Row;
using layout::to_text;

Action with_op(Action action, Op op) {
  action.op = op;
  return action;
}

/// Where each (micro-batch, chunk) is worked on in the row it is routed to; -1: nowhere.
struct Columns {
  std::array<std::int32_t, 5> of_op = {-1, -1, -1, -1, -1};
  std::int32_t& operator[](Op op) { return of_op[static_cast<std::size_t>(op)]; }
  bool has(Op op) const { return of_op[static_cast<std::size_t>(op)] >= 0; }
};

class RowChecker {
 public:
  explicit RowChecker(const Plan& plan)
      : plan_(plan), columns_(index_of(plan.micro_batches) * plan.stage_of_chunk.size()) {}

  /// Takes the next action of a row; what is wrong with it, or nothing.
  std::string add(std::int32_t stage, std::int32_t replica, std::int32_t column,
                  const Action& action) {
    if (std::string fault = find_stray(stage, replica, action); !fault.empty()) return fault;
    Columns& seen = columns_[cell(action.micro_batch, action.chunk)];
    if (seen.has(action.op))
      return fmt::format("{} is already at column {}", to_text(action), seen[action.op]);
    if (std::string fault = find_disorder(seen, action); !fault.empty()) return fault;
    seen[action.op] = column;
    return {};
  }

  /// What is lacking of one micro-batch over one chunk, or nothing.
  std::string find_lack(std::int64_t micro_batch, std::int32_t chunk, bool forward_only) const {
    const Columns& seen = columns_[cell(micro_batch, chunk)];
    const Action forward{Op::forward, chunk, static_cast<std::int32_t>(micro_batch)};
    if (!seen.has(Op::forward)) return fmt::format("{} is missing", to_text(forward));
    if (forward_only || seen.has(Op::backward)) return {};
    const Action weight = with_op(forward, Op::weight_gradient);
    if (!seen.has(Op::input_gradient))
      return fmt::format("{} is missing, or {} and {}", to_text(with_op(forward, Op::backward)),
                         to_text(with_op(forward, Op::input_gradient)), to_text(weight));
    return seen.has(Op::weight_gradient) ? "" : fmt::format("{} is missing", to_text(weight));
  }

 private:
  std::size_t cell(std::int64_t micro_batch, std::int32_t chunk) const {
    return index_of(micro_batch) * plan_.stage_of_chunk.size() + index_of(chunk);
  }

  std::string find_stray(std::int32_t stage, std::int32_t replica, const Action& action) const {
    if (action.chunk < 0 || action.chunk >= plan_.chunks())
      return fmt::format("{}: there is no chunk {}, the last is {}", to_text(action), action.chunk,
                         plan_.chunks() - 1);
    if (action.micro_batch < 0 || action.micro_batch >= plan_.micro_batches)
      return fmt::format("{}: there is no micro-batch {}, the last is {}", to_text(action),
                         action.micro_batch, plan_.micro_batches - 1);
    const std::int32_t home = plan_.stage_of_chunk[index_of(action.chunk)];
    if (home != stage)
      return fmt::format("{}: chunk {} belongs to stage {}", to_text(action), action.chunk, home);
    const std::int32_t routed = plan_.replica_for(action.micro_batch, stage);
    if (routed != replica)
      return fmt::format("{}: micro-batch {} is routed to replica {} of this stage",
                         to_text(action), action.micro_batch, routed);
    return {};
  }

  std::string find_disorder(const Columns& seen, const Action& action) const {
    const auto lacks = [&](Op op) {
      return fmt::format("{} has no {} before it", to_text(action), to_text(with_op(action, op)));
    };
    const auto after = [&](Op op) {
      return fmt::format("{} comes after {}", to_text(action), to_text(with_op(action, op)));
    };
    if (action.op == Op::forward) return find_neighbour(action);
    if (!seen.has(Op::forward)) return lacks(Op::forward);
    if (action.op == Op::weight_gradient)
      return seen.has(Op::input_gradient) ? "" : lacks(Op::input_gradient);
    if (seen.has(Op::backward)) return after(Op::backward);
    if (seen.has(Op::input_gradient)) return after(Op::input_gradient);
    return action.op == Op::recompute ? "" : find_neighbour(action);
  }

  /// What F, B or I takes from the neighbouring chunk must be there when that is on the same stage:
  /// no message brings it.
  std::string find_neighbour(const Action& action) const {
    const bool forward = action.op == Op::forward;
    const std::int32_t chunk = forward ? action.chunk - 1 : action.chunk + 1;
    if (chunk < 0 || chunk >= plan_.chunks() ||
        plan_.stage_of_chunk[index_of(chunk)] != plan_.stage_of_chunk[index_of(action.chunk)])
      return {};
    const Columns& seen = columns_[cell(action.micro_batch, chunk)];
    if (forward ? seen.has(Op::forward) : seen.has(Op::backward) || seen.has(Op::input_gradient))
      return {};
    const Action needed{forward ? Op::forward : Op::backward, chunk, action.micro_batch};
    return fmt::format("{} has no {} before it", to_text(action), to_text(needed));
  }

  const Plan& plan_;
  std::vector<Columns> columns_;
};

bool forwards_alone(const Plan& plan) {
  return std::all_of(plan.schedule.begin(), plan.schedule.end(), [](const Row& row) {
    return std::all_of(row.begin(), row.end(),
                       [](const Action& action) { return action.op == Op::forward; });
  });
}

/// The first row that lacks an action.
ScheduleFault find_lack(const Plan& plan, const RowChecker& checker) {
  const std::vector<std::size_t> begins = row_begins(plan);
  const bool forward_only = forwards_alone(plan);
  ScheduleFault first;
  for (std::int64_t micro = 0; micro < plan.micro_batches; ++micro)
    for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk) {
      const std::int32_t stage = plan.stage_of_chunk[index_of(chunk)];
      const std::size_t row = begins[index_of(stage)] + index_of(plan.replica_for(micro, stage));
      if (!first.what.empty() && row >= first.row) continue;
      if (std::string lack = checker.find_lack(micro, chunk, forward_only); !lack.empty())
        first = {row, plan.schedule[row].size(), std::move(lack)};
    }
  return first;
}

/// Where a row first keeps more than `cap` stashes: from F, or from R where there is one, to B or
/// W.
ScheduleFault find_excess(const Plan& plan, std::int32_t cap) {
  for (std::size_t index = 0; index < plan.schedule.size(); ++index) {
    const Row& row = plan.schedule[index];
    std::map<std::pair<std::int32_t, std::int32_t>, std::size_t> begin;  // of the stash
    for (std::size_t column = 0; column < row.size(); ++column)
      if (row[column].op == Op::forward || row[column].op == Op::recompute)
        begin[{row[column].chunk, row[column].micro_batch}] = column;
    std::int32_t live = 0;
    for (std::size_t column = 0; column < row.size(); ++column) {
      const auto [op, chunk, micro_batch] = row[column];
      if (begin[{chunk, micro_batch}] == column && ++live > cap)
        return {index, column,
                fmt::format("{} makes {} activations kept at once, the cap is {}",
                            to_text(row[column]), live, cap)};
      if (op == Op::backward || op == Op::weight_gradient) --live;
    }
  }
  return {};
}

}  // namespace

ScheduleFault check_rows(const Plan& plan) {
  const std::size_t rows = row_begins(plan).back();
  if (plan.schedule.size() != rows)
    return {0, 0, fmt::format("{} rows for {} replicas", plan.schedule.size(), rows)};
  RowChecker checker(plan);
  std::size_t index = 0;
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica, ++index) {
      const Row& row = plan.schedule[index];
      for (std::size_t column = 0; column < row.size(); ++column) {
        std::string what =
            checker.add(stage, replica, static_cast<std::int32_t>(column), row[column]);
        if (!what.empty()) return {index, column, std::move(what)};
      }
    }
  return find_lack(plan, checker);
}

ScheduleFault check_schedule(const Plan& plan, std::int32_t cap) {
  if (ScheduleFault fault = check_rows(plan); !fault.what.empty()) return fault;
  const WaitGraph graph(plan, lower_all(plan));
  if (ScheduleFault fault = graph.find_circle(); !fault.what.empty()) return fault;
  return cap > 0 ? find_excess(plan, cap) : ScheduleFault{};
}

}  // namespace elaswave::pipeline
