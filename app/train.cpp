#include "app/train.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "app/console.h"
#include "app/exit_report.h"
#include "app/launch_rules.h"
#include "app/start.h"
#include "app/trainer.h"
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

/// Before any thread is made: all inherit it.
void block_stop_signals() {
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

Result<std::unique_ptr<comm::World>> make_world(const Config& config) {
  if (comm::started_by_mpi_launcher())
    return comm::make_mpi_world({.checksum = config.comm.checksum});
  return comm::make_solo_world({});
}

/// Cores of this host shared fairly among its ranks: oversubscribed compute threads only get in
/// each other's way.
int thread_count(const Config& config) {
  if (config.device.threads > 0) return static_cast<int>(config.device.threads);
  const char* local_size =
      std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");  // set by Open MPI's launchers
  const int ranks_here = std::max(1, local_size != nullptr ? std::atoi(local_size) : 1);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / ranks_here);
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
  std::unique_ptr<Trainer> trainer;
  StartIdentity identity;
  std::vector<std::pair<std::string, double>> timeline;  // phase, ms
};

Result<void> set_up(const Settings& settings, comm::World& world, LocalSetup& setup) {
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
  EW_ASSIGN(setup.trainer, Trainer::create(setup.spec, {.world = world,
                                                        .ops = *setup.ops,
                                                        .stream = *setup.stream,
                                                        .train = *setup.train,
                                                        .val = setup.val ? &*setup.val : nullptr,
                                                        .stop = stop_requested}));
  lap("weights");
  EW_ASSIGN(const std::uint64_t fingerprint,
            gpt::fingerprint(*setup.ops, *setup.stream, setup.spec.model, setup.spec.micro_batch,
                             setup.spec.storage));
  lap("fingerprint");
  setup.identity = {.numeric_class = setup.ops->numeric_class(),
                    .recipe = setup.spec.recipe_hash(),
                    .data = setup.train->fingerprint(),
                    .plan = layout::digest(setup.trainer->plan()),
                    .fingerprint = fingerprint};
  return {};
}

Console::Rows start_rows(const Settings& settings, const LocalSetup& setup,
                         const comm::World& world) {
  const RunSpec& spec = setup.spec;
  const spec::ModelConfig& model = spec.model;
  const MemoryUse memory = setup.trainer->memory();
  const auto bytes = [](std::int64_t count) { return bytes_text(static_cast<double>(count)); };
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
      {"layout", fmt::format("{} rank{}, data parallel; {} compute thread{} a rank", world.size(),
                             world.size() == 1 ? "" : "s", setup.stream->pool().threads(),
                             setup.stream->pool().threads() == 1 ? "" : "s")},
      {"work",
       fmt::format("{} flop a step", count_text(spec::training_flops_per_token(model) *
                                                static_cast<double>(spec.tokens_per_step())))},
      {"numerics", fmt::format("{}, class {}, fingerprint {:016x}", settings.config.numerics.mode,
                               setup.identity.numeric_class, setup.identity.fingerprint)},
      {"memory (rank 0)",
       fmt::format("{}: weights {}, gradient sums {}, optimizer and log {}, activations {}",
                   bytes(memory.total()), bytes(memory.working), bytes(memory.sums),
                   bytes(memory.optimizer), bytes(memory.activations))},
      {"steps", fmt::format("{}, seed {}", spec.steps, spec.seed)},
      {"launcher", launcher_note()},
      {"start", timeline},
  };
}

/// Writes metrics and console lines on the reporter; nothing elsewhere.
class Reporter final : public StepObserver {
 public:
  Reporter(Console& console, std::optional<metrics::MetricsLog> log)
      : console_(console), log_(std::move(log)) {}

  Result<void> on_step(const StepReport& report) override {
    const optim::CommitRecord& record = report.record;
    if (log_) {
      const double seconds = static_cast<double>(report.duration) / static_cast<double>(kSecond);
      const std::int64_t tokens = report.tokens / raw(record.version.step);
      EW_TRY(log_->write({.step = record.version.step,
                          .generation = record.version.generation,
                          .loss = record.loss,
                          .grad_norm = record.grad_norm,
                          .lr = record.lr,
                          .tokens = report.tokens,
                          .ms = seconds * 1e3,
                          .samples = report.samples,
                          .sample_hash = record.sample_hash,
                          .tokens_per_s = static_cast<double>(tokens) / seconds,
                          .update = record.skip ? metrics::MetricsLine::Update::skipped
                                                : metrics::MetricsLine::Update::applied,
                          .digest = report.digest,
                          .val_loss = report.val_loss}));
    }
    console_.step(report);
    return {};
  }

 private:
  Console& console_;
  std::optional<metrics::MetricsLog> log_;
};

class SilentObserver final : public StepObserver {
  Result<void> on_step(const StepReport&) override { return {}; }
};

Result<std::optional<metrics::MetricsLog>> open_log(const Settings& settings) {
  const std::string& directory = settings.config.log.dir;
  if (directory.empty()) return std::nullopt;
  EW_ASSIGN(metrics::MetricsLog log, metrics::MetricsLog::open(directory, Step{0}));
  if (log.dropped_lines() > 0)
    log_warn("{}: {} lines of an earlier run were dropped; this run starts at step 1", log.path(),
             log.dropped_lines());
  const std::string path = (std::filesystem::path(directory) / "config.toml").string();
  std::ofstream file(path);
  file << config_toml(settings);
  if (!file.flush())
    return fail({.code = Code::io,
                 .what = "cannot write the resolved configuration",
                 .where = path,
                 .why = "the system refused",
                 .fix = "check permissions and free space of log.dir"});
  return std::optional<metrics::MetricsLog>(std::move(log));
}

ConsoleMode console_mode(const Config& config) {
  if (config.log.console == "bar") return ConsoleMode::bar;
  if (config.log.console == "plain") return ConsoleMode::plain;
  return stdout_is_terminal() ? ConsoleMode::bar : ConsoleMode::plain;
}

}  // namespace

Result<int> run_train(const Settings& settings) {
  const Config& config = settings.config;
  block_stop_signals();
  EW_ASSIGN(const std::unique_ptr<comm::World> world, make_world(config));
  const bool reporter = world->world_rank() == 0;
  set_process_label(fmt::format("rank {}", world->world_rank()));
  const Nanoseconds timeout = config.comm.timeout_ms * kMillisecond;

  LocalSetup setup;
  std::optional<Error> failure;
  if (auto done = set_up(settings, *world, setup); !done) failure = std::move(done).error();
  std::optional<metrics::MetricsLog> log;
  if (!failure && reporter) {
    if (auto opened = open_log(settings); opened)
      log = std::move(*opened);
    else
      failure = std::move(opened).error();
  }
  EW_TRY(agree_start(*world, failure, setup.identity, timeout));

  Console console(console_mode(config), config.log.every, setup.spec);
  if (reporter) console.table(start_rows(settings, setup, *world));
  SilentObserver silent;
  Reporter reports(console, std::move(log));
  StepObserver& observer = reporter ? static_cast<StepObserver&>(reports) : silent;
  EW_ASSIGN(const RunSummary summary, setup.trainer->run(observer));
  if (!config.train.dump_state.empty()) EW_TRY(setup.trainer->dump_state(config.train.dump_state));
  if (reporter) console.finish(summary);
  EW_TRY(world->close(Deadline::after(world->clock(), timeout)));
  return summary.stopped ? exit_code(Code::stopped) : 0;
}

}  // namespace elaswave::app
