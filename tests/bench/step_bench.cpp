// Metric: tokens/s of whole training steps (forward, backward, reduction, commit, update) of one
// process, exact against fast numerics, alternating in one run; and flops of the step as a share of
// what the matrix library alone reaches on the same threads, measured in the same run. Usage:
// step_bench [PRESET] [CONTEXT] [MICRO_BATCH] [MICRO_BATCHES] [THREADS] [ROUNDS]
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "model/spec/flops.h"
#include "tests/support/training.h"

namespace elaswave {
namespace {

constexpr std::int64_t kStepsPerRound = 2;

class Timer final : public app::StepObserver {
 public:
  Result<void> on_step(const app::StepReport& report) override {
    seconds.push_back(static_cast<double>(report.duration) / static_cast<double>(kSecond));
    return {};
  }
  std::vector<double> seconds;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// GFLOP/s of independent single-threaded products, one a thread: the library's own speed without
/// any cutting.
double library_gflops(device::CpuStream& stream) {
  constexpr std::int64_t kM = 1024, kN = 768, kK = 3072, kRepeats = 8;
  const int threads = stream.pool().threads();
  std::vector<float> a(static_cast<std::size_t>(kM * kK), 1.0f),
      b(static_cast<std::size_t>(kK * kN), 1.0f);
  std::vector<std::vector<float>> c(static_cast<std::size_t>(threads),
                                    std::vector<float>(static_cast<std::size_t>(kM * kN)));
  const auto multiply = [&](std::int64_t task) {
    omp_set_num_threads(1);  // the library would open a team of its own in each thread
    dnnl_sgemm('N', 'N', kM, kN, kK, 1, a.data(), kK, b.data(), kN, 0,
               c[static_cast<std::size_t>(task)].data(), kN);
  };
  stream.pool().run(threads, multiply);
  RealClock clock;
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const Nanoseconds begin = clock.now();
    stream.pool().run(threads, multiply);
    const auto elapsed = static_cast<double>(clock.now() - begin);
    best = std::max(best, 2.0 * kM * kN * kK * threads / elapsed);
  }
  return best;
}

struct Side {
  const char* name;
  std::unique_ptr<app::Trainer> trainer;
  Timer timer;
};

int run(const std::vector<std::int64_t>& numbers, const std::string& preset) {
  test::TemporaryFolder folder;
  test::write_tokens(folder.file("train.bin"), 400'000, 50'000);
  app::Config config;
  config.model.preset = preset;
  config.model.context = numbers[0];
  config.train.micro_batch = numbers[1];
  config.train.global_batch = numbers[1] * numbers[2];
  config.train.steps = kStepsPerRound;

  const std::unique_ptr<comm::World> world = comm::make_solo_world({});
  const auto ops = kernels::make_cpu_ops(kernels::Isa::automatic).value();
  device::CpuStream stream(static_cast<int>(numbers[3]));
  const data::TokenSet tokens =
      data::TokenSet::open({folder.file("train.bin")}, data::TokenFormat::nanogpt).value();
  std::vector<Side> sides;
  app::RunSpec spec;
  for (const char* mode : {"exact", "fast"}) {
    config.numerics.mode = mode;
    spec = app::resolve(config).value();
    sides.push_back({mode,
                     app::Trainer::create(spec, {.world = *world,
                                                 .machine = kernels::host_machine(*ops, stream),
                                                 .train = tokens})
                         .value(),
                     {}});
  }
  const double gflops = library_gflops(stream);
  for (std::int64_t round = 0; round < numbers[4]; ++round)
    for (Side& side : sides) {
      if (const auto done = side.trainer->run(side.timer); !done) {
        std::fprintf(stderr, "%s\n", done.error().text().c_str());
        return 1;
      }
    }
  const auto tokens_per_step = static_cast<double>(spec.tokens_per_step());
  const double flops = spec::training_flops_per_token(spec.model) * tokens_per_step;
  double seconds[2];
  for (std::size_t i = 0; i < sides.size(); ++i) {
    seconds[i] = median(sides[i].timer.seconds);
    std::printf(
        "%-6s %8.1f ms a step, %7.1f tokens/s, %6.1f GFLOP/s, %4.1f %% of the library's %.1f\n",
        sides[i].name, seconds[i] * 1e3, tokens_per_step / seconds[i], flops / seconds[i] * 1e-9,
        100 * flops / seconds[i] * 1e-9 / gflops, gflops);
  }
  std::printf("exact / fast: %.4f (time; 1.02 is the goal)\n", seconds[0] / seconds[1]);
  return 0;
}

}  // namespace
}  // namespace elaswave

int main(int argc, char** argv) {
  std::vector<std::int64_t> numbers = {256, 4, 4, 2, 3};
  for (int i = 2; i < argc && i - 2 < 5; ++i)
    numbers[static_cast<std::size_t>(i - 2)] = std::atoll(argv[i]);
  return elaswave::run(numbers, argc > 1 ? argv[1] : "gpt2-124m");
}
