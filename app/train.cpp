#include "app/train.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "app/commands.h"
#include "app/console.h"
#include "app/exit_report.h"
#include "app/launch_rules.h"
#include "app/layout.h"
#include "app/memory.h"
#include "app/resume.h"
#include "app/run_directory.h"
#include "app/start.h"
#include "app/trace.h"
#include "app/trainer.h"
#include "io/base/hash.h"
#include "io/base/log.h"
#include "io/metrics/metrics.h"
#include "model/gpt/fingerprint.h"
#include "model/kernels/cpu_ops.h"
#include "model/spec/flops.h"
#include "parallel/comm/simulation.h"
#include "parallel/comm/world_mpi.h"

namespace elaswave::app {
namespace {

// The signals that ask a run to stop are blocked and looked for, never handled: oneDNN's sgemm runs
// with the stack pointer in a heap block, so the frame of a handler would overwrite what lies below
// that block (README.md, "Signals of a rank").
constexpr std::array kStopSignals = {SIGTERM, SIGUSR1};

/// Before any thread is made: all inherit it. A file that may not grow is an error like any other.
void set_signals() {
  signal(SIGXFSZ, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kStopSignals) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

/// Nobody takes a pending signal, so the answer stays true.
bool stop_requested() {
  sigset_t pending;
  sigpending(&pending);
  return std::ranges::any_of(kStopSignals,
                             [&](int signal) { return sigismember(&pending, signal) == 1; });
}

/// A trace needs more than the last moments.
std::size_t flight_capacity(const Config& config) {
  constexpr std::size_t kTraceEvents = 1 << 17;
  return config.profile.trace.empty() ? kFlightCapacity : kTraceEvents;
}

Result<std::unique_ptr<comm::World>> make_world(const Config& config) {
  if (comm::started_by_mpi_launcher())
    return comm::make_mpi_world(
        {.checksum = config.comm.checksum, .flight_capacity = flight_capacity(config)});
  return comm::make_solo_world({}, flight_capacity(config));
}

int ranks_on_host() {
  const char* local_size =
      std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");  // set by Open MPI's launchers
  return std::max(1, local_size != nullptr ? std::atoi(local_size) : 1);
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

/// What one rank builds before it meets the others.
struct LocalSetup {
  RunSpec spec;
  std::unique_ptr<kernels::Ops> ops;
  std::unique_ptr<device::CpuStream> stream;
  std::optional<data::TokenSet> train, val;
  std::unique_ptr<FileSystem> files = make_file_system();
  std::optional<CheckpointSetup> checkpoint;
  std::vector<FileLock> locks;  // the reporter's, on the directories of the run
  std::unique_ptr<Trainer> trainer;
  plan::HealthyPlan plan;
  spec::MemoryTable memory;  // planned, of the rank that needs most
  StartIdentity identity;
  std::vector<std::pair<std::string, double>> timeline;  // phase, ms
};

Result<void> build(const Settings& settings, comm::World& world, LocalSetup& setup) {
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
  EW_ASSIGN(setup.plan, healthy_plan(setup.spec, world.size(), world.generation()));
  setup.memory = worst_memory(setup.spec, setup.plan.plan);
  EW_TRY(check_memory(setup.memory, host_memory(), ranks_on_host()));
  EW_ASSIGN(setup.ops, kernels::make_cpu_ops(isa_of(config)));
  setup.stream = std::make_unique<device::CpuStream>(thread_count(config));
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
            gpt::fingerprint(*setup.ops, *setup.stream, setup.spec.model, setup.spec.micro_batch,
                             setup.spec.storage));
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
                                 .numeric_class = setup.ops->numeric_class(),
                                 .fingerprint = fingerprint,
                                 .ranks = world.size(),
                                 .tensor_degree = setup.spec.layout.tensor})});
  }
  EW_ASSIGN(
      setup.trainer,
      Trainer::create(setup.spec, {.world = world,
                                   .ops = *setup.ops,
                                   .stream = *setup.stream,
                                   .train = *setup.train,
                                   .val = setup.val ? &*setup.val : nullptr,
                                   .stop = stop_requested,
                                   .checkpoint = setup.checkpoint ? &*setup.checkpoint : nullptr,
                                   .plan = &setup.plan.plan}));
  lap("weights");
  setup.identity = {
      .numeric_class = setup.ops->numeric_class(),
      .recipe = combine64(setup.spec.recipe_hash(), !config.train.dump_state.empty()),
      .data = combine64(setup.train->fingerprint(), setup.val ? setup.val->fingerprint() : 0),
      .plan = layout::digest(setup.trainer->plan()),
      .fingerprint = fingerprint};
  return {};
}

