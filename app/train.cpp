#include "app/train.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "app/armed_faults.h"
#include "app/commands.h"
#include "app/exit_report.h"
#include "app/launch_rules.h"
#include "app/layout.h"
#include "app/local_setup.h"
#include "app/memory.h"
#include "app/rank_place.h"
#include "app/reporter.h"
#include "app/resume.h"
#include "app/run_directory.h"
#include "app/start.h"
#include "app/start_table.h"
#include "app/trace.h"
#include "elastic/member/membership.h"
#include "io/base/log.h"
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

Result<std::unique_ptr<comm::World>> make_world(const Config& config, const ArmedFaults& faults) {
  if (comm::started_by_mpi_launcher())
    return comm::make_mpi_world({.probe = faults.probe(),
                                 .checksum = config.comm.checksum,
                                 .flight_capacity = flight_capacity(config),
                                 .reachable = faults.reachable(),
                                 .spoils = faults.spoils_message()});
  return comm::make_solo_world(faults.probe(), flight_capacity(config));
}

/// COLLECTIVE. Where every rank lives, what it fails together with and may use of memory.
Result<std::vector<RankPlace>> find_places(const Config& config, comm::World& world,
                                           Nanoseconds timeout) {
  std::string pattern = config.elastic.domain;
  if (const char* variable = std::getenv("ELASWAVE_DOMAIN"); pattern.empty() && variable)
    pattern = variable;
  constexpr std::int64_t kMib = 1 << 20;
  EW_ASSIGN(RankPlace place,
            own_place(pattern, world.world_rank(), config.device.memory_mib * kMib));
  GpuMemory gpu = gpu_of_this_rank(config);
  place.gpu = std::move(gpu.name);
  place.gpu_bytes = gpu.bytes;
  place.own_gpu_bytes = config.device.gpu_memory_mib * kMib;
  return exchange_places(world, comm::everyone(world), place, timeout);
}

/// Ends a process that its agent found excluded or hanging and that does not leave by itself.
[[noreturn]] void leave_now(int code) noexcept {
  std::fflush(stdout);
  report_exit(code);
  std::_Exit(code);
}

/// Ends a process whose error is its own: peers miss it and go on.
[[noreturn]] void leave_alone(const Error& error) {
  std::fflush(stdout);
  print_error(error);
  report_exit_alone(exit_code(error.code));
  std::_Exit(exit_code(error.code));
}

/// Nothing must touch a device that has failed, not even to give its memory back.
template <typename T>
void leave_if_lost(const Result<T>& result) {
  if (result || result.error().code != Code::device_lost) return;
  std::fflush(stdout);
  print_error(result.error());
  leave_now(exit_code(Code::device_lost));
}

