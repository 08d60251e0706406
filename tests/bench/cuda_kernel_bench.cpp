// Metric: the time of each CUDA kernel of a training step at the shapes of GPT-2 124M (65,536
// tokens) and 1.5B (16,384 tokens) in bf16, by the device's clock, median of 5 rounds with the
// cache cleared; beside it the bytes and FLOPs that the operation takes at least (kernel_costs.h)
// over that time, as shares of what a copy and an 8192^3 product of the library reach in the same
// run (ceilings.h). Shapes are those of a micro-batch that runs through the layers; times of a step
// are times x calls of one micro-batch and one update.
//
// Usage: cuda_kernel_bench [--stage NAME] [--only TEXT] [--rounds N] [--json] [--small] [--list]
//   --only: operations whose name or shape contains the text; --small: tiny models, to see it run.
#include "tests/bench/cuda_kernel_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "model/gpt/trial_run.h"
#include "model/kernels/cuda_ops.h"
#include "parallel/comm/simulation.h"
#include "parallel/comm/staged_world.h"
#include "parallel/device/cuda_arithmetic.h"
#include "tests/bench/measured_ops.h"
#include "tests/bench/measured_update.h"

namespace elaswave::bench {
namespace {

struct StageSpec {
  std::string_view name, preset;
  std::int64_t samples = 0;
  zero::SumMode sums = zero::SumMode::exact;
  float dropout = 0;
  int slices = 1;  // tensor degree; the first slice is measured
  DType storage = DType::bf16;
  std::string_view what;
  /// Everything that a rank does in a step.
  bool whole() const { return sums == zero::SumMode::exact && dropout == 0 && slices == 1; }
};
constexpr std::array kStages = {
    StageSpec{"124m", "gpt2-124m", 64, zero::SumMode::exact, 0, 1, DType::bf16, "a whole step"},
    StageSpec{"124m-fast", "gpt2-124m", 64, zero::SumMode::fast, 0, 1, DType::bf16,
              "f32 sums of gradients"},
    StageSpec{"1.5b", "gpt2-1.5b", 16, zero::SumMode::exact, 0, 1, DType::bf16, "a whole step"},
    StageSpec{"1.5b-fast", "gpt2-1.5b", 16, zero::SumMode::fast, 0, 1, DType::bf16,
              "f32 sums of gradients"},
    StageSpec{"124m-dropout", "gpt2-124m", 64, zero::SumMode::exact, 0.1f, 1, DType::bf16,
              "operations that drop"},
    StageSpec{"124m-slices", "gpt2-124m", 64, zero::SumMode::exact, 0, 2, DType::bf16,
              "one of two slices"},
};

struct Options {
  std::string stage, only;
  int rounds = 5;
  bool json = false, small = false, list = false;
};

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--json" || word == "--small" || word == "--list") {
      (word == "--json" ? options.json : word == "--small" ? options.small : options.list) = true;
      continue;
    }
    if (value.empty()) return std::nullopt;
    ++i;
    if (word == "--stage")
      options.stage = value;
    else if (word == "--only")
      options.only = value;
    else if (word != "--rounds" ||
             std::from_chars(value.data(), value.data() + value.size(), options.rounds).ec !=
                 std::errc() ||
             options.rounds < 1)
      return std::nullopt;
  }
  const bool known = options.stage.empty() || std::ranges::any_of(kStages, [&](const auto& stage) {
                       return stage.name == options.stage;
                     });
  return known ? std::optional(options) : std::nullopt;
}

/// One measurement as part of a step.
struct Row {
  Measurement measured;
  std::int64_t calls = 0;  // in a step of all layers
  double total() const { return measured.seconds * static_cast<double>(calls); }
};

class Bench {
 public:
  Bench(device::CudaStream& stream, Options options, std::shared_ptr<kernels::cuda::Gemm> gemm,
        kernels::Ops& ops, kernels::Ops* plain_attention)
      : options_(std::move(options)),
        stream_(stream),
        scratch_(stream_),
        gemm_(std::move(gemm)),
        ops_(ops),
        plain_attention_(plain_attention),
        arithmetic_(device::make_cuda_arithmetic(stream_)),
        timer_(stream_, options_.small ? 1 << 16 : 256 << 20) {}