/// build(), with a refused allocation as an error like any other: peers must hear of it.
std::optional<Error> set_up(const Settings& settings, comm::World& world, LocalSetup& setup) {
  try {
    auto built = build(settings, world, setup);
    if (built) return std::nullopt;
    return std::move(built).error();
  } catch (const std::bad_alloc&) {
    return Error{.code = Code::does_not_fit,
                 .what = "the system refused memory",
                 .where = fmt::format("rank {}, at start", world.world_rank()),
                 .why = fmt::format("the run needs {} a rank: {}", bytes_text(setup.memory.total()),
                                    memory_text(setup.memory)),
                 .fix = "use a smaller train.micro_batch or model.context, or a smaller model"};
  }
}

std::string checkpoint_row(const RunSpec& spec, const std::optional<Restored>& restored) {
  const CheckpointSpec& checkpoint = spec.checkpoint;
  if (checkpoint.directory.empty()) return "none: neither log.dir nor checkpoint.dir is set";
  const std::string when =
      checkpoint.every > 0
          ? fmt::format("every {} steps", checkpoint.every)
          : std::string(checkpoint.last ? "after the last step" : "only when asked to stop");
  return fmt::format("{}, in {}; {}", when, checkpoint.directory,
                     restored ? fmt::format("going on after step {}", raw(restored->manifest.step))
                              : std::string("starting at step 0"));
}

Console::Rows start_rows(const Settings& settings, const LocalSetup& setup,
                         const std::optional<Restored>& restored) {
  const RunSpec& spec = setup.spec;
  const spec::ModelConfig& model = spec.model;
  std::string timeline;
  for (const auto& [phase, ms] : setup.timeline)
    timeline += fmt::format("{}{} {:.0f} ms", timeline.empty() ? "" : ", ", phase, ms);
  const double params = static_cast<double>(setup.trainer->inventory().total_elems());
  return {
      {"model",
       fmt::format("{}: {} layers, {} heads, hidden {}, context {}, vocabulary {}, dropout {}",
                   settings.config.model.preset, model.layers, model.heads, model.hidden,
                   model.context, model.vocab, model.dropout)},
      {"parameters", count_text(params)},
      {"data", fmt::format("{} tokens, {} samples an epoch, fingerprint {:016x}",
                           count_text(static_cast<double>(setup.train->count())),
                           data::sample_count(setup.train->count(), model.context),
                           setup.train->fingerprint())},
      {"batch",
       fmt::format("{} samples = {} micro-batches of {}; {} tokens a step", spec.global_batch(),
                   spec.micro_batches, spec.micro_batch, spec.tokens_per_step())},
      {"layout",
       fmt::format("{}; {} compute thread{} a rank", layout_text(spec, setup.plan),
                   setup.stream->pool().threads(), setup.stream->pool().threads() == 1 ? "" : "s")},
      {"work",
       fmt::format("{} flop a step", count_text(spec::training_flops_per_token(model) *
                                                static_cast<double>(spec.tokens_per_step())))},
      {"numerics", fmt::format("{}, class {}, fingerprint {:016x}", settings.config.numerics.mode,
                               setup.identity.numeric_class, setup.identity.fingerprint)},
      {"memory (a rank)",
       fmt::format("{}: {}", bytes_text(setup.memory.total()), memory_text(setup.memory))},
      {"checkpoints", checkpoint_row(spec, restored)},
      {"steps", fmt::format("{}, seed {}", spec.steps, spec.seed)},
      {"launcher", launcher_note()},
      {"start", timeline},
  };
}

/// Writes metrics and console lines on the reporter; nothing elsewhere.
class Reporter final : public StepObserver {
 public:
  Reporter(Console& console, std::optional<metrics::MetricsLog> log, std::int64_t tokens_per_step)
      : console_(console), log_(std::move(log)), tokens_per_step_(tokens_per_step) {}

