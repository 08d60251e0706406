#include "app/local_setup.h"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <new>
#include <optional>
#include <thread>

#include "app/commands.h"
#include "app/layout.h"
#include "app/memory.h"
#include "app/resume.h"
#include "io/base/hash.h"
#include "model/gpt/fingerprint.h"

namespace elaswave::app {
namespace {

/// The first of the variables that is set, as a number.
std::optional<int> first_number(std::initializer_list<const char*> variables) {
  for (const char* variable : variables)
    if (const char* text = std::getenv(variable)) return std::atoi(text);
  return std::nullopt;
}

// Set by Open MPI's launchers, and by Slurm's where srun starts the ranks itself.
int ranks_on_host() {
  return std::max(
      1, first_number({"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE"}).value_or(1));
}
int rank_on_host() {
  return std::max(0, first_number({"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"}).value_or(0));
}

/// Cores of this host shared fairly among its ranks: oversubscribed compute threads only get in
/// each other's way.
int thread_count(const Config& config) {
  if (config.device.threads > 0) return static_cast<int>(config.device.threads);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / ranks_on_host());
}

kernels::Isa isa_of(const Config& config) {
  if (config.device.isa == "avx2") return kernels::Isa::avx2;
  if (config.device.isa == "avx512") return kernels::Isa::avx512;
  return kernels::Isa::automatic;
}

Result<void> build(const Settings& settings, comm::World& world, bool (*stop)(), RankFaults faults,
                   LocalSetup& setup) {
  const Config& config = settings.config;
  RealClock clock;
  Nanoseconds mark = clock.now();
  const auto lap = [&](const char* phase) {
    const Nanoseconds now = clock.now();
    setup.timeline.emplace_back(
        phase, static_cast<double>(now - mark) / static_cast<double>(kMillisecond));
    mark = now;
  };
  EW_ASSIGN(setup.spec, resolve(config));
  setup.spec.elastic.domains = setup.domains;
  setup.spec.elastic.limits = setup.limits;
  EW_ASSIGN(setup.plan, healthy_plan(setup.spec, world.size(), world.generation()));
  setup.memory = worst_memory(setup.spec, setup.plan.plan);
  EW_TRY(check_memory(setup.spec, setup.plan.plan));
  EW_ASSIGN(setup.device, make_rank_device(config.device.kind,
                                           {.isa = isa_of(config), .threads = thread_count(config)},
                                           static_cast<int>(config.device.gpu), rank_on_host(),
                                           config.device.gemm_table));
  const kernels::Machine machine = setup.device->machine();
  if (!machine.stream.device().host_reads()) setup.staged.emplace(world, machine.stream);
  comm::World& peers = setup.staged ? *setup.staged : world;
  setup.lanes = make_device_lanes(machine, world, peers);
  lap("device");
  EW_ASSIGN(const data::TokenFormat format, data::parse_token_format(config.data.format));
  EW_ASSIGN(const data::TokenType type, data::parse_token_type(config.data.dtype));
  EW_ASSIGN(setup.train, data::TokenSet::open(config.data.train, format, type));
  if (!config.data.val.empty()) {
    EW_ASSIGN(setup.val, data::TokenSet::open(config.data.val, format, type));
  }
  lap("data");
  // Before the trainer takes its memory: the fingerprint needs some of its own for a moment.
  EW_ASSIGN(const std::uint64_t fingerprint,
            gpt::fingerprint(machine, setup.spec.model, setup.spec.micro_batch, setup.spec.storage,
                             setup.spec.loss_chunk_tokens));
  lap("fingerprint");
  if (!setup.spec.checkpoint.directory.empty()) {
    const CheckpointSpec& spec = setup.spec.checkpoint;
    setup.checkpoint.emplace(CheckpointSetup{
        .files = *setup.files,
        .directory = spec.directory,
        .every = spec.every,
        .last = spec.last,
        .verify = spec.verify,
        .retention = {.keep = spec.keep, .keep_every = spec.keep_every},
        .writer = program_name(),
        .created = utc_text,
        .config = effective_config(config, setup.spec),
        .facts = manifest_facts({.train_fingerprint = setup.train->fingerprint(),
                                 .val_fingerprint = setup.val ? setup.val->fingerprint() : 0,
                                 .tokenizer = setup.train->tokenizer(),
                                 .numeric_class = machine.ops.numeric_class(),
                                 .fingerprint = fingerprint,
                                 .ranks = world.size(),
                                 .tensor_degree = setup.spec.layout.tensor})});
  }
  EW_ASSIGN(
      setup.trainer,
      Trainer::create(setup.spec, {.world = peers,
                                   .machine = machine,
                                   .train = *setup.train,
                                   .val = setup.val ? &*setup.val : nullptr,
                                   .stop = stop,
                                   .checkpoint = setup.checkpoint ? &*setup.checkpoint : nullptr,
                                   .plan = &setup.plan.plan,
                                   .faults = std::move(faults),
                                   .lanes = setup.lanes.get()}));
  lap("weights");
  setup.identity = {
      .numeric_class = machine.ops.numeric_class(),
      .recipe = combine64(setup.spec.recipe_hash(), !config.train.dump_state.empty()),
      .data = combine64(setup.train->fingerprint(), setup.val ? setup.val->fingerprint() : 0),
      .plan = layout::digest(setup.trainer->plan()),
      .fingerprint = fingerprint};
  return {};
}

}  // namespace

GpuMemory gpu_of_this_rank(const Config& config) {
  return gpu_memory(config.device.kind, static_cast<int>(config.device.gpu), rank_on_host());
}

std::optional<Error> set_up(const Settings& settings, comm::World& world, bool (*stop)(),
                            RankFaults faults, LocalSetup& setup) {
  const auto refused = [&](std::string what) {
    return memory_refused(setup.spec, setup.plan.plan, world.world_rank(), std::move(what));
  };
  try {
    auto built = build(settings, world, stop, std::move(faults), setup);
    if (built) return std::nullopt;
    return std::move(built).error();
  } catch (const device::DeviceLost& lost) {
    Error error = device_lost(lost);
    error.where = fmt::format("rank {}, at start", world.world_rank());
    return error;
  } catch (const device::OutOfMemory& full) {
    return refused(full.what());
  } catch (const std::bad_alloc&) {
    return refused("the system refused memory");
  }
}

}  // namespace elaswave::app