  void ceilings();
  Result<void> stage(const StageSpec& spec);

 private:
  Result<std::vector<Row>> rows_of(const StageSpec& spec);
  Result<void> micro_batch(MeasuredOps& ops, const StageSpec& spec, std::int64_t layers);
  Result<void> slice(kernels::Ops& ops, const StageSpec& spec, std::int64_t layers,
                     comm::World* world);
  spec::ModelConfig config_of(const StageSpec& spec) const;
  void print(const Measurement& one) const;
  void print_json(std::string_view stage, const Row& row, double step) const;
  void summarise(const StageSpec& spec, std::vector<Row> rows);
  void compare_sums(const StageSpec& spec, const std::vector<Row>& rows);
  std::string figures(const Measurement& one) const;

  Options options_;
  device::CudaStream& stream_;
  device::CpuStream host_stream_{1};
  kernels::cuda::Scratch scratch_;
  std::shared_ptr<kernels::cuda::Gemm> gemm_;
  kernels::Ops& ops_;
  kernels::Ops* plain_attention_;
  std::unique_ptr<device::Arithmetic> arithmetic_;
  ColdTimer timer_;
  Ceilings ceilings_;
  std::vector<Row> exact_;  // of the last stage of a whole step
};

constexpr std::string_view kHead =
    "operation                          shape                                          ms"
    "       MB     GB/s   of copy  TFLOP/s   of product";

void Bench::ceilings() {
  CeilingSizes sizes{.rounds = options_.rounds};
  if (options_.small) sizes = {.copy_bytes = 1 << 16, .product = 64, .rounds = 1};
  ceilings_ = measure_ceilings({stream_, scratch_}, *gemm_, sizes);
  fmt::print(fmt::runtime(
                 options_.json
                     ? "{{\"copy_gb_s\": {:.1f}, \"product_tflop_s\": {:.2f}, \"device\": \"{}\", "
                       "\"backend\": \"{}\"}}\n"
                     : "ceilings: copy {:.1f} GB/s, product {:.2f} TFLOP/s on {}; {}\n"),
             1e-9 * ceilings_.bytes_per_second, 1e-12 * ceilings_.flops_per_second,
             stream_.device().name(), ops_.numeric_class());
  std::fflush(stdout);
}

std::string Bench::figures(const Measurement& one) const {
  const double bytes = one.cost.bytes / one.seconds, flops = one.cost.flops / one.seconds;
  std::string text =
      fmt::format("{:<34} {:<38} {:>9.3f} {:>8.1f} {:>8.1f} {:>8.0f}%", one.operation,
                  one.cost.shape, 1e3 * one.seconds, 1e-6 * one.cost.bytes, 1e-9 * bytes,
                  100 * bytes / ceilings_.bytes_per_second);
  if (one.cost.flops > 0)
    text += fmt::format(" {:>8.1f} {:>11.0f}%", 1e-12 * flops,
                        100 * flops / ceilings_.flops_per_second);
  return text;
}

void Bench::print(const Measurement& one) const {
  fmt::print(options_.json ? stderr : stdout, "{}\n", figures(one));
  std::fflush(stdout);
}

void Bench::print_json(std::string_view stage, const Row& row, double step) const {
  const Measurement& one = row.measured;
  fmt::print(
      "{{\"stage\": \"{}\", \"operation\": \"{}\", \"shape\": \"{}\", \"calls\": {}, \"ms\": "
      "{:.5f}, \"bytes\": {:.0f}, \"flops\": {:.0f}, \"copy_share\": {:.4f}, \"product_share\": "
      "{:.4f}, \"step_share\": {:.4f}}}\n",
      stage, one.operation, one.cost.shape, row.calls, 1e3 * one.seconds, one.cost.bytes,
      one.cost.flops, one.cost.bytes / one.seconds / ceilings_.bytes_per_second,
      one.cost.flops / one.seconds / ceilings_.flops_per_second, row.total() / step);
}

