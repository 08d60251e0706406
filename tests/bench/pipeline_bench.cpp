// Metric: measured step time over the schedule's own prediction, on emulated compute (every action
// sleeps). Prediction: pipeline::predict(). Measurement: the executor over MPI, the slowest rank of
// each step between two barriers.
// Usage: mpirun -n RANKS pipeline_bench CASE [ACTION_MS] [STEPS]
//   CASE: gpipe, 1f1b, interleaved, zb-h1, zbv (one pipeline of RANKS stages, 2 * RANKS
//   micro-batches), or uneven (3 stages with RANKS replicas dealt unevenly, list-scheduled)
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "parallel/comm/group.h"
#include "parallel/comm/world_mpi.h"
#include "parallel/pipeline/executor.h"
#include "parallel/pipeline/schedule.h"
#include "tests/support/emulated_stage.h"

namespace elaswave {
namespace {

constexpr std::int32_t kUnevenStages = 3;

struct Case {
  layout::Plan plan;
  pipeline::Costs costs;
};

void set_ranks(layout::Plan& plan, int ranks, std::int32_t stages) {
  plan.stages.resize(static_cast<std::size_t>(stages));
  for (int rank = 0; rank < ranks; ++rank)
    plan.stages[static_cast<std::size_t>(rank * stages / ranks)].replicas.push_back({{rank}});
}

void set_chunks(layout::Plan& plan, std::vector<std::int32_t> stage_of_chunk) {
  plan.stage_of_chunk = std::move(stage_of_chunk);
  for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk) plan.chunk_of_layer.push_back(chunk);
}

void set_routes(layout::Plan& plan, std::int64_t micro_batches) {
  plan.micro_batches = micro_batches;
  for (std::int64_t index = 0; index < micro_batches; ++index)
    for (const layout::Stage& stage : plan.stages)
      plan.route.push_back(static_cast<std::int32_t>(index % std::ssize(stage.replicas)));
}

Result<Case> make_case(const std::string& name, int ranks, std::int64_t action) {
  Case made;
  layout::Plan& plan = made.plan;
  const auto set_costs = [&](std::int64_t unit) {
    made.costs.chunks.assign(static_cast<std::size_t>(plan.chunks()), {unit, unit, unit, unit});
  };
  if (name == "uneven") {
    set_ranks(plan, ranks, kUnevenStages);
    set_chunks(plan, {0, 1, 2});
    set_routes(plan, 2 * ranks);
    set_costs(action);
    EW_ASSIGN(plan.schedule, pipeline::list_schedule(plan, made.costs, {.split = true}));
    return made;
  }
  using enum pipeline::Schedule;
  for (const pipeline::Schedule schedule : {gpipe, one_f_one_b, interleaved, zb_h1, zbv}) {
    if (pipeline::name(schedule) != name) continue;
    const std::int32_t chunks = schedule == interleaved || schedule == zbv ? 2 : 1;
    const pipeline::PipelineShape shape{ranks, chunks, 2 * ranks};
    EW_TRY(pipeline::check_shape(schedule, shape));
    set_ranks(plan, ranks, ranks);
    set_chunks(plan, pipeline::placement(schedule, ranks, chunks));
    set_routes(plan, shape.micro_batches);
    set_costs(action);
    plan.schedule = pipeline::generate(schedule, shape);
    return made;
  }
  return fail({.code = Code::usage, .what = "no such case", .where = name});
}

Result<int> run(const std::string& name, std::int64_t action, int steps) {
  EW_ASSIGN(const std::unique_ptr<comm::World> world, comm::make_mpi_world({}));
  EW_ASSIGN(const Case bench, make_case(name, world->size(), action));
  const pipeline::ScheduleFault fault = pipeline::check_schedule(bench.plan, 0);
  EW_CHECK(fault.what.empty(), "{}", pipeline::fault_text(bench.plan, fault));
  const pipeline::Timing predicted = pipeline::predict(bench.plan, bench.costs);
  const layout::Place place = layout::place_of(bench.plan, world->world_rank());
  const pipeline::Program program = pipeline::lower(bench.plan, place.stage, place.replica);
  test::EmulatedStage stage(world->clock(), bench.costs);
  device::CpuStream stream(1);
  pipeline::Executor executor({.world = *world,
                               .plan = bench.plan,
                               .ops = stage,
                               .shape = {256, 64, DType::f32},
                               .timeout = 60 * kSecond,
                               .stream = stream,
                               .between = {}},
                              program.boundaries);
  const comm::Group all = comm::everyone(*world);
  const auto deadline = [&] { return Deadline::after(world->clock(), 60 * kSecond); };
  std::vector<std::int64_t> times;
  for (int step = 0; step <= steps; ++step) {  // the first one warms up
    std::int64_t word = 0;
    EW_TRY(comm::all_reduce_sum(*world, all, std::span(&word, 1), "barrier", deadline()));
    const Nanoseconds begin = world->clock().now();
    EW_TRY(executor.run(program, Step{step}, false));
    EW_TRY(comm::all_reduce_sum(*world, all, std::span(&word, 1), "barrier", deadline()));
    if (step > 0) times.push_back(world->clock().now() - begin);
  }
  std::ranges::sort(times);
  const double measured = static_cast<double>(times[times.size() / 2]);
  const double expected = static_cast<double>(predicted.makespan);
  if (world->world_rank() == 0)
    std::printf(
        "%-12s %3d ranks  predicted %8.1f ms  measured %8.1f ms  ratio %.3f  bubble %.1f %%\n",
        name.c_str(), world->size(), expected / 1e6, measured / 1e6, measured / expected,
        100 * predicted.bubble());
  EW_TRY(world->close(deadline()));
  return 0;
}

}  // namespace
}  // namespace elaswave

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "1f1b";
  const std::int64_t action = (argc > 2 ? std::atoi(argv[2]) : 20) * elaswave::kMillisecond;
  const auto result = elaswave::run(name, action, argc > 3 ? std::atoi(argv[3]) : 5);
  if (!result) std::fprintf(stderr, "%s\n", result.error().text().c_str());
  return result ? *result : 1;
}
