#include "elastic/plan/sweep.h"

#include <algorithm>
#include <array>

namespace elaswave::plan {
namespace {

using pipeline::Schedule;

constexpr std::array<Schedule, 5> kSchedules = {Schedule::one_f_one_b, Schedule::interleaved,
                                                Schedule::zb_h1, Schedule::zbv, Schedule::gpipe};
constexpr std::array<spec::Recompute, 3> kRecomputes = {
    spec::Recompute::none, spec::Recompute::selective, spec::Recompute::full};

class Sweeper {
 public:
  explicit Sweeper(const SweepRequest& request) : request_(request) {}

  Result<Sweep> run() {
    for (std::int32_t tensor = 1; tensor <= request_.world_size; ++tensor)
      if (request_.world_size % tensor == 0 &&
          spec::check_tensor_degree(request_.config, tensor).has_value())
        EW_TRY(try_tensor(tensor));
    std::stable_sort(sweep_.fitting.begin(), sweep_.fitting.end(),
                     [](const SweepEntry& a, const SweepEntry& b) {
                       if (a.step.step() != b.step.step()) return a.step.step() < b.step.step();
                       return a.memory < b.memory;
                     });
    std::stable_sort(sweep_.too_large.begin(), sweep_.too_large.end(),
                     [](const SweepEntry& a, const SweepEntry& b) { return a.memory < b.memory; });
    return std::move(sweep_);
  }

 private:
  Result<void> try_tensor(std::int32_t tensor) {
    const spec::Inventory inventory(request_.config, request_.storage, tensor);
    const layout::BlockTable blocks = inventory.blocks();
    spec::MemoryModel model{.config = request_.config,
                            .inventory = inventory,
                            .blocks = blocks,
                            .micro_batch = request_.micro_batch,
                            .storage = request_.storage,
                            .sums = request_.sums,
                            .checkpoints = request_.checkpoints};
    const std::int32_t replicas = request_.world_size / tensor;
    const std::int32_t layers = blocks.layers();
    for (std::int32_t stages = 1; stages <= std::min(replicas, layers); ++stages) {
      const bool uneven = replicas % stages != 0;
      // A single stage has no schedule to choose: one chunk, one order.
      const std::int32_t most_chunks =
          stages == 1 ? 1 : std::min(kMostSweptChunks, layers / stages);
      if (uneven && replicas > kMostUnevenReplicas) continue;
      for (std::int32_t chunks = 1; chunks <= most_chunks; ++chunks)
        for (const spec::Recompute recompute : kRecomputes) {
          model.recompute = recompute;
          HealthyRequest request{.world_size = request_.world_size,
                                 .tensor = tensor,
                                 .pipeline = stages,
                                 .chunks = chunks,
                                 .recompute = recompute,
                                 .micro_batches = request_.micro_batches};
          if (uneven) {
            EW_TRY(try_request(model, request));
            continue;
          }
          for (const Schedule schedule : kSchedules) {
            // With one chunk it is 1F1B.
            if (schedule == Schedule::interleaved && chunks == 1) continue;
            if (stages == 1 && schedule != Schedule::one_f_one_b) continue;
            request.schedule = schedule;
            EW_TRY(try_request(model, request));
          }
        }
    }
    return {};
  }

  Result<void> try_request(const spec::MemoryModel& model, const HealthyRequest& request) {
    auto evaluation = evaluate(model, request, request_.profile);
    if (!evaluation) {
      // A schedule whose precondition does not hold is no layout at all.
      if (evaluation.error().code == Code::usage) return {};
      return fail(std::move(evaluation).error());
    }
    const StageMemory& worst = evaluation->worst();
    SweepEntry entry{.tensor = request.tensor,
                     .pipeline = request.pipeline,
                     .chunks = request.chunks,
                     .schedule = evaluation->made.schedule,
                     .recompute = request.recompute,
                     .uneven = !request.schedule.has_value(),
                     .step = evaluation->step,
                     .memory = worst.table.total(),
                     .worst_stage = worst.place.stage,
                     .largest = worst.table.largest()};
    const bool fits = request_.memory_limit == 0 || entry.memory <= request_.memory_limit;
    (fits ? sweep_.fitting : sweep_.too_large).push_back(std::move(entry));
    return {};
  }

  const SweepRequest& request_;
  Sweep sweep_;
};

}  // namespace

Result<Sweep> sweep(const SweepRequest& request) {
  return Sweeper(request).run();
}

}  // namespace elaswave::plan
