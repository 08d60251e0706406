#include <algorithm>
#include <utility>

#include "parallel/pipeline/lowering.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;
using layout::Row;

/// Runs all rows, each as far as it can before the next one: what an action waits for names the row
/// that waits, so every action is looked at once when it blocks and once when it runs. Order of
/// visits does not matter: an action's begin depends on its row and its input alone.
class Prediction {
 public:
  Prediction(const Plan& plan, const Costs& costs) : plan_(plan), costs_(costs) {
    const std::size_t cells = index_of(plan.micro_batches * plan.chunks());
    forward_.resize(cells);
    gradient_.resize(cells);
    next_.resize(plan.schedule.size());
    free_at_.resize(plan.schedule.size());
    timing_.begin.resize(plan.schedule.size());
    timing_.end.resize(plan.schedule.size());
    timing_.busy.resize(plan.schedule.size());
  }

  Timing run() && {
    for (std::size_t row = 0; row < plan_.schedule.size(); ++row) {
      timing_.begin[row].reserve(plan_.schedule[row].size());
      timing_.end[row].reserve(plan_.schedule[row].size());
      runnable_.push_back(row);
    }
    while (!runnable_.empty()) {
      const std::size_t row = runnable_.back();
      runnable_.pop_back();
      advance(row);
    }
    for (std::size_t row = 0; row < plan_.schedule.size(); ++row) {
      EW_CHECK(next_[row] == plan_.schedule[row].size(), "row {} waits forever for {}", row,
               layout::to_text(plan_.schedule[row][next_[row]]));
      timing_.makespan = std::max(timing_.makespan, free_at_[row]);
    }
    return std::move(timing_);
  }

 private:
  static constexpr std::size_t kNobody = static_cast<std::size_t>(-1);

  /// When the output of F, or of B and I, of one (micro-batch, chunk) is there; and who waits.
  struct Output {
    std::int64_t end = -1;
    std::size_t waits = kNobody;
  };

  Output& output(std::vector<Output>& outputs, std::int64_t micro_batch, std::int32_t chunk) {
    return outputs[index_of(micro_batch * plan_.chunks() + chunk)];
  }

  /// What an action needs from a neighbouring chunk; null when its own row's order says it all.
  Output* input_of(const Action& action) {
    if (action.op == Op::forward)
      return action.chunk > 0 ? &output(forward_, action.micro_batch, action.chunk - 1) : nullptr;
    if (action.op != Op::backward && action.op != Op::input_gradient) return nullptr;
    const bool last = action.chunk + 1 == plan_.chunks();
    return last ? nullptr : &output(gradient_, action.micro_batch, action.chunk + 1);
  }

  std::int64_t delay(const Action& action) const {
    const std::int32_t from = action.op == Op::forward ? action.chunk - 1 : action.chunk + 1;
    const bool here =
        plan_.stage_of_chunk[index_of(from)] == plan_.stage_of_chunk[index_of(action.chunk)];
    return here ? 0 : costs_.message;
  }

  void publish(Output& made, std::int64_t end) {
    made.end = end;
    if (made.waits != kNobody) runnable_.push_back(std::exchange(made.waits, kNobody));
  }

  void advance(std::size_t row) {
    const Row& actions = plan_.schedule[row];
    for (std::size_t& index = next_[row]; index < actions.size(); ++index) {
      const Action& action = actions[index];
      std::int64_t begin = free_at_[row];
      if (Output* input = input_of(action); input != nullptr) {
        if (input->end < 0) {
          input->waits = row;
          return;
        }
        begin = std::max(begin, input->end + delay(action));
      }
      const std::int64_t taken = duration(costs_, row, action);
      timing_.begin[row].push_back(begin);
      timing_.busy[row] += taken;
      free_at_[row] = begin + taken;
      timing_.end[row].push_back(free_at_[row]);
      if (action.op == Op::forward)
        publish(output(forward_, action.micro_batch, action.chunk), free_at_[row]);
      if (action.op == Op::backward || action.op == Op::input_gradient)
        publish(output(gradient_, action.micro_batch, action.chunk), free_at_[row]);
    }
  }

  const Plan& plan_;
  const Costs& costs_;
  Timing timing_;
  std::vector<Output> forward_, gradient_;  // [micro_batch * chunks + chunk]
  std::vector<std::size_t> next_;           // [row]
  std::vector<std::int64_t> free_at_;       // [row]
  std::vector<std::size_t> runnable_;
};

/// True for actions whose (chunk, micro-batch) has an R in the row: sorted list of those.
std::vector<std::pair<std::int32_t, std::int32_t>> recomputed(const Row& row) {
  std::vector<std::pair<std::int32_t, std::int32_t>> cells;
  for (const Action& action : row)
    if (action.op == Op::recompute) cells.emplace_back(action.chunk, action.micro_batch);
  std::sort(cells.begin(), cells.end());
  return cells;
}

RowMemory peak_of(const Row& row) {
  const auto rebuilt = recomputed(row);
  RowMemory now, peak;
  for (const Action& action : row) {
    switch (action.op) {
      case Op::forward:
        if (std::binary_search(rebuilt.begin(), rebuilt.end(),
                               std::pair(action.chunk, action.micro_batch)))
          ++now.inputs;
        else
          ++now.live;
        break;
      case Op::recompute:
        --now.inputs;
        ++now.live;
        break;
      case Op::input_gradient:
        ++now.weight_stash;
        break;
      case Op::backward:
      case Op::weight_gradient:
        break;
    }
    peak.live = std::max(peak.live, now.live);
    peak.inputs = std::max(peak.inputs, now.inputs);
    peak.weight_stash = std::max(peak.weight_stash, now.weight_stash);
    if (action.op == Op::backward || action.op == Op::weight_gradient) --now.live;
    if (action.op == Op::weight_gradient) --now.weight_stash;
  }
  return peak;
}

}  // namespace

std::int64_t duration(const Costs& costs, const Action& action) {
  const ChunkCost& cost = costs.chunks[index_of(action.chunk)];
  switch (action.op) {
    case Op::forward:
      return cost.forward;
    case Op::backward:
      return cost.input_gradient + cost.weight_gradient;
    case Op::input_gradient:
      return cost.input_gradient;
    case Op::weight_gradient:
      return cost.weight_gradient;
    case Op::recompute:
      return cost.recompute;
  }
  return 0;
}

std::int64_t duration(const Costs& costs, std::size_t row, const Action& action) {
  const std::int64_t usual = duration(costs, action);
  return costs.pace.empty() ? usual : usual * costs.pace[row] / kPaceUnits;
}

double Timing::bubble() const {
  if (makespan == 0 || busy.empty()) return 0.0;
  double worked = 0.0;
  for (const std::int64_t row : busy) worked += static_cast<double>(row);
  return 1.0 - worked / (static_cast<double>(makespan) * static_cast<double>(busy.size()));
}

Timing predict(const Plan& plan, const Costs& costs) {
  return Prediction(plan, costs).run();
}

std::vector<RowMemory> peak_memory(const Plan& plan) {
  std::vector<RowMemory> rows;
  rows.reserve(plan.schedule.size());
  for (const Row& row : plan.schedule) rows.push_back(peak_of(row));
  return rows;
}

}  // namespace elaswave::pipeline