  Result<void> on_step(const StepReport& report) override {
    const optim::CommitRecord& record = report.record;
    if (log_) {
      const double seconds = static_cast<double>(report.duration) / static_cast<double>(kSecond);
      // A disk that fails costs metrics, not the run.
      const auto written =
          log_->write({.step = record.version.step,
                       .generation = record.version.generation,
                       .loss = record.loss,
                       .grad_norm = record.grad_norm,
                       .lr = record.lr,
                       .tokens = report.tokens,
                       .ms = seconds * 1e3,
                       .samples = report.samples,
                       .sample_hash = record.sample_hash,
                       .tokens_per_s = static_cast<double>(tokens_per_step_) / seconds,
                       .update = record.skip ? metrics::MetricsLine::Update::skipped
                                             : metrics::MetricsLine::Update::applied,
                       .digest = report.digest,
                       .val_loss = report.val_loss});
      if (!written) {
        log_error("metrics end before step {}: {}", raw(record.version.step),
                  written.error().text());
        log_.reset();
      }
    }
    console_.step(report);
    if (report.bubble)
      console_.note(fmt::format(
          "first step: {:.0f} % of the ranks' time was idle; {} resident here",
          100 * *report.bubble, bytes_text(static_cast<double>(peak_resident_bytes()))));
    return {};
  }

 private:
  Console& console_;
  std::optional<metrics::MetricsLog> log_;
  std::int64_t tokens_per_step_;
};

class SilentObserver final : public StepObserver {
  Result<void> on_step(const StepReport&) override { return {}; }
};

/// COLLECTIVE. What the reporter draws: the run's identity, should it be a new one, and the
/// session.
Result<void> draw_identity(comm::World& world, CheckpointSetup& setup, Nanoseconds timeout) {
  std::array<std::uint64_t, 3> words{};
  if (world.world_rank() == 0) {
    std::random_device source;
    for (std::uint64_t& word : words) word = std::uint64_t{source()} << 32 | source();
  }
  EW_TRY(comm::broadcast(world, comm::everyone(world), 0, std::as_writable_bytes(std::span(words)),
                         "run identity", Deadline::after(world.clock(), timeout)));
  setup.session = words[0];
  setup.run = fmt::format("{:016x}{:016x}", words[1], words[2]);
  return {};
}

/// Better now than at the first checkpoint that does not fit.
void warn_of_small_disk(const LocalSetup& setup, std::int64_t ranks) {
  const CheckpointSetup& checkpoint = *setup.checkpoint;
  const auto free = setup.files->free_bytes(checkpoint.directory);
  const double each =
      setup.trainer->memory()[spec::MemoryTerm::checkpoint] * static_cast<double>(ranks);
  const double wanted = each * static_cast<double>(checkpoint.retention.keep + 1);
  if (free && static_cast<double>(*free) < wanted)
    log_warn("{} has {} left; {} checkpoints of {} and one being written want {}",
             checkpoint.directory, bytes_text(static_cast<double>(*free)),
             checkpoint.retention.keep, bytes_text(each), bytes_text(wanted));
}

/// COLLECTIVE. Goes on from the newest checkpoint, if there is one, and says what has changed.
Result<std::optional<Restored>> resume(const Settings& settings, comm::World& world,
                                       LocalSetup& setup, Nanoseconds timeout) {
  if (!setup.checkpoint) return std::optional<Restored>();
  const bool reporter = world.world_rank() == 0;
  EW_TRY(draw_identity(world, *setup.checkpoint, timeout));
  std::optional<Error> failure;
  if (reporter)
    if (auto prepared = prepare_checkpoints(
            *setup.files, setup.checkpoint->directory,
            settings.config.train.fresh ? Start::fresh : Start::resume, setup.checkpoint->session);
        !prepared)
      failure = std::move(prepared).error();
  EW_TRY(agree_start(world, failure, setup.identity, timeout));
  if (reporter) warn_of_small_disk(setup, world.size());
  return setup.trainer->resume(
      [&](const checkpoint::Manifest& manifest, const std::string& path) -> Result<void> {
        const auto changes =
            config_changes(manifest, setup.checkpoint->config, setup.checkpoint->facts);
        if (reporter && !changes.empty()) {
          std::string text;
          for (const ConfigChange& change : changes) text += "\n  " + change.text();
          const bool grave = changes.front().resume != ResumeClass::free;
          log_line(grave ? LogLevel::warn : LogLevel::info,
                   fmt::format("{} was made with other values:{}", path, text));
        }
        return check_changes(changes, path);
      });
}

