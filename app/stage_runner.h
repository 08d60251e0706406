// This rank's share of the forward and backward passes of a step: the plan's programs over the
// layers it holds. Losses and unreadable data are collected here and reported at the commit point.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "app/run_spec.h"
#include "io/base/exact_sum.h"
#include "model/gpt/stage.h"
#include "parallel/comm/slice_group.h"
#include "parallel/pipeline/executor.h"

namespace elaswave::app {

/// What a pass found out on this rank. Losses are those of the micro-batches whose last chunk ran
/// here, counted by one slice of each replica.
struct Tally {
  ExactSum loss;  // nats, summed over tokens
  std::int64_t tokens = 0, micro_batches = 0;
  bool bad = false;                 // a loss is not finite; it is not in the sum
  std::optional<Error> data_error;  // samples that could not be read: zeros were used instead
};

struct RunnerParts {
  comm::World& world;
  const RunSpec& spec;
  const layout::Plan& plan;
  layout::Place place;
  const spec::Inventory& inventory;
  kernels::Machine machine;
  const layers::Parameters& parameters;
  layers::Gradients& gradients;
  gpt::LayerReady ready;                  // working weights of a layer are needed
  pipeline::SumsDone sums_done;           // a layer's sums of this rank are complete
  std::function<Result<void>()> between;  // after every action
  std::function<double()> slow_factor;    // as RankFaults'
};

/// THREADS: the rank's compute thread.
class StageRunner {
 public:
  /// Reads one micro-batch; the result views memory that lasts until the next call.
  using Source = std::function<Result<layers::MicroBatch>(std::int64_t micro_batch)>;

  /// Allocates all activations.
  explicit StageRunner(const RunnerParts& parts);

  /// Local. Calls everything once that a pass calls, without messages: afterwards the device has
  /// all the memory, code and plans of libraries that passes take. Gradient sums and what stashes
  /// hold are spoilt. REQUIRES: no pass is under way.
  Result<void> rehearse();
  /// Of memory of the device, that a pass may have under way.
  std::vector<comm::Expected> messages() const;

  /// COLLECTIVE. Forward and backward of all micro-batches of a step. `blank` gives a stand-in for
  /// a micro-batch that could not be read: peers wait for its activations.
  Result<Tally> train(Step step, const Source& source, const Source& blank);
  /// COLLECTIVE. Losses of micro-batches [0, count) of `source`; `step` is for reports. REQUIRES:
  /// count <= G.
  Result<Tally> evaluate(Step step, std::int64_t count, const Source& source, const Source& blank);

  /// As SliceGroup::travel_by(). REQUIRES: a tensor degree above 1.
  void slices_travel_by(comm::DeviceLane& lane) { slices_->travel_by(lane); }

  gpt::ActivationBytes activation_bytes() const { return stage_->activation_bytes(); }
  /// Of the last pass.
  const pipeline::RunTime& time() const { return executor_->time(); }
  std::int64_t boundary_bytes() const { return executor_->boundary_bytes(); }
  std::int64_t slice_sum_bytes() const { return slices_ ? slices_->staging_bytes() : 0; }
  std::int64_t id_bytes() const { return stage_->id_bytes(); }
  std::int64_t host_bytes() const { return stage_->host_bytes(); }
  const pipeline::Program& program() const { return program_; }

 private:
  Result<Tally> run(const pipeline::Program& program, Step step, bool evaluate,
                    const Source& source, const Source& blank);
  Result<void> rehearse(const pipeline::Program& program, bool evaluate);
  Result<layers::MicroBatch> batch(std::int64_t micro_batch);
  void add_losses(std::span<const float> losses);
  pipeline::Program evaluation_program(std::int64_t count) const;

  RunnerParts parts_;
  pipeline::Program program_, evaluation_;  // of a step; of evaluation_count_ micro-batches
  std::int64_t evaluation_count_ = 0;
  std::optional<comm::SliceGroup> slices_;  // none with tensor degree 1
  std::unique_ptr<gpt::Stage> stage_;
  std::unique_ptr<pipeline::StageOps> slowed_;  // the stage, as slow as chaos wants it; mostly null
  std::unique_ptr<pipeline::Executor> executor_;

  bool rehearsing_ = false;

  // Of the pass under way.
  const Source* source_ = nullptr;
  const Source* blank_ = nullptr;
  Tally tally_;
};

}  // namespace elaswave::app
