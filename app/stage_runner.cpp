#include "app/stage_runner.h"

#include <algorithm>
#include <utility>

#include "io/base/mutant.h"

namespace elaswave::app {
namespace {

std::vector<gpt::StageChunk> chunks_of(const layout::Plan& plan, const pipeline::Program& program) {
  std::vector<gpt::StageChunk> chunks;
  for (const pipeline::Slots& slots : program.slots)
    chunks.push_back({layout::layers_of_chunk(plan, slots.chunk), slots});
  return chunks;
}

/// Each action takes as many times longer as asked for.
class SlowOps final : public pipeline::StageOps {
 public:
  SlowOps(pipeline::StageOps& ops, device::Stream& stream, Clock& clock,
          std::function<double()> factor)
      : ops_(ops), stream_(stream), clock_(clock), factor_(std::move(factor)) {}
  Result<void> run(const pipeline::Task& task) override {
    const Nanoseconds begin = clock_.now();
    EW_TRY(ops_.run(task));
    stream_.synchronize();  // what it takes, not what it takes to issue it
    const double more = factor_() - 1;
    if (more > 0)
      clock_.sleep(static_cast<Nanoseconds>(more * static_cast<double>(clock_.now() - begin)));
    return {};
  }

 private:
  pipeline::StageOps& ops_;
  device::Stream& stream_;
  Clock& clock_;
  std::function<double()> factor_;
};

}  // namespace

StageRunner::StageRunner(const RunnerParts& parts)
    : parts_(parts),
      program_(pipeline::lower(parts.plan, parts.place.stage, parts.place.replica)),
      evaluation_(evaluation_program(parts.plan.micro_batches)),
      evaluation_count_(parts.plan.micro_batches) {
  const RunSpec& spec = parts.spec;
  const int slices = parts.plan.tensor_degree;
  if (slices > 1)
    slices_.emplace(parts.world,
                    parts.plan.replica(parts.place.stage, parts.place.replica).world_ranks,
                    spec.timeout, parts.machine.arithmetic);
  const layers::Context context{.ops = parts.machine.ops,
                                .stream = parts.machine.stream,
                                .config = spec.model,
                                .micro_batch = spec.micro_batch,
                                .storage = spec.storage,
                                .recompute = spec.recompute,
                                .loss_chunk_tokens = spec.loss_chunk_tokens,
                                .slice_group = slices_ ? &*slices_ : nullptr};
  stage_ = std::make_unique<gpt::Stage>(
      context, parts.inventory, parts.parameters, parts.gradients, chunks_of(parts.plan, program_),
      gpt::StageHooks{.batch = [this](std::int32_t index) { return batch(index); },
                      .ready =
                          [this](std::int32_t layer) {
                            return rehearsing_ ? Result<void>() : parts_.ready(layer);
                          },
                      .done = parts.sums_done,
                      .losses = [this](std::span<const float> losses) { add_losses(losses); }});
  if (parts.slow_factor)
    slowed_ = std::make_unique<SlowOps>(*stage_, parts.machine.stream, parts.world.clock(),
                                        parts.slow_factor);
  executor_ = std::make_unique<pipeline::Executor>(
      pipeline::ExecutorParts{.world = parts.world,
                              .plan = parts_.plan,
                              .slice = parts.place.slice,
                              .ops = slowed_ ? *slowed_ : *stage_,
                              .shape = stage_->boundary(),
                              .timeout = spec.timeout,
                              .stream = parts.machine.stream,
                              .between = parts.between},
      std::max(program_.boundaries, evaluation_.boundaries));
  stage_->expect_losses(std::ssize(layout::micro_batches_of(parts_.plan, parts_.place)));
}

Result<void> StageRunner::rehearse() {
  rehearsing_ = true;
  if (slices_) slices_->set_silent(true);
  Result<void> done = rehearse(program_, false);
  if (done) done = rehearse(evaluation_, true);
  if (slices_) slices_->set_silent(false);
  rehearsing_ = false;
  return done;
}

Result<void> StageRunner::rehearse(const pipeline::Program& program, bool evaluate) {
  const RunSpec& spec = parts_.spec;
  const std::vector<std::int64_t> positions_B(static_cast<std::size_t>(spec.micro_batch));
  const std::vector<std::int32_t> ids_N(static_cast<std::size_t>(spec.tokens_per_micro_batch()));
  const Source blank = [&](std::int64_t) -> Result<layers::MicroBatch> {
    return layers::MicroBatch{.seed = spec.seed,
                              .positions_B = positions_B,
                              .ids_N = ids_N,
                              .targets_N = ids_N,
                              .dropout = evaluate ? 0 : spec.model.dropout};
  };
  source_ = blank_ = &blank;
  stage_->begin_pass();
  EW_TRY(executor_->rehearse(program, evaluate));
  parts_.machine.stream.synchronize();  // before the losses' memory is used again
  return {};
}

std::vector<comm::Expected> StageRunner::messages() const {
  // Of either program the larger number.
  std::vector<comm::Expected> all = executor_->messages(program_);
  const std::vector<comm::Expected> evaluation = executor_->messages(evaluation_);
  for (std::size_t kind = 0; kind < all.size(); ++kind)
    all[kind].count = std::max(all[kind].count, evaluation[kind].count);
  if (!slices_) return all;
  // Rows of partial sums, which are f32, are the largest that slices exchange, one with each other
  // slice at a time; the head's statistics are smaller for all but tiny models.
  const std::int64_t peers = slices_->slices() - 1, tokens = parts_.spec.tokens_per_micro_batch();
  const auto numbers = [](std::int64_t elems) {
    return elems * static_cast<std::int64_t>(sizeof(float));
  };
  const std::int64_t bytes =
      std::max(numbers(ceil_div(tokens, slices_->slices()) * parts_.spec.model.hidden),
               std::min(tokens, parts_.spec.loss_chunk_tokens) *
                   static_cast<std::int64_t>(sizeof(kernels::LogitStats)));
  for (const comm::Direction direction : {comm::Direction::send, comm::Direction::receive})
    all.push_back({comm::Channel::tensor, direction, bytes, peers});
  return all;
}

pipeline::Program StageRunner::evaluation_program(std::int64_t count) const {
  return pipeline::lower(pipeline::evaluation_plan(parts_.plan, count), parts_.place.stage,
                         parts_.place.replica);
}

Result<Tally> StageRunner::train(Step step, const Source& source, const Source& blank) {
  return run(program_, step, false, source, blank);
}

Result<Tally> StageRunner::evaluate(Step step, std::int64_t count, const Source& source,
                                    const Source& blank) {
  if (count != evaluation_count_) {
    evaluation_ = evaluation_program(count);
    evaluation_count_ = count;
  }
  return run(evaluation_, step, true, source, blank);
}

Result<Tally> StageRunner::run(const pipeline::Program& program, Step step, bool evaluate,
                               const Source& source, const Source& blank) {
  tally_ = {};
  source_ = &source;
  blank_ = &blank;
  stage_->begin_pass();
  EW_TRY(executor_->run(program, step, evaluate));
  stage_->tell_losses();  // synchronises
  executor_->read_times();
  return std::move(tally_);
}

Result<layers::MicroBatch> StageRunner::batch(std::int64_t micro_batch) {
  if (mutant(Mutant::micro_batch_twice) && micro_batch == 1 && raw(parts_.world.generation()) > 0)
    micro_batch = 0;
  auto read = (*source_)(micro_batch);
  if (mutant(Mutant::random_by_rank) && read)
    read->seed += static_cast<std::uint64_t>(parts_.world.world_rank());
  if (read) return read;
  if (!tally_.data_error) tally_.data_error = std::move(read).error();
  return (*blank_)(micro_batch);
}

void StageRunner::add_losses(std::span<const float> losses) {
  if (parts_.place.slice != 0) return;
  if (!gpt::add_losses(losses, tally_.loss)) tally_.bad = true;
  tally_.tokens += std::ssize(losses);
  ++tally_.micro_batches;
}

}  // namespace elaswave::app
