#include "elastic/plan/sweep.h"

#include <algorithm>
#include <array>

#include "elastic/plan/lay_out.h"
#include "elastic/plan/owners.h"

namespace elaswave::plan {
namespace {

using pipeline::Schedule;
using spec::Recompute;

constexpr std::array<Recompute, 3> kRecomputes = {Recompute::none, Recompute::selective,
                                                  Recompute::full};

/// What all layouts of one tensor degree share.
struct TensorCase {
  TensorCase(const SweepRequest& from, std::int32_t degree)
      : request(from),
        tensor(degree),
        inventory(from.config, from.storage, degree),
        blocks(inventory.blocks()) {
    for (std::size_t index = 0; index < kRecomputes.size(); ++index)
      costs[index] = profiled_costs(from.profile, {.config = from.config,
                                                   .micro_batch = from.micro_batch,
                                                   .tensor = degree,
                                                   .storage = from.storage,
                                                   .recompute = kRecomputes[index]});
  }

  spec::MemoryModel model(Recompute recompute) const {
    return {.config = request.config,
            .inventory = inventory,
            .blocks = blocks,
            .micro_batch = request.micro_batch,
            .storage = request.storage,
            .operands = request.operands,
            .sums = request.sums,
            .recompute = recompute,
            .checkpoints = request.checkpoints,
            .backups = request.world_size > 1 ? request.copies : 0,
            .loss_chunk_tokens = request.loss_chunk_tokens,
            .device = request.device};
  }

  const SweepRequest& request;
  std::int32_t tensor;
  spec::Inventory inventory;
  layout::BlockTable blocks;
  std::array<LayerCosts, kRecomputes.size()> costs;
};

/// What rows do not change.
struct Laid {
  layout::Plan plan;
  spec::OwnedByStage owned;
  std::vector<StageTraffic> traffic;
};

/// Rows: of equal pipelines one of each kind, or a plan.
struct Rows {
  std::vector<ColumnKind> columns;
  std::optional<layout::Plan> whole;
  std::vector<LoweredKind> lowered;
};

/// One (tp, pp, chunks), with everything that is the same for several schedules made once.
class LayoutSweep {
 public:
  LayoutSweep(const TensorCase& from, std::int32_t stages, std::int32_t chunks, Sweep& sweep,
              std::optional<Error>& refused)
      : case_(from),
        request_{.world_size = from.request.world_size,
                 .tensor = from.tensor,
                 .pipeline = stages,
                 .chunks = chunks,
                 .micro_batches = from.request.micro_batches,
                 .costs = counted_costs(from.request.config)},
        sweep_(sweep),
        refused_(refused) {}

  Result<void> run() {
    if (auto sound = check_request(case_.blocks, request_); !sound)
      return refuse(std::move(sound).error());
    const std::int32_t replicas = request_.world_size / request_.tensor;
    if (replicas % request_.pipeline != 0) return try_schedule(std::nullopt);
    for (const Schedule schedule : kSchedules) {
      // With one chunk it is 1F1B.
      if (schedule == Schedule::interleaved && request_.chunks == 1) continue;
      if (request_.pipeline == 1 && schedule != Schedule::one_f_one_b) continue;
      EW_TRY(try_schedule(schedule));
    }
    return {};
  }

 private:
  Result<void> refuse(Error error) {
    if (error.code != Code::usage) return fail(std::move(error));
    if (!refused_) refused_ = std::move(error);
    return {};
  }

  Result<void> try_schedule(std::optional<Schedule> schedule) {
    std::optional<Rows> rows;  // of none and selective, then of full
    for (std::size_t index = 0; index < kRecomputes.size(); ++index) {
      request_.recompute = kRecomputes[index];
      request_.schedule = schedule;
      const bool full = request_.recompute == Recompute::full;
      if (full && request_.pipeline == 1) continue;
      if (!rows || full) {
        auto made = make_rows();
        if (!made) return refuse(std::move(made).error());
        rows = std::move(*made);
      }
      EW_TRY(add(index, *rows));
    }
    return {};
  }

  Laid& laid() {
    const bool folded = request_.schedule == Schedule::zbv;
    const bool full = request_.recompute == Recompute::full;
    std::optional<Laid>& known = laid_[(folded ? 2u : 0u) + (full ? 1u : 0u)];
    if (known) return *known;
    Laid& made = known.emplace();
    made.plan = lay_out(case_.blocks, request_, request_.schedule.value_or(Schedule::interleaved));
    complete(made);
    return made;
  }

  void complete(Laid& laid) const {
    if (laid.plan.owner.empty()) laid.plan.owner = deal_owners(case_.blocks, laid.plan);
    laid.owned = spec::owned_elems(laid.plan, case_.blocks);
    laid.traffic = stage_traffic(case_.model(Recompute::none), laid.plan);
  }

