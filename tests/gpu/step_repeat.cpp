// Does a step give the same bits every time? Runs forward and backward of one micro-batch again and
// again, on memory taken anew at other places every few times, the second half beside a stream that
// copies and beside a second process, and counts the digests of losses and gradient sums: there
// must be one. Positive control: with --control one sum is made by atomics, and there must be more.
// The last line on stdout is the verdict; exit code 0: as it must be, 1: not, 2: usage.
//
// step_repeat [--device cpu|cuda] [--preset NAME] [--layers N] [--context N] [--vocab N]
//   [--dropout RATE] [--micro_batch N] [--storage f32|bf16] [--threads N] [--seed N]
//   [--repeats N] [--move N: new memory after so many] [--beside none|copies|process|both]
//   [--copy_kib N: copied at a time] [--control yes|no] [--begun FILE: made after the first repeat]
#include <fmt/format.h>

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <thread>

#include "app/process.h"
#include "io/base/clock.h"
#include "tests/gpu/repeat_device.h"

namespace elaswave::test {
namespace {

using Options = std::map<std::string, std::string>;

// Every option, with its default.
Options defaults() {
  return {{"device", "cpu"},  {"preset", "tiny"},    {"layers", "0"},      {"context", "0"},
          {"vocab", "0"},     {"dropout", "0"},      {"micro_batch", "2"}, {"storage", "f32"},
          {"threads", "1"},   {"seed", "1"},         {"repeats", "20"},    {"move", "5"},
          {"beside", "none"}, {"copy_kib", "32768"}, {"control", "no"},    {"begun", ""}};
}

std::optional<Options> parse(int argc, char** argv) {
  Options options = defaults();
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const auto found = options.find(name.substr(std::min<std::size_t>(2, name.size())));
    if (!name.starts_with("--") || found == options.end() || i + 1 == argc) return std::nullopt;
    found->second = argv[i + 1];
  }
  return options;
}

Result<RepeatedModel> model_of(const Options& options) {
  RepeatedModel model;
  EW_ASSIGN(model.config, spec::find_preset(options.at("preset")));
  const auto override_with = [&](const char* name, std::int64_t& value) {
    if (const std::int64_t given = std::stoll(options.at(name)); given > 0) value = given;
  };
  override_with("layers", model.config.layers);
  override_with("context", model.config.context);
  override_with("vocab", model.config.vocab);
  model.config.dropout = std::stof(options.at("dropout"));
  model.micro_batch = std::stoll(options.at("micro_batch"));
  model.storage = options.at("storage") == "bf16" ? DType::bf16 : DType::f32;
  if (options.at("device") == "cuda") model.loss_chunk_tokens = kernels::kCudaLossChunkTokens;
  model.seed = std::stoull(options.at("seed"));
  EW_TRY(spec::validate(model.config));
  return model;
}

/// Copies between device and host and within the device, on a stream of its own, while it lives.
class Copies {
 public:
  /// `bytes` at a time.
  Copies(std::unique_ptr<device::Stream> stream, std::int64_t bytes)
      : stream_(std::move(stream)), bytes_(bytes), thread_([this] { work(); }) {}
  ~Copies() {
    stop_ = true;
    thread_.join();
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

 private:
  void work() {
    device::Device& device = stream_->device();
    device::Buffer one(device, bytes_), other(device, bytes_),
        host(device, bytes_, device::Space::host);
    while (!stop_) {
      stream_->copy(other.data(), one.data(), bytes_);
      stream_->copy(host.data(), other.data(), bytes_);
      stream_->copy(one.data(), host.data(), bytes_);
      stream_->synchronize();
    }
  }

  std::unique_ptr<device::Stream> stream_;
  std::int64_t bytes_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;  // last: it uses the others
};

/// This program again, with other data and no end, while it lives.
class Second {
 public:
  static Result<std::unique_ptr<Second>> start(const Options& options) {
    EW_ASSIGN(const std::string program, app::own_program());
    std::unique_ptr<Second> second(new Second);
    Options other = options;
    other["seed"] = options.at("seed") + "7";
    other["repeats"] = "1000000000";
    other["beside"] = "none";
    other["control"] = "no";
    other["begun"] = second->begun_;
    app::ProcessWish wish{.arguments = {program}, .variables = {}, .output = app::Output::capture};
    for (const auto& [name, value] : other)
      wish.arguments.insert(wish.arguments.end(), {"--" + name, value});
    EW_ASSIGN(app::ChildProcess process, app::ChildProcess::start(wish));
    second->process_.emplace(std::move(process));
    return second;
  }
  ~Second() {
    std::error_code ignored;
    std::filesystem::remove(begun_, ignored);
  }
  Second(const Second&) = delete;
  Second& operator=(const Second&) = delete;