/// COLLECTIVE. Writes the Chrome trace of the last steps. A disk that fails costs the trace alone.
Result<void> trace(const Settings& settings, comm::World& world, const LocalSetup& setup, Step last,
                   Console& console) {
  const Config& config = settings.config;
  const Step first{std::max<std::int64_t>(1, raw(last) - config.profile.steps + 1)};
  EW_ASSIGN(const auto traces, collect_traces(world, comm::everyone(world), setup.plan.plan, first,
                                              config.comm.timeout_ms * kMillisecond));
  if (world.world_rank() != 0) return {};
  const auto written = write_trace(traces, config.profile.trace);
  if (!written)
    log_error("{}", written.error().text());
  else
    console.note(fmt::format("trace of steps {} to {} in {}; communication: {}", raw(first),
                             raw(last), config.profile.trace, *written));
  return {};
}

/// What is allocated should be what was planned; a person who tunes a layout relies on it.
void warn_of_memory(const LocalSetup& setup, int world_rank) {
  const layout::Plan& plan = setup.plan.plan;
  const spec::MemoryTable planned = memory_at(setup.spec, plan, layout::place_of(plan, world_rank));
  for (const std::string& difference : memory_differences(planned, setup.trainer->memory()))
    log_warn("memory is not as planned: {}", difference);
}

/// What went wrong with the disk never stops training; the exit code tells.
int exit_code_of(const RunSummary& summary) {
  if (!summary.durable) return exit_code(Code::not_durable);
  return summary.stopped ? exit_code(Code::stopped) : 0;
}

/// Diagnostics go to stderr; stdout is the console's.
void start_log(const Config& config) {
  const LogLevel level = config.log.level == "debug"  ? LogLevel::debug
                         : config.log.level == "info" ? LogLevel::info
                         : config.log.level == "warn" ? LogLevel::warn
                                                      : LogLevel::error;
  const LaunchedAs as = launched_as();
  configure_log(level, as.world_size > 1 ? fmt::format("rank {}", as.world_rank) : "elaswave");
}

ConsoleMode console_mode(const Config& config) {
  if (config.log.console == "bar") return ConsoleMode::bar;
  if (config.log.console == "plain") return ConsoleMode::plain;
  return stdout_is_terminal() ? ConsoleMode::bar : ConsoleMode::plain;
}

}  // namespace

Result<int> run_train(const Settings& settings) {
  const Config& config = settings.config;
  set_signals();
  start_log(config);  // before there are threads
  // Declared before the world: when something fails, the world's communication thread must have
  // ended before the memory it may still read and write goes.
  LocalSetup setup;
  EW_ASSIGN(const std::unique_ptr<comm::World> world, make_world(config));
  const bool reporter = world->world_rank() == 0;
  set_process_label(fmt::format("rank {}", world->world_rank()));
  const Nanoseconds timeout = config.comm.timeout_ms * kMillisecond;

  std::optional<Error> failure = set_up(settings, *world, setup);
  EW_TRY(agree_start(*world, failure, setup.identity, timeout));
  if (reporter) {
    auto locked = lock_directories(config);
    if (locked)
      setup.locks = *std::move(locked);
    else
      failure = std::move(locked).error();
  }
  EW_TRY(agree_start(*world, failure, setup.identity, timeout));
  // Files only once it is clear that there will be a run.
  EW_ASSIGN(const std::optional<Restored> restored, resume(settings, *world, setup, timeout));
  std::optional<metrics::MetricsLog> log;
  if (reporter) {
    auto opened = open_metrics(settings, restored ? restored->manifest.step : Step{0});
    if (opened)
      log = *std::move(opened);
    else
      failure = std::move(opened).error();
  }
  EW_TRY(agree_start(*world, failure, setup.identity, timeout));

  Console console(console_mode(config), config.log.every, setup.spec);
  if (reporter) console.table(start_rows(settings, setup, restored));
  warn_of_memory(setup, world->world_rank());
  SilentObserver silent;
  Reporter reports(console, std::move(log), setup.spec.tokens_per_step());
  StepObserver& observer = reporter ? static_cast<StepObserver&>(reports) : silent;
  EW_ASSIGN(const RunSummary summary, setup.trainer->run(observer));
  Result<void> dumped;
  if (!config.train.dump_state.empty()) dumped = setup.trainer->dump_state(config.train.dump_state);
  if (!config.profile.trace.empty() && dumped)
    EW_TRY(trace(settings, *world, setup, summary.last_step, console));
  if (reporter) console.finish(summary);  // also when the dump failed: the run itself is done
  EW_TRY(dumped);
  EW_TRY(world->close(Deadline::after(world->clock(), timeout)));
  return exit_code_of(summary);
}

}  // namespace elaswave::app