/// COLLECTIVE. The agent of this rank; none when the run is to end with the first rank that fails.
Result<std::unique_ptr<member::Membership>> join(const Config& config, comm::World& world,
                                                 const ArmedFaults& faults, LocalSetup& setup) {
  const Config::Elastic& elastic = config.elastic;
  if (!elastic.enabled || world.size() == 1) return std::unique_ptr<member::Membership>();
  EW_ASSIGN(std::unique_ptr<member::Membership> membership,
            member::Membership::start(
                world, {.heartbeat = elastic.heartbeat_ms * kMillisecond,
                        .silence = elastic.silence_ms * kMillisecond,
                        .patience = elastic.patience_ms * kMillisecond,
                        .claim_directory = config.log.dir.empty() ? "" : config.log.dir + "/views",
                        .run = setup.identity.recipe,
                        .hang = elastic.hang_ms * kMillisecond,
                        .leave_now = leave_now,
                        .reachable = faults.reachable()}));
  setup.trainer->follow(membership->board());
  return membership;
}

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
  const auto each = static_cast<double>(checkpoint_bytes(setup.trainer->inventory(), ranks));
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
  // Called again when training goes back to a checkpoint: it holds on to nothing of this frame.
  return setup.trainer->resume([&setup, reporter](const checkpoint::Manifest& manifest,
                                                  const std::string& path) -> Result<void> {
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
Result<void> trace(const Config& config, comm::World& world, const LocalSetup& setup, Step last,
                   Console& console) {
  const Step first{std::max<std::int64_t>(1, raw(last) - config.profile.steps + 1)};
  EW_ASSIGN(const TraceReport report,
            write_run_trace(world, comm::everyone(world), setup.trainer->plan(), first,
                            config.profile.trace, config.comm.timeout_ms * kMillisecond));
  if (world.world_rank() != world.live().front()) return {};
  if (report.failure)
    log_error("{}", report.failure->text());
  else if (report.first == Step{0})
    console.note("no step was run, so there is no trace of one");
  else
    console.note(fmt::format("trace of steps {} to {} in {}; communication: {}", raw(report.first),
                             raw(report.last), config.profile.trace, report.text));
  return {};
}

/// What is allocated should be what was planned; a person who tunes a layout relies on it.
void warn_of_memory(const LocalSetup& setup, int world_rank) {
  const layout::Plan& plan = setup.plan.plan;
  const spec::MemoryTable planned = memory_at(setup.spec, plan, world_rank);
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
  // As many queues as the hardware has, for streams that share none: a message that waits for a
  // peer must not hold up kernels of another stream, for which the peer may be waiting. Before
  // there are threads and a device, unless the user has set it.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  start_log(config);  // before there are threads
  // Declared before the world: when something fails, the world's communication thread must have
  // ended before the memory it may still read and write goes.
  LocalSetup setup;
  ArmedFaults faults(config);
  EW_ASSIGN(const std::unique_ptr<comm::World> transport, make_world(config, faults));
  comm::World* world = transport.get();
  const bool reporter = world->world_rank() == 0;
  set_process_label(fmt::format("rank {}", world->world_rank()));
  const Nanoseconds timeout = config.comm.timeout_ms * kMillisecond;

  EW_ASSIGN(const std::vector<RankPlace> places, find_places(config, *world, timeout));
  setup.domains = domain_numbers(places);
  setup.limits = rank_limits(places);
  std::optional<Error> failure = set_up(settings, *world, stop_requested, faults.of_rank(), setup);
  if (setup.staged) world = &*setup.staged;
  const Result<void> ready = agree_start(*world, failure, setup.identity, timeout);
  leave_if_lost(ready);
  EW_TRY(ready);
  std::vector<FileLock> locks;
  if (reporter) {
    auto locked = lock_directories(config);
    if (locked)
      locks = *std::move(locked);
    else
      failure = std::move(locked).error();
  }
  EW_TRY(agree_start(*world, failure, setup.identity, timeout));
  // Files only once it is clear that there will be a run.
  auto found = resume(settings, *world, setup, timeout);
  leave_if_lost(found);
  EW_ASSIGN(const std::optional<Restored> restored, std::move(found));
  const Step resumed = restored ? restored->manifest.step : Step{0};
  RunFiles files = RunFiles::follow(config);
  if (reporter) {
    auto opened = RunFiles::open(settings, resumed, std::move(locks));
    if (opened)
      files = *std::move(opened);
    else
      failure = std::move(opened).error();
  }
  EW_TRY(agree_start(*world, failure, setup.identity, timeout));

  EW_ASSIGN(const std::unique_ptr<member::Membership> membership,
            join(config, *world, faults, setup));
  const std::string& domain = places[static_cast<std::size_t>(world->world_rank())].domain;
  EW_TRY(faults.arm({world->world_rank(), world->size(), domain}, resumed));
  Console console(console_mode(config), config.log.every, setup.spec);
  if (reporter) console.table(start_rows(settings, setup, restored));
  warn_of_memory(setup, world->world_rank());
  Reporter reports(
      {.console = console,
       .files = std::move(files),
       .clock = world->clock(),
       .world_rank = world->world_rank(),
       .members = comm::everyone(*world).world_ranks,
       .tokens_per_step = setup.spec.tokens_per_step(),
       .first_step =
           [&](double bubble) { return first_step_text(setup, world->world_rank(), bubble); },
       .stepped =
           [&] {
             if (membership) membership->judge(member::Judged::yes);
           }});
  reports.started(places, resumed);
  bool ending = false;  // all is trained: what fails from now on is the run's, whoever notices
  const auto last = [&](const RunSummary& summary) -> Result<void> {
    ending = true;
    if (membership) membership->judge(member::Judged::no);  // files of any size are written now
    Result<void> dumped;
    if (!config.train.dump_state.empty())
      dumped = setup.trainer->dump_state(config.train.dump_state);
    if (!config.profile.trace.empty() && dumped)
      EW_TRY(trace(config, *world, setup, summary.last_step, console));
    reports.finished(summary);  // also when the dump failed: the run itself is done
    return dumped;
  };
  const auto summary = setup.trainer->run(reports, {.last = last, .close_world = true});
  const Generation newest =
      membership ? membership->board().newest().view.generation : world->generation();
  // Goodbye only from those who all leave: whoever is alone with an error, or with a view that
  // others enter at this moment, must be missed. A wait that ran out of time is everybody's.
  const bool together =
      summary || setup.trainer->ended_together() || summary.error().code == Code::deadline;
  if (membership && together && newest == world->generation()) membership->leave();
  if (!summary && membership && !together && !ending) leave_alone(summary.error());
  leave_if_lost(summary);
  if (!summary) return fail(summary.error());
  // After a failure the transport was not finalized: nothing may run destructors beside it.
  const bool fenced = membership && membership->board().fenced();
  if (newest != Generation{} || fenced) leave_now(exit_code_of(*summary));
  return exit_code_of(*summary);
}

}  // namespace elaswave::app