spec::ModelConfig Bench::config_of(const StageSpec& spec) const {
  spec::ModelConfig config = spec::find_preset(spec.preset).value();
  if (options_.small)
    config = {.layers = config.layers, .heads = 2, .hidden = 64, .context = 16, .vocab = 101};
  config.dropout = spec.dropout;
  return config;
}

Result<void> Bench::micro_batch(MeasuredOps& ops, const StageSpec& spec, std::int64_t layers) {
  if (spec.slices == 1) return slice(ops, spec, layers, nullptr);
  // All on one stream: while one slice is measured nothing of another runs.
  std::optional<Error> failure;
  // As much stack as a process has: libraries of a GPU expect no less.
  EW_TRY(comm::simulate(
      {.ranks = spec.slices, .stack_bytes = 8 << 20, .probe = {}}, [&](comm::World& world) {
        kernels::Ops& own = world.world_rank() == 0 ? static_cast<kernels::Ops&>(ops) : ops_;
        if (auto ran = slice(own, spec, layers, &world); !ran) failure = std::move(ran).error();
      }));
  if (failure) return fail(std::move(*failure));
  return {};
}

Result<void> Bench::slice(kernels::Ops& ops, const StageSpec& spec, std::int64_t layers,
                          comm::World* world) {
  spec::ModelConfig config = config_of(spec);
  config.layers = layers;
  std::optional<comm::StagedWorld> staged;
  std::optional<comm::SliceGroup> slices;
  if (world != nullptr) {
    staged.emplace(*world, stream_);
    std::vector<int> ranks;
    for (int rank = 0; rank < spec.slices; ++rank) ranks.push_back(rank);
    slices.emplace(*staged, std::move(ranks), 600 * kSecond, *arithmetic_);
  }
  gpt::TrialRun trial({ops, stream_, *arithmetic_, ops, host_stream_},
                      {.config = config,
                       .micro_batch = options_.small ? 2 : spec.samples,
                       .storage = spec.storage,
                       .loss_chunk_tokens = kernels::kCudaLossChunkTokens,
                       .sum_mode = spec.sums,
                       .slices = slices ? &*slices : nullptr});
  return trial.run();
}

/// Blocks are alike: what a second one adds, every further one does.
Result<std::vector<Row>> Bench::rows_of(const StageSpec& spec) {
  MeasuredOps ops({.ops = ops_,
                   .plain_attention = spec.whole() ? plain_attention_ : nullptr,
                   .timer = timer_,
                   .rounds = options_.rounds,
                   .filter = {.part = options_.only,
                              .other_part = spec.dropout > 0 ? "dropout" : "",
                              .sinks_alone = spec.sums == zero::SumMode::fast},
                   .listener = [this](const Measurement& one) { print(one); }});
  const spec::ModelConfig config = config_of(spec);
  EW_TRY(micro_batch(ops, spec, 1));
  const std::vector<Measurement> one_block = ops.measurements();
  EW_TRY(micro_batch(ops, spec, 2));
  std::vector<Row> rows;
  for (std::size_t i = 0; i < ops.measurements().size(); ++i) {
    const Measurement& both = ops.measurements()[i];
    const std::int64_t once = i < one_block.size() ? one_block[i].calls : 0;
    const std::int64_t more = both.calls - 2 * once;  // of a block behind the first
    rows.push_back({both, once + (config.layers - 1) * more});
  }
  if (!spec.whole()) return rows;
  measure_update(ops, stream_, *arithmetic_, spec::Inventory(config, spec.storage));
  for (std::size_t i = rows.size(); i < ops.measurements().size(); ++i) {
    const Measurement& one = ops.measurements()[i];
    rows.push_back({one, in_every_step(one) ? 1 : 0});
  }
  return rows;
}

Result<void> Bench::stage(const StageSpec& spec) {
  if (!options_.json) {
    fmt::print("\n{}: {}, {} samples, {}\n{}\n", spec.name, spec.preset,
               options_.small ? 2 : spec.samples, spec.what, kHead);
    std::fflush(stdout);
  }
  EW_ASSIGN(std::vector<Row> rows, rows_of(spec));
  if (spec.sums == zero::SumMode::fast) compare_sums(spec, rows);
  summarise(spec, rows);
  if (spec.whole()) exact_ = std::move(rows);
  return {};
}

