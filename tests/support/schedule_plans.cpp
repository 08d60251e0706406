#include "tests/support/schedule_plans.h"

#include <algorithm>
#include <random>
#include <set>
#include <tuple>
#include <utility>

namespace elaswave::test {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;

std::size_t row_of(const Plan& plan, std::int32_t chunk, std::int64_t micro_batch) {
  const std::int32_t stage = plan.stage_of_chunk[static_cast<std::size_t>(chunk)];
  return plan.row_index(stage, plan.replica_for(micro_batch, stage));
}

void append(Plan& plan, Op op, std::int32_t chunk, std::int64_t micro_batch) {
  plan.schedule[row_of(plan, chunk, micro_batch)].push_back(
      {op, chunk, static_cast<std::int32_t>(micro_batch)});
}

void clear_rows(Plan& plan) {
  plan.schedule.assign(plan.row_index(static_cast<std::int32_t>(plan.stages.size()), 0), {});
}

/// The run that with_random_rows() writes down.
class RandomRun {
 public:
  RandomRun(Plan& plan, std::uint64_t seed) : plan_(plan), random_(seed) {
    split_percent_ = static_cast<int>(random_() % 3) * 50;
    recompute_percent_ = static_cast<int>(random_() % 3) * 40;
  }

  void run() {
    clear_rows(plan_);
    const auto all = static_cast<std::size_t>(plan_.chunks() * plan_.micro_batches);
    while (gradients_.size() < all || !owed_.empty()) {
      std::vector<Action> tick;
      for (std::size_t row = 0; row < plan_.schedule.size(); ++row) choose(row, tick);
      for (const Action& action : tick) apply(action);
    }
  }

 private:
  using Cell = std::pair<std::int32_t, std::int32_t>;  // chunk, micro-batch

  bool roll(int percent) { return static_cast<int>(random_() % 100) < percent; }

  void choose(std::size_t row, std::vector<Action>& tick) {
    std::vector<Action> forward, backward, weight;
    for (std::int32_t chunk = 0; chunk < plan_.chunks(); ++chunk)
      for (std::int32_t micro = 0; micro < plan_.micro_batches; ++micro) {
        if (row_of(plan_, chunk, micro) != row) continue;
        const Cell cell{chunk, micro};
        const bool last = chunk + 1 == plan_.chunks();
        if (!forwards_.contains(cell) && (chunk == 0 || forwards_.contains({chunk - 1, micro})))
          forward.push_back({Op::forward, chunk, micro});
        if (forwards_.contains(cell) && !gradients_.contains(cell) &&
            (last || gradients_.contains({chunk + 1, micro})))
          backward.push_back({Op::backward, chunk, micro});
        if (owed_.contains(cell)) weight.push_back({Op::weight_gradient, chunk, micro});
      }
    for (auto* ready : {&backward, &forward, &weight})
      if (!ready->empty() && roll(80)) {
        // Mostly the first in order: far out of order the rules of sending stop most rows.
        tick.push_back((*ready)[roll(90) ? 0 : random_() % ready->size()]);
        return;
      }
  }

  void apply(Action action) {
    const Cell cell{action.chunk, action.micro_batch};
    if (action.op == Op::forward) forwards_.insert(cell);
    if (action.op == Op::backward) {
      if (roll(recompute_percent_)) append(plan_, Op::recompute, cell.first, cell.second);
      gradients_.insert(cell);
      if (roll(split_percent_)) {
        action.op = Op::input_gradient;
        owed_.insert(cell);
      }
    }
    if (action.op == Op::weight_gradient) owed_.erase(cell);
    append(plan_, action.op, cell.first, cell.second);
  }

  Plan& plan_;
  std::mt19937_64 random_;
  int split_percent_ = 0, recompute_percent_ = 0;
  std::set<Cell> forwards_, gradients_, owed_;
};

std::vector<std::int32_t> random_placement(std::mt19937_64& random, std::int32_t stages) {
  std::vector<std::int32_t> placement;
  const auto turns = static_cast<std::int32_t>(1 + random() % 3);
  const auto kind = random() % 3;
  for (std::int32_t turn = 0; turn < turns; ++turn)
    for (std::int32_t stage = 0; stage < stages; ++stage)
      placement.push_back(kind == 1 && turn % 2 == 1 ? stages - 1 - stage : stage);
  if (kind == 2) std::shuffle(placement.begin(), placement.end(), random);
  return placement;
}

}  // namespace

Plan make_plan(const PlanShape& shape) {
  Plan plan;
  plan.stage_of_chunk = shape.stage_of_chunk;
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk) plan.chunk_of_layer.push_back(chunk);
  std::int32_t rank = 0;
  for (const std::int32_t replicas : shape.replicas) {
    layout::Stage& stage = plan.stages.emplace_back();
    for (std::int32_t replica = 0; replica < replicas; ++replica)
      stage.replicas.push_back({{rank++}});
  }
  plan.micro_batches = shape.micro_batches;
  for (std::int64_t micro = 0; micro < shape.micro_batches; ++micro)
    for (const std::int32_t replicas : shape.replicas)
      plan.route.push_back(static_cast<std::int32_t>(micro % replicas));
  clear_rows(plan);
  return plan;
}

Plan with_rows(Plan plan, const std::vector<std::string>& rows) {
  clear_rows(plan);
  for (std::size_t row = 0; row < rows.size(); ++row)
    plan.schedule.at(row) = layout::parse_row(rows[row]).value();
  return plan;
}

Plan with_gpipe(Plan plan) {
  clear_rows(plan);
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk)
    for (std::int64_t micro = 0; micro < plan.micro_batches; ++micro)
      append(plan, Op::forward, chunk, micro);
  for (std::int32_t chunk = plan.chunks(); chunk-- > 0;)
    for (std::int64_t micro = 0; micro < plan.micro_batches; ++micro)
      append(plan, Op::backward, chunk, micro);
  return plan;
}

Plan with_one_f_one_b(Plan plan) {
  clear_rows(plan);
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk) {
    const std::int64_t ahead =
        std::min<std::int64_t>(plan.chunks() - 1 - chunk, plan.micro_batches);
    for (std::int64_t micro = 0; micro < ahead; ++micro) append(plan, Op::forward, chunk, micro);
    for (std::int64_t micro = 0; micro < plan.micro_batches; ++micro) {
      if (micro + ahead < plan.micro_batches) append(plan, Op::forward, chunk, micro + ahead);
      append(plan, Op::backward, chunk, micro);
    }
  }
  return plan;
}

Plan with_random_rows(Plan plan, std::uint64_t seed) {
  RandomRun(plan, seed).run();
  return plan;
}

Plan random_plan(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto stages = static_cast<std::int32_t>(1 + random() % 4);
  PlanShape shape{.stage_of_chunk = random_placement(random, stages), .replicas = {}};
  for (std::int32_t stage = 0; stage < stages; ++stage)
    shape.replicas.push_back(static_cast<std::int32_t>(1 + random() % 3));
  shape.micro_batches = static_cast<std::int64_t>(1 + random() % 8);
  Plan plan = make_plan(shape);
  if (random() % 2 == 0)
    for (std::size_t index = 0; index < plan.route.size(); ++index)
      plan.route[index] = static_cast<std::int32_t>(
          random() % static_cast<std::uint64_t>(shape.replicas[index % shape.replicas.size()]));
  return with_random_rows(std::move(plan), random());
}

}  // namespace elaswave::test