  Result<Rows> make_rows() {
    Rows rows;
    if (!request_.schedule) {
      EW_ASSIGN(HealthyPlan made, make_healthy_plan(case_.blocks, request_));
      rows.lowered = lower_kinds(made.plan);
      rows.whole = std::move(made.plan);
      return rows;
    }
    const layout::Plan& plan = laid().plan;
    EW_TRY(check_maker(plan, request_, *request_.schedule));
    const RowsRequest wanted = rows_request(request_, plan, {.schedule = request_.schedule});
    const auto columns = plan.replicas(0);
    const auto share = static_cast<std::int32_t>(plan.micro_batches / columns);
    const auto longer = static_cast<std::int32_t>(plan.micro_batches % columns);
    for (const ColumnKind& kind :
         {ColumnKind{0, longer, {}}, ColumnKind{longer, columns - longer, {}}}) {
      if (kind.count == 0) continue;
      ColumnKind& made = rows.columns.emplace_back(kind);
      EW_ASSIGN(made.column, make_column(plan, share + (kind.first < longer ? 1 : 0), wanted));
    }
    rows.lowered = lower_columns(rows.columns);
    return rows;
  }

  Result<void> add(std::size_t index, const Rows& rows) {
    Laid uneven;
    if (rows.whole) {
      uneven.plan = *rows.whole;
      complete(uneven);
    }
    const Laid& made = rows.whole ? uneven : laid();
    const LayerCosts& by_layer = case_.costs[index];
    const double speed = case_.request.profile.bytes_per_second;
    if (auto sound = check_times(by_layer, request_.micro_batches, made.traffic, speed); !sound)
      return refuse(std::move(sound).error());
    const pipeline::Costs costs =
        chunk_costs(by_layer, made.plan.chunk_of_layer, made.plan.chunks());
    const bool own = case_.request.device == spec::DeviceMemory::own;
    const spec::Side side = own ? spec::Side::device : spec::Side::all;
    const std::vector<StageMemory> memory =
        worst_ranks(case_.model(request_.recompute), made.plan, rows.lowered, made.owned, {}, side);
    const StageMemory& worst = worst_of(memory, side);
    SweepEntry entry{
        .tensor = request_.tensor,
        .pipeline = request_.pipeline,
        .chunks = request_.chunks,
        .schedule = request_.schedule ? std::string(pipeline::name(*request_.schedule)) : "auto",
        .recompute = request_.recompute,
        .uneven = rows.whole.has_value(),
        .step = rows.whole ? predict_step(made.plan, costs, made.traffic, speed)
                           : predict_columns(made.plan, rows.columns, costs, made.traffic, speed),
        .memory = worst.table.total(side),
        .worst_stage = worst.place.stage,
        .largest = worst.table.largest(side)};
    const auto fits = [](double bytes, double limit) { return limit == 0 || bytes <= limit; };
    bool all_fit = fits(entry.memory, own ? case_.request.gpu_limit : case_.request.memory_limit);
    if (own)  // that the rank which needs most of one needs most of the other is near enough
      all_fit = all_fit && fits(worst_of(memory, spec::Side::host).table.total(spec::Side::host),
                                case_.request.memory_limit);
    (all_fit ? sweep_.fitting : sweep_.too_large).push_back(std::move(entry));
    return {};
  }

  const TensorCase& case_;
  HealthyRequest request_;
  Sweep& sweep_;
  std::optional<Error>& refused_;
  std::array<std::optional<Laid>, 4> laid_;  // by whether chunks fold back and all is recomputed
};

Result<void> try_tensor(const SweepRequest& request, std::int32_t tensor, Sweep& sweep,
                        std::optional<Error>& refused) {
  const TensorCase shared(request, tensor);
  const std::int32_t replicas = request.world_size / tensor;
  const std::int32_t layers = shared.blocks.layers();
  for (std::int32_t stages = 1; stages <= std::min(replicas, layers); ++stages) {
    const bool uneven = replicas % stages != 0;
    // A single stage has no schedule to choose: one chunk, one order.
    const std::int32_t legal = stages == 1 ? 1 : layers / stages;
    const std::int32_t tried = std::min(kMostSweptChunks, legal);
    sweep.left_out.chunks += legal - tried;
    for (std::int32_t chunks = 1; chunks <= tried; ++chunks) {
      const std::int64_t forwards = request.micro_batches * stages * chunks;
      if (uneven && (replicas > kMostUnevenReplicas || forwards > kMostUnevenForwards))
        ++sweep.left_out.uneven;
      else
        EW_TRY(LayoutSweep(shared, stages, chunks, sweep, refused).run());
    }
  }
  return {};
}

void order(Sweep& sweep) {
  std::stable_sort(sweep.fitting.begin(), sweep.fitting.end(),
                   [](const SweepEntry& a, const SweepEntry& b) {
                     if (a.step.step() != b.step.step()) return a.step.step() < b.step.step();
                     return a.memory < b.memory;
                   });
  std::stable_sort(sweep.too_large.begin(), sweep.too_large.end(),
                   [](const SweepEntry& a, const SweepEntry& b) { return a.memory < b.memory; });
}

}  // namespace

Result<Sweep> sweep(const SweepRequest& request) {
  Sweep sweep;
  std::optional<Error> refused;  // the first
  for (std::int32_t tensor = 1; tensor <= request.world_size; ++tensor)
    if (request.world_size % tensor == 0 &&
        spec::check_tensor_degree(request.config, tensor).has_value())
      EW_TRY(try_tensor(request, tensor, sweep, refused));
  if (refused && sweep.fitting.empty() && sweep.too_large.empty()) return fail(std::move(*refused));
  order(sweep);
  return sweep;
}

}  // namespace elaswave::plan