  bool ended() { return process_->poll().has_value(); }
  /// Is its first repeat behind it?
  bool begun() const { return std::filesystem::exists(begun_); }

 private:
  Second() = default;

  std::string begun_ =
      (std::filesystem::temp_directory_path() / fmt::format("step_repeat-{}.begun", getpid()))
          .string();
  std::optional<app::ChildProcess> process_;
};

struct Counted {
  std::set<std::uint64_t> digests, places;
  std::int64_t repeats = 0, beside = 0;
};

class Repeats {
 public:
  Repeats(const Options& options, RepeatDevice& device, const RepeatedModel& model)
      : options_(options),
        device_(device),
        control_(options.at("control") == "yes" ? device.unordered_sum() : nullptr),
        move_(std::stoll(options.at("move"))),
        step_(device.machine(), model) {}

  /// Half alone, then half beside what is wanted.
  Result<Counted> run(std::int64_t repeats) {
    EW_TRY(once());
    if (const std::string& begun = options_.at("begun"); !begun.empty()) std::ofstream{begun};
    for (std::int64_t i = 1; i < repeats - repeats / 2; ++i) EW_TRY(once());
    EW_TRY(beside(repeats / 2));
    return counted_;
  }
  const RepeatedStep& step() const { return step_; }

 private:
  Result<void> once() {
    if (move_ > 0 && counted_.repeats > 0 && counted_.repeats % move_ == 0)
      step_.move(static_cast<std::uint64_t>(counted_.repeats));
    EW_ASSIGN(const std::uint64_t digest, step_.run(control_ ? &control_ : nullptr));
    counted_.digests.insert(digest);
    counted_.places.insert(step_.place());
    ++counted_.repeats;
    return {};
  }
  // What passes until the second process is at work is repeated too, beyond `repeats`.
  Result<void> beside(std::int64_t repeats) {
    const std::string& wanted = options_.at("beside");
    std::optional<Copies> copies;
    if (wanted == "copies" || wanted == "both")
      copies.emplace(device_.another_stream(), std::stoll(options_.at("copy_kib")) << 10);
    std::unique_ptr<Second> second;
    if (wanted == "process" || wanted == "both") {
      EW_ASSIGN(second, Second::start(options_));
      while (!second->begun() && !second->ended()) EW_TRY(once());
    }
    for (std::int64_t i = 0; i < repeats; ++i) EW_TRY(once());
    if (second != nullptr && second->ended())
      return fail({Code::unrecoverable, "the second process has ended", "", "", ""});
    counted_.beside = wanted == "none" ? 0 : repeats;
    return {};
  }

  const Options& options_;
  RepeatDevice& device_;
  UnorderedSum control_;
  std::int64_t move_;
  RepeatedStep step_;
  Counted counted_;
};

Result<int> run(const Options& options) {
  EW_ASSIGN(const RepeatedModel model, model_of(options));
  const app::HostPart host{.threads = std::stoi(options.at("threads"))};
  EW_ASSIGN(const std::unique_ptr<RepeatDevice> device,
            options.at("device") == "cuda" ? make_repeat_cuda(host) : make_repeat_cpu(host));
  const kernels::Machine machine = device->machine();
  Repeats repeats(options, *device, model);
  const RealClock clock;
  const Nanoseconds begin = clock.now();
  EW_ASSIGN(const Counted counted, repeats.run(std::stoll(options.at("repeats"))));
  const std::size_t digests = counted.digests.size();
  const bool right = options.at("control") == "yes" ? digests > 1 : digests == 1;
  fmt::print(
      "{} device=\"{}\" class=\"{}\" repeats={} beside={} places={} digests={} digest={:016x} "
      "loss={:.6f} bytes={} ms={:.3f} control={}\n",
      right ? "right" : "WRONG", machine.stream.device().name(), machine.ops.numeric_class(),
      counted.repeats, counted.beside, counted.places.size(), digests, *counted.digests.begin(),
      repeats.step().loss(), repeats.step().bytes(),
      static_cast<double>(clock.now() - begin) * 1e-6 / static_cast<double>(counted.repeats),
      options.at("control"));
  return right ? 0 : 1;
}

}  // namespace
}  // namespace elaswave::test

int main(int argc, char** argv) {
  const auto options = elaswave::test::parse(argc, argv);
  if (!options) {
    std::fprintf(stderr, "usage: --name value ..., names and defaults:\n");
    for (const auto& [name, value] : elaswave::test::defaults())
      std::fprintf(stderr, "  --%s %s\n", name.c_str(), value.c_str());
    return 2;
  }
  try {
    const elaswave::Result<int> done = elaswave::test::run(*options);
    if (done) return *done;
    std::fprintf(stderr, "%s\n", done.error().text().c_str());
    return done.error().code == elaswave::Code::unavailable ? 77 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
