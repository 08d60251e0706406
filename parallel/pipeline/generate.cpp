#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;
using layout::Row;

tl::unexpected<Error> refuse(Schedule schedule, const PipelineShape& shape, std::string why,
                             std::string fix) {
  return fail({.code = Code::usage,
               .what = fmt::format("schedule {} does not run {} stages x {} chunks with {} "
                                   "micro-batches",
                                   name(schedule), shape.stages, shape.chunks, shape.micro_batches),
               .where = "parallel.schedule",
               .why = std::move(why),
               .fix = std::move(fix)});
}

/// Chunks of a stage from the model's start to its end, and the orders in which one row walks
/// through (micro-batch, chunk). Groups of p micro-batches go through the stage's first chunk, then
/// the same group through its next one (Narayanan et al., arXiv 2104.04473, section 2.2); with one
/// chunk that is simply 0, 1, 2, ...
class Loop {
 public:
  Loop(const PipelineShape& shape, std::int32_t stage) : shape_(shape), stage_(stage) {}

  Action forward(std::int32_t index) const { return at(Op::forward, index); }
  Action backward(Op op, std::int32_t index) const { return at(op, index); }

 private:
  Action at(Op op, std::int32_t index) const {
    if (shape_.chunks == 1) return {op, stage_, index};
    const std::int32_t group = shape_.stages * shape_.chunks;
    const std::int32_t turn = index % group / shape_.stages;
    const std::int32_t local = op == Op::forward ? turn : shape_.chunks - 1 - turn;
    return {op, local * shape_.stages + stage_,
            index / group * shape_.stages + index % shape_.stages};
  }

  PipelineShape shape_;
  std::int32_t stage_;
};

/// `warm_up` forwards, then one backward and one forward in turn, then the remaining backwards.
Row fused_row(const PipelineShape& shape, std::int32_t stage, std::int32_t warm_up) {
  const Loop loop(shape, stage);
  const std::int32_t count = shape.chunks * shape.micro_batches;
  Row row;
  row.reserve(2 * static_cast<std::size_t>(count));
  std::int32_t forwards = 0;
  while (forwards < std::min(warm_up, count)) row.push_back(loop.forward(forwards++));
  for (std::int32_t backwards = 0; backwards < count; ++backwards) {
    row.push_back(loop.backward(Op::backward, backwards));
    if (forwards < count) row.push_back(loop.forward(forwards++));
  }
  return row;
}

/// The same with the weight gradient `lag` input gradients late: it fills the bubble at the end.
Row split_row(const PipelineShape& shape, std::int32_t stage, std::int32_t warm_up,
              std::int32_t lag) {
  const Loop loop(shape, stage);
  const std::int32_t count = shape.chunks * shape.micro_batches;
  Row row;
  row.reserve(3 * static_cast<std::size_t>(count));
  std::int32_t forwards = 0, weights = 0;
  while (forwards < std::min(warm_up, count)) row.push_back(loop.forward(forwards++));
  for (std::int32_t backwards = 0; backwards < count; ++backwards) {
    row.push_back(loop.backward(Op::input_gradient, backwards));
    if (backwards >= lag) row.push_back(loop.backward(Op::weight_gradient, weights++));
    if (forwards < count) row.push_back(loop.forward(forwards++));
  }
  while (weights < count) row.push_back(loop.backward(Op::weight_gradient, weights++));
  return row;
}

/// ZBV of one row (Qi et al., arXiv 2401.10241, section 6), in the closed form that PyTorch uses
/// (ScheduleZBVZeroBubble): chunk `down` on the way down, `up` on the way up.
class ZbvRow {
 public:
  ZbvRow(std::int32_t stages, std::int32_t stage)
      : stages_(stages), stage_(stage), down_{stage}, up_{2 * stages - 1 - stage} {}

  /// The form needs 2p - 1 micro-batches. With fewer, actions of those that do not exist are left
  /// out: what remains is the same order, and no micro-batch needs another one.
  Row make(std::int32_t micro_batches) {
    const std::int32_t count = std::max(2 * stages_ - 1, micro_batches);
    row_.reserve(6 * static_cast<std::size_t>(count));
    warm_up();
    while (up_.forwards < down_.forwards || down_.forwards < count) {
      if (down_.forwards < count) forward(down_);
      input_gradient(down_);
      weight_gradient(down_);
      forward(up_);
      input_gradient(up_);
      weight_gradient(up_);
    }
    cool_down();
    std::erase_if(row_, [&](const Action& action) { return action.micro_batch >= micro_batches; });
    return std::move(row_);
  }

 private:
  struct Chunk {
    std::int32_t chunk = 0;
    std::int32_t forwards = 0, input_gradients = 0, weight_gradients = 0;
  };

  void forward(Chunk& c) { row_.push_back({Op::forward, c.chunk, c.forwards++}); }
  void input_gradient(Chunk& c) {
    row_.push_back({Op::input_gradient, c.chunk, c.input_gradients++});
  }
  void weight_gradient(Chunk& c) {
    row_.push_back({Op::weight_gradient, c.chunk, c.weight_gradients++});
  }

  void warm_up() {
    for (std::int32_t i = 0; i < 2 * (stages_ - stage_) - 1; ++i) forward(down_);
    for (std::int32_t i = 0; i < stage_; ++i) {
      forward(up_);
      forward(down_);
    }
    for (std::int32_t i = 0; i < stages_ - stage_; ++i) {
      forward(up_);
      input_gradient(up_);
      weight_gradient(up_);
    }
  }

