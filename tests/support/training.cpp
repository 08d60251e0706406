#include "tests/support/training.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "app/layout.h"
#include "app/memory.h"
#include "app/start.h"
#include "parallel/comm/staged_world.h"

namespace elaswave::test {
namespace {

class Recorder final : public app::StepObserver {
 public:
  explicit Recorder(std::vector<app::StepReport>& steps) : steps_(steps) {}
  Result<void> on_step(const app::StepReport& report) override {
    steps_.push_back(report);
    return {};
  }

 private:
  std::vector<app::StepReport>& steps_;
};

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "elaswave-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_tokens(const std::string& path, std::int64_t count, std::int64_t vocab) {
  std::ofstream file(path, std::ios::binary);
  const RandomStream stream = random_stream(5, RandomUse::test);
  std::int64_t token = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    // Mostly a fixed successor, sometimes noise: learnable, but not at once.
    const std::uint32_t word = random_word(stream, static_cast<std::uint64_t>(i));
    token = word % 8 == 0 ? static_cast<std::int64_t>(word >> 3) % vocab : (token * 5 + 3) % vocab;
    const auto id = static_cast<std::uint16_t>(token);
    file.write(reinterpret_cast<const char*>(&id), sizeof id);
  }
}

void set_token(const std::string& path, std::int64_t index, std::uint16_t token) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(index * static_cast<std::int64_t>(sizeof token));
  file.write(reinterpret_cast<const char*>(&token), sizeof token);
}

app::Config tiny_config(const std::string& train_file) {
  app::Config config;
  config.model = {.preset = "tiny",
                  .layers = 2,
                  .heads = 2,
                  .hidden = 16,
                  .context = 7,
                  .vocab = 37,
                  .dropout = 0.1};
  config.data.train = {train_file};
  config.train.seed = 7;
  config.train.steps = 6;
  config.train.micro_batch = 2;
  config.train.global_batch = 10;
  config.train.lr = 1e-2;
  config.train.warmup_steps = 2;
  config.train.clip = 0.5;
  config.log.digest_every = 1;
  return config;
}

app::CheckpointSetup checkpoint_setup(const app::Config& config, FileSystem& files,
                                      checkpoint::Beside beside) {
  return {.files = files,
          .directory = kCheckpoints,
          .every = config.checkpoint.every,
          .last = config.checkpoint.last,
          .verify = config.checkpoint.verify,
          .retention = {.keep = config.checkpoint.keep, .keep_every = config.checkpoint.keep_every},
          .beside = beside,
          .session = 1,
          .run = "test",
          .writer = "test",
          .config = {{"train.seed", "7"}},
          .facts = {{"tokenizer", ""}}};
}

namespace {

Result<RankRun> train_on_device(const app::Config& config, const RankOptions& options,
                                comm::World& bare_world) {
  EW_ASSIGN(app::RunSpec spec, app::resolve(config));
  spec.elastic.domains = options.domains;
  spec.elastic.limits = options.limits;
  spec.elastic.fill_elems = options.fill_elems;
  if (options.loss_chunk_tokens > 0) spec.loss_chunk_tokens = options.loss_chunk_tokens;
  EW_ASSIGN(const std::unique_ptr<app::RankDevice> device,
            options.make_device({.isa = options.isa, .threads = options.threads}));
  const kernels::Machine machine = device->machine();
  std::optional<comm::StagedWorld> staged;
  if (!machine.stream.device().host_reads()) staged.emplace(bare_world, machine.stream);
  comm::World& world = staged ? *staged : bare_world;
  const std::unique_ptr<comm::DeviceLanes> lanes =
      options.make_lanes ? options.make_lanes(bare_world, world, machine) : nullptr;
  EW_ASSIGN(const data::TokenSet tokens,
            data::TokenSet::open(config.data.train, data::TokenFormat::nanogpt));
  std::optional<data::TokenSet> val;
  if (!config.data.val.empty()) {
    EW_ASSIGN(val, data::TokenSet::open(config.data.val, data::TokenFormat::nanogpt));
  }
  std::optional<app::CheckpointSetup> checkpoint;
  if (options.files != nullptr)
    checkpoint.emplace(checkpoint_setup(config, *options.files, options.beside));
  EW_ASSIGN(const auto trainer,
            app::Trainer::create(spec, {.world = world,
                                        .machine = machine,
                                        .train = tokens,
                                        .val = val ? &*val : nullptr,
                                        .stop = options.stop,
                                        .checkpoint = checkpoint ? &*checkpoint : nullptr,
                                        .plan = options.plan,
                                        .board = options.board,
                                        .faults = options.faults,
                                        .lanes = lanes.get()}));
  std::optional<Error> failure;
  if (checkpoint && world.world_rank() == 0)
    if (auto prepared = app::prepare_checkpoints(*options.files, kCheckpoints, app::Start::resume,
                                                 checkpoint->session);
        !prepared)
      failure = prepared.error();
  EW_TRY(app::agree_start(world, failure,
                          {.numeric_class = machine.ops.numeric_class(),
                           .recipe = spec.recipe_hash(),
                           .plan = layout::digest(trainer->plan())},
                          spec.timeout));
  EW_ASSIGN(const auto restored,
            trainer->resume([](const auto&, const auto&) -> Result<void> { return {}; }));
  RankRun run;
  if (restored) run.resumed = restored->manifest.step;
  Recorder recorder(run.steps);
  EW_ASSIGN(run.summary, trainer->run(options.observer != nullptr ? *options.observer : recorder,
                                      {.close_world = options.close}));
  return run;
}

}  // namespace

// As app/local_setup.h has it; the run itself tells of a device that is lost later.
Result<RankRun> train_rank(const app::Config& config, const RankOptions& options,
                           comm::World& world) {
  try {
    return train_on_device(config, options, world);
  } catch (const device::DeviceLost& lost) {
    Error error = app::device_lost(lost);
    error.where = "at start";
    return fail(std::move(error));
  } catch (const device::OutOfMemory& full) {
    EW_ASSIGN(const app::RunSpec spec, app::resolve(config));
    EW_ASSIGN(const auto plan, app::healthy_plan(spec, world.size(), world.generation()));
    return fail(app::memory_refused(spec, plan.plan, world.world_rank(), full.what()));
  }
}

SimulatedRun train_simulated(const app::Config& config, const SimulatedWorld& options) {
  SimulatedRun run;
  run.errors.resize(static_cast<std::size_t>(options.ranks));
  const auto report = comm::simulate(
      {.ranks = options.ranks, .seed = options.seed, .probe = options.probe},
      [&](comm::World& world) {
        FileSystem* const files = world.world_rank() > 0 && options.other_files != nullptr
                                      ? options.other_files
                                      : options.files;
        const auto rank = static_cast<std::size_t>(world.world_rank());
        auto done =
            train_rank(config,
                       {.threads = options.threads,
                        .make_device = options.make_device,
                        .loss_chunk_tokens = options.loss_chunk_tokens,
                        .files = files,
                        .plan = options.plan,
                        .stop = world.world_rank() == options.stop_rank ? options.stop : nullptr,
                        .make_lanes = options.make_lanes},
                       world);
        if (!done) run.errors[rank] = done.error();
        if (rank != 0 || !done) return;
        run.steps = std::move(done->steps);
        run.summary = std::move(done->summary);
        run.resumed = done->resumed;
      });
  if (!report) throw std::runtime_error(report.error().text());
  run.report = *report;
  return run;
}

}  // namespace elaswave::test