void Bench::summarise(const StageSpec& spec, std::vector<Row> rows) {
  double step = 1e-9;  // not 0: shares are of it
  for (const Row& row : rows) step += row.total();
  std::ranges::stable_sort(rows, std::greater(), &Row::total);
  if (options_.json) {
    for (const Row& row : rows) print_json(spec.name, row, step);
    std::fflush(stdout);
    return;
  }
  const spec::ModelConfig config = config_of(spec);
  const auto tokens = static_cast<double>((options_.small ? 2 : spec.samples) * config.context);
  fmt::print(
      "\n{}: {} layers, kernels of a step {:.2f} ms, {:.0f} tokens/s if nothing else took "
      "time\n  share  calls  ms in all\n",
      spec.name, config.layers, 1e3 * step, tokens / step);
  for (const Row& row : rows)
    fmt::print("{:>6.1f}% {:>6} {:>10.3f}  {}\n", 100 * row.total() / step, row.calls,
               1e3 * row.total(), figures(row.measured));
  std::fflush(stdout);
}

/// Exact numerics cost what operations with sums take longer than with f32 ones.
void Bench::compare_sums(const StageSpec& spec, const std::vector<Row>& rows) {
  double exact = 0, fast = 0, step = 0;
  for (const Row& row : exact_) step += row.total();
  for (const Row& row : rows)
    for (const Row& other : exact_)
      if (other.measured.operation == row.measured.operation &&
          other.measured.cost.shape == row.measured.cost.shape) {
        exact += other.total();
        fast += row.total();
      }
  if (fast == 0) return;  // the stage with exact sums did not run
  fmt::print(
      fmt::runtime(options_.json
                       ? "{{\"stage\": \"{}\", \"exact_ms\": {:.4f}, \"fast_ms\": {:.4f}, "
                         "\"cost_share_of_step\": {:.4f}}}\n"
                       : "\n{}: operations with sums take {:.3f} ms of a step with exact sums, "
                         "{:.3f} ms with f32 ones: {:.4f} of the step's kernels\n"),
      spec.name, 1e3 * exact, 1e3 * fast, (exact - fast) / step);
}

Result<void> run(const Options& options, MakeAttention attention) {
  EW_ASSIGN(const std::unique_ptr<device::CudaDevice> device, device::make_cuda_device(0));
  EW_ASSIGN(const std::shared_ptr<kernels::cuda::Gemm> gemm, kernels::cuda::Gemm::create(*device));
  kernels::CudaOpsOptions fused, plain;
  fused.gemm = plain.gemm = gemm;
  if (attention != nullptr) {
    EW_ASSIGN(fused.attention, attention(*device));
  }
  device::CudaStream stream(*device);  // outlives the operations, whose scratch is its own
  EW_ASSIGN(const auto ops, kernels::make_cuda_ops(*device, std::move(fused)));
  EW_ASSIGN(const auto plain_ops, kernels::make_cuda_ops(*device, std::move(plain)));
  Bench bench(stream, options, gemm, *ops, attention == nullptr ? nullptr : plain_ops.get());
  bench.ceilings();
  for (const StageSpec& spec : kStages)
    if (options.stage.empty() || options.stage == spec.name) EW_TRY(bench.stage(spec));
  return {};
}

}  // namespace

int cuda_kernel_bench(int argc, char** argv, MakeAttention attention) {
  const std::optional<Options> options = parse(argc, argv);
  if (!options || options->list) {
    for (const StageSpec& spec : kStages)
      fmt::print("{:<14} {}, {} samples, {}\n", spec.name, spec.preset, spec.samples, spec.what);
    if (!options)
      fmt::print(stderr,
                 "usage: cuda_kernel_bench [--stage NAME] [--only TEXT] [--rounds N] [--json] "
                 "[--small] [--list]\n");
    return options ? 0 : 2;
  }
  try {
    const Result<void> ran = run(*options, attention);
    if (ran) return 0;
    fmt::print(stderr, "{}\n", ran.error().text());
  } catch (const std::exception& problem) {
    fmt::print(stderr, "{}\n", problem.what());
  }
  return 1;
}

}  // namespace elaswave::bench