  void cool_down() {
    for (std::int32_t i = 0; i < stage_; ++i) {
      input_gradient(down_);
      input_gradient(up_);
    }
    for (std::int32_t i = 0; i < stages_ - stage_; ++i) {
      input_gradient(down_);
      weight_gradient(down_);
    }
    while (up_.weight_gradients < up_.input_gradients) weight_gradient(up_);
    while (down_.weight_gradients < down_.input_gradients) weight_gradient(down_);
  }

  std::int32_t stages_, stage_;
  Chunk down_, up_;
  Row row_;
};

/// Forwards before the first backward. Interleaved: Megatron-LM's 2 (p - 1 - r) + (v - 1) p, and
/// one of the steady state.
std::int32_t warm_up(Schedule schedule, const PipelineShape& shape, std::int32_t stage) {
  const std::int32_t behind = shape.stages - 1 - stage;
  switch (schedule) {
    case Schedule::gpipe:
      return shape.micro_batches;
    case Schedule::interleaved:
      return 2 * behind + (shape.chunks - 1) * shape.stages + 1;
    case Schedule::one_f_one_b:
    case Schedule::zb_h1:
    case Schedule::zbv:
      return behind + 1;
  }
  return 0;
}

}  // namespace

std::string_view name(Schedule schedule) {
  switch (schedule) {
    case Schedule::gpipe:
      return "gpipe";
    case Schedule::one_f_one_b:
      return "1f1b";
    case Schedule::interleaved:
      return "interleaved";
    case Schedule::zb_h1:
      return "zb-h1";
    case Schedule::zbv:
      return "zbv";
  }
  return "unknown";
}

Result<void> check_shape(Schedule schedule, const PipelineShape& shape) {
  if (shape.stages < 1 || shape.chunks < 1 || shape.micro_batches < 1)
    return refuse(schedule, shape, "a pipeline has at least one of each",
                  "give every pipeline a micro-batch, a stage and a chunk");
  // Rows have up to 3 actions a micro-batch and chunk; ZBV counts 2p - 1 micro-batches at least.
  const std::int64_t limit = std::numeric_limits<std::int32_t>::max() / 8;
  const std::int64_t chunks = std::int64_t{shape.stages} * shape.chunks;
  if (chunks > limit || std::int64_t{shape.micro_batches} * shape.chunks > limit)
    return refuse(schedule, shape, fmt::format("the numbers of a row end at {}", limit),
                  "use fewer chunks or micro-batches");
  switch (schedule) {
    case Schedule::gpipe:
    case Schedule::one_f_one_b:
    case Schedule::zb_h1:
      if (shape.chunks == 1) return {};
      return refuse(schedule, shape, "it knows one chunk a stage",
                    shape.chunks == 2 ? "set parallel.chunks=1, or use interleaved or zbv"
                                      : "set parallel.chunks=1, or use interleaved");
    case Schedule::zbv:
      if (shape.chunks == 2) return {};
      return refuse(schedule, shape, "it knows two chunks a stage, one down and one up",
                    "set parallel.chunks=2, or use interleaved");
    case Schedule::interleaved: {
      const std::int32_t rest = shape.micro_batches % shape.stages;
      if (rest == 0) return {};
      const std::int64_t above = std::int64_t{shape.micro_batches} - rest + shape.stages;
      const std::string nearest = rest == shape.micro_batches
                                      ? fmt::format("{}", above)
                                      : fmt::format("{} or {}", shape.micro_batches - rest, above);
      return refuse(
          schedule, shape,
          fmt::format("micro-batches go through the stages in groups of {}, {} is left over",
                      shape.stages, rest),
          fmt::format("give every pipeline {} micro-batches, or use {}", nearest,
                      shape.chunks == 1   ? "1f1b or zb-h1"
                      : shape.chunks == 2 ? "zbv, which takes any number"
                                          : "auto"));
    }
  }
  return {};
}

std::vector<std::int32_t> placement(Schedule schedule, std::int32_t stages, std::int32_t chunks) {
  std::vector<std::int32_t> stage_of_chunk;
  for (std::int32_t chunk = 0; chunk < stages * chunks; ++chunk) {
    const std::int32_t stage = chunk % stages;
    const bool up = schedule == Schedule::zbv && chunk / stages % 2 == 1;
    stage_of_chunk.push_back(up ? stages - 1 - stage : stage);
  }
  return stage_of_chunk;
}

std::vector<Row> generate(Schedule schedule, const PipelineShape& shape) {
  const auto sound = check_shape(schedule, shape);
  EW_CHECK(sound.has_value(), "{}", sound.error().text());
  std::vector<Row> rows;
  for (std::int32_t stage = 0; stage < shape.stages; ++stage) {
    const std::int32_t forwards = warm_up(schedule, shape, stage);
    if (schedule == Schedule::zbv)
      rows.push_back(ZbvRow(shape.stages, stage).make(shape.micro_batches));
    else if (schedule == Schedule::zb_h1)
      rows.push_back(split_row(shape, stage, forwards, stage));
    else
      rows.push_back(fused_row(shape, stage, forwards));
  }
  return rows;
}

}  // namespace elaswave::pipeline
