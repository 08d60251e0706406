// Plans made of routes alone, and an independent reading of what program.h promises: rows run in
// order, receives are posted late, sends complete when their receive is posted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "parallel/pipeline/program.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::test {

using layout::Action;
using layout::Op;
using layout::Plan;
using layout::Row;

constexpr std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

/// One layer a chunk, one rank a replica; everything goes through replica 0 until told otherwise.
inline Plan make_plan(std::vector<std::int32_t> stage_of_chunk,
                      const std::vector<std::int32_t>& replicas, std::int64_t micro_batches) {
  Plan plan;
  plan.stage_of_chunk = std::move(stage_of_chunk);
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk) plan.chunk_of_layer.push_back(chunk);
  std::int32_t world_rank = 0;
  for (const std::int32_t count : replicas) {
    plan.stages.emplace_back();
    for (std::int32_t i = 0; i < count; ++i)
      plan.stages.back().replicas.push_back({{world_rank++}});
  }
  plan.micro_batches = micro_batches;
  plan.route.assign(at(micro_batches) * replicas.size(), 0);
  return plan;
}

inline Plan regular_plan(pipeline::Schedule schedule, const pipeline::PipelineShape& shape) {
  Plan plan = make_plan(pipeline::placement(schedule, shape.stages, shape.chunks),
                        std::vector<std::int32_t>(at(shape.stages), 1), shape.micro_batches);
  plan.schedule = pipeline::generate(schedule, shape);
  return plan;
}

inline pipeline::Costs uniform_costs(const Plan& plan, pipeline::ChunkCost cost,
                                     std::int64_t message = 0) {
  return {std::vector<pipeline::ChunkCost>(at(plan.chunks()), cost), message};
}

/// What is missing, doubled or on the wrong row; and W before I, B before F within a row.
inline std::string find_row_fault(const Plan& plan, bool split) {
  if (plan.schedule.size() != plan.row_index(static_cast<std::int32_t>(plan.stages.size()), 0))
    return "wrong number of rows";
  const std::vector<Op> ops =
      split ? std::vector<Op>{Op::forward, Op::input_gradient, Op::weight_gradient}
            : std::vector<Op>{Op::forward, Op::backward};
  std::int64_t actions = 0;
  for (std::size_t row = 0; row < plan.schedule.size(); ++row) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::size_t> done;
    for (const Action& action : plan.schedule[row]) {
      const std::string text = "row " + std::to_string(row) + ": " + layout::to_text(action);
      if (action.chunk < 0 || action.chunk >= plan.chunks() || action.micro_batch < 0 ||
          action.micro_batch >= plan.micro_batches)
        return text + " does not exist";
      const std::int32_t stage = plan.stage_of_chunk[at(action.chunk)];
      if (plan.row_index(stage, plan.replica_for(action.micro_batch, stage)) != row)
        return text + " is routed elsewhere";
      std::size_t& next = done[{action.chunk, action.micro_batch}];
      if (next == ops.size() || ops[next] != action.op) return text + " is out of order";
      ++next;
      ++actions;
    }
  }
  const std::int64_t expected =
      plan.micro_batches * plan.chunks() * static_cast<std::int64_t>(ops.size());
  return actions == expected ? "" : "actions are missing";
}

/// Runs all rows as program.h describes, with as little progress as it allows.
class Rendezvous {
 public:
  explicit Rendezvous(const Plan& plan) : plan_(plan), reached_(plan.schedule.size(), 0) {
    for (std::size_t row = 0; row < plan.schedule.size(); ++row)
      for (std::size_t index = 0; index < plan.schedule[row].size(); ++index) {
        const Action& action = plan.schedule[row][index];
        if (is_gradient(action.op)) where_[{1, action.chunk, action.micro_batch}] = {row, index};
        if (action.op == Op::forward) where_[{0, action.chunk, action.micro_batch}] = {row, index};
      }
    for (std::size_t row = 0; row < plan.schedule.size(); ++row)
      for (const Action& action : plan.schedule[row])
        if (const auto to = consumer(action, +1); to.first != kNone && to.first != row) {
          auto& needs = pairs_[{row, to.first}].needs;
          number_[{is_gradient(action.op), action.chunk, action.micro_batch}] = needs.size();
          needs.push_back(to.second);
        }
    for (auto& [ends, pair] : pairs_)
      for (std::size_t i = pair.needs.size(); i-- > 1;)
        pair.needs[i - 1] = std::min(pair.needs[i - 1], pair.needs[i]);
  }

  /// Empty when all rows end; else what each of them waits at.
  std::string run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t row = 0; row < plan_.schedule.size(); ++row)
        while (reached_[row] < plan_.schedule[row].size() && may_run(row)) {
          const Action& action = plan_.schedule[row][reached_[row]];
          if (const auto to = consumer(action, +1); to.first != kNone && to.first != row)
            ++pairs_[{row, to.first}].sent;
          ++reached_[row];
          moved = true;
        }
    }
    std::string stuck;
    for (std::size_t row = 0; row < plan_.schedule.size(); ++row)
      if (reached_[row] < plan_.schedule[row].size())
        stuck += "row " + std::to_string(row) + " waits at " +
                 layout::to_text(plan_.schedule[row][reached_[row]]) + "; ";
    return stuck;
  }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  struct Pair {
    std::vector<std::size_t> needs;  // index in the receiver's row, of this or a later message
    std::size_t sent = 0;
  };

  static bool is_gradient(Op op) { return op == Op::backward || op == Op::input_gradient; }

  /// Row and index of the next (+1) or previous (-1) action of the chain; kNone: there is none.
  std::pair<std::size_t, std::size_t> consumer(const Action& action, int direction) const {
    const bool gradient = is_gradient(action.op);
    if (!gradient && action.op != Op::forward) return {kNone, 0};
    const std::int32_t chunk = action.chunk + (gradient ? -direction : direction);
    const auto found = where_.find({gradient, chunk, action.micro_batch});
    return found == where_.end() ? std::pair{kNone, std::size_t{0}} : found->second;
  }

  bool may_run(std::size_t row) {
    const Action& action = plan_.schedule[row][reached_[row]];
    if (const auto from = consumer(action, -1); from.first != kNone) {
      if (from.first == row) {
        if (from.second >= reached_[row]) return false;
      } else {
        const Action& sender = plan_.schedule[from.first][from.second];
        const std::size_t number =
            number_.at({is_gradient(sender.op), sender.chunk, sender.micro_batch});
        if (pairs_[{from.first, row}].sent <= number) return false;
      }
    }
    const auto to = consumer(action, +1);
    if (to.first == kNone || to.first == row) return true;
    const Pair& pair = pairs_[{row, to.first}];
    std::int32_t incomplete = 0;
    for (std::size_t i = 0; i < pair.sent; ++i)
      if (pair.needs[i] > reached_[to.first] + pipeline::kPostAhead) ++incomplete;
    return incomplete <= pipeline::kSendsInFlight - 1;
  }

  using Key = std::tuple<int, std::int32_t, std::int32_t>;  // gradient?, chunk, micro-batch
  const Plan& plan_;
  std::vector<std::size_t> reached_;
  std::map<Key, std::pair<std::size_t, std::size_t>> where_;
  std::map<Key, std::size_t> number_;  // of the message that the action sends, on its pair
  std::map<std::pair<std::size_t, std::size_t>, Pair> pairs_;
};

}  // namespace elaswave::test
