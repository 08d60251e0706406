// Cuts, orders and slots of the actions of a step, at random.
#include <algorithm>

#include "tests/reference/stage_case.h"

namespace elaswave::test {
namespace {

using layout::Op;
using pipeline::Task;

/// What has been done of one micro-batch in one chunk.
struct Progress {
  bool forward = false, recompute = false, input = false, weight = false;
  bool keeps = true;  // no recompute: forward fills the stash
  bool split = false;
};

/// Gives every task of a chunk its slots: the lowest free one of each kind at the time.
void assign_slots(StepPlan& plan, std::int32_t chunk, std::int32_t micro_batches) {
  std::vector<char> stash, keep, weight_stash;
  std::vector<std::int32_t> stash_of(static_cast<std::size_t>(micro_batches), -1);
  auto keep_of = stash_of, weight_stash_of = stash_of;
  const auto take = [](std::vector<char>& used) {
    const auto free = std::find(used.begin(), used.end(), 0) - used.begin();
    if (free == std::ssize(used)) used.push_back(0);
    used[static_cast<std::size_t>(free)] = 1;
    return static_cast<std::int32_t>(free);
  };
  for (Task& task : plan.tasks) {
    if (task.action.chunk != chunk) continue;
    const auto index = static_cast<std::size_t>(task.action.micro_batch);
    const Op op = task.action.op;
    const bool takes_stash = task.stash >= 0;  // set by the generator for F and R that fill it
    if (op == Op::forward) keep_of[index] = take(keep);
    if (takes_stash) stash_of[index] = take(stash);
    if (op == Op::input_gradient) weight_stash_of[index] = take(weight_stash);
    if (op != Op::forward || takes_stash) task.stash = stash_of[index];
    if (op == Op::forward || op == Op::backward || op == Op::input_gradient)
      task.keep = keep_of[index];
    if (op == Op::input_gradient || op == Op::weight_gradient)
      task.weight_stash = weight_stash_of[index];
    if (op == Op::backward || op == Op::input_gradient)
      keep[static_cast<std::size_t>(task.keep)] = 0;
    if (op == Op::backward || op == Op::weight_gradient)
      stash[static_cast<std::size_t>(task.stash)] = 0;
    if (op == Op::weight_gradient) weight_stash[static_cast<std::size_t>(task.weight_stash)] = 0;
  }
  plan.slots.push_back({.chunk = chunk,
                        .stash = static_cast<std::int32_t>(stash.size()),
                        .keep = static_cast<std::int32_t>(keep.size()),
                        .weight_stash = static_cast<std::int32_t>(weight_stash.size())});
}

void mark_final(StepPlan& plan, std::int32_t chunk, bool last_chunk) {
  const auto mark = [&](auto&& is, bool Task::*flag) {
    const auto found = std::find_if(plan.tasks.rbegin(), plan.tasks.rend(), [&](const Task& task) {
      return task.action.chunk == chunk && is(task.action.op);
    });
    if (found != plan.tasks.rend()) (*found).*flag = true;
  };
  mark([](Op op) { return op == Op::backward || op == Op::weight_gradient; }, &Task::final);
  if (last_chunk) mark([](Op op) { return op == Op::forward; }, &Task::final_tied);
}

}  // namespace

SmallModel random_model(std::uint64_t seed, std::int64_t heads_multiple) {
  Dice dice(combine64(seed, 5));
  SmallModel model{.seed = seed};
  model.config.layers = 1 + dice.below(3);
  model.config.heads = heads_multiple * (1 + dice.below(2));
  model.config.hidden = model.config.heads * (3 + dice.below(4));
  model.config.context = 4 + dice.below(6);
  model.config.vocab = 11 + dice.below(20);
  model.config.dropout = seed % 2 == 0 ? 0 : kDropoutRate;
  model.samples = 1 + dice.below(3);
  model.loss_chunk_tokens = 3 + dice.below(12);  // of 4 to 27
  return model;
}

std::vector<Cut> all_cuts(std::int32_t layers) {
  std::vector<Cut> cuts;
  for (std::uint32_t borders = 0; borders < 1u << (layers - 1); ++borders) {
    Cut cut;
    std::int32_t begin = 0;
    for (std::int32_t layer = 1; layer <= layers; ++layer) {
      if (layer < layers && (borders >> (layer - 1) & 1) == 0) continue;
      cut.push_back({begin, layer});
      begin = layer;
    }
    cuts.push_back(std::move(cut));
  }
  return cuts;
}

StepPlan random_plan(const Cut& cut, std::int32_t micro_batches, Backward backward,
                     layers::Recompute recompute, std::uint64_t seed) {
  Dice dice(combine64(seed, 6));
  StepPlan plan{.cut = cut, .stage_of_chunk = {}, .slots = {}, .tasks = {}, .recompute = recompute};
  const auto chunks = static_cast<std::int32_t>(cut.size());
  const auto stages = static_cast<std::int32_t>(1 + dice.below(chunks));
  for (std::int32_t chunk = 0; chunk < chunks; ++chunk)  // some stage for every number
    plan.stage_of_chunk.push_back(chunk < stages ? chunk
                                                 : static_cast<std::int32_t>(dice.below(stages)));

  std::vector<Progress> progress(static_cast<std::size_t>(chunks * micro_batches));
  const auto at = [&](std::int32_t chunk, std::int32_t micro_batch) -> Progress& {
    return progress[static_cast<std::size_t>(chunk * micro_batches + micro_batch)];
  };
  for (Progress& one : progress) {
    one.keeps = recompute != layers::Recompute::full || dice.below(4) == 0;
    one.split = backward == Backward::split || (backward == Backward::mixed && dice.below(2) == 0);
  }
  for (;;) {
    std::vector<Task> possible;
    for (std::int32_t chunk = 0; chunk < chunks; ++chunk)
      for (std::int32_t micro_batch = 0; micro_batch < micro_batches; ++micro_batch) {
        const Progress& now = at(chunk, micro_batch);
        const auto add = [&](Op op, std::int32_t stash = -1) {
          possible.push_back({.action = {op, chunk, micro_batch}, .stash = stash});
        };
        const bool arrived = chunk + 1 == chunks || at(chunk + 1, micro_batch).input;
        if (!now.forward) {
          if (chunk == 0 || at(chunk - 1, micro_batch).forward)
            add(Op::forward, now.keeps ? 0 : -1);
        } else if (!now.keeps && !now.recompute) {
          add(Op::recompute, 0);
        } else if (!now.input) {
          if (arrived) add(now.split ? Op::input_gradient : Op::backward);
        } else if (!now.weight) {
          add(Op::weight_gradient);
        }
      }
    if (possible.empty()) break;
    const Task task = possible[static_cast<std::size_t>(dice.below(std::ssize(possible)))];
    Progress& now = at(task.action.chunk, task.action.micro_batch);
    const Op op = task.action.op;
    now.forward = true;
    now.recompute = now.recompute || op == Op::recompute;
    now.input = now.input || op == Op::backward || op == Op::input_gradient;
    now.weight = now.weight || op == Op::backward || op == Op::weight_gradient;
    plan.tasks.push_back(task);
  }
  for (std::int32_t chunk = 0; chunk < chunks; ++chunk) {
    assign_slots(plan, chunk, micro_batches);
    mark_final(plan, chunk, chunk + 1 == chunks);
  }
  return plan;
}

}  // namespace elaswave::test
