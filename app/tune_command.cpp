// `elaswave tune`: which algorithm of the matrix library is the fastest for each product of a run.
// Nothing is timed when a run starts; a table that is made once is read instead.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "app/backends.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/train_keys.h"
#include "io/base/log.h"

namespace elaswave::app {
namespace {

struct Words {
  std::string config, out;
  std::int64_t candidates = 32, rounds = 7;
  std::vector<std::string> keys;  // for parse_train()
};

Result<Parse> parse(Arguments arguments, Words& words) {
  const std::vector<std::string> own = take_train_keys(arguments, words.keys);
  CLI::App app(
      "Measures the matrix products of a run on a GPU and prints rows of the table that "
      "device.gemm_table reads. Takes all keys of train (--train.micro_batch=64). Can be stopped: "
      "with the same --out it goes on with what is not there.",
      "elaswave tune");
  app.add_option("CONFIG", words.config, "configuration file");
  app.add_option("--out", words.out, "file that rows are appended to; default: standard output");
  app.add_option("--candidates", words.candidates, "algorithms that the library is asked for")
      ->capture_default_str();
  app.add_option("--rounds", words.rounds, "timings of each, whose median counts")
      ->capture_default_str();
  EW_ASSIGN(const Parse parsed, parse_arguments(app, own, "elaswave tune"));
  if (!words.config.empty())
    words.keys.insert(words.keys.begin(), fmt::format("--config={}", words.config));
  return parsed;
}

Result<void> check(const Words& words) {
  const auto range = [](std::string_view name, std::int64_t value,
                        std::int64_t most) -> Result<void> {
    if (value >= 1 && value <= most) return {};
    return command_line_error(fmt::format("--{} is out of range", name),
                              fmt::format("it is {}; the range is 1 to {}", value, most),
                              "give a value in that range");
  };
  EW_TRY(range("candidates", words.candidates, 1000));
  EW_TRY(range("rounds", words.rounds, 1000));
  return {};
}

}  // namespace

Result<int> tune_command(Arguments arguments) {
  Words words;
  EW_ASSIGN(const Parse parsed, parse(arguments, words));
  if (parsed == Parse::helped) return 0;
  configure_log(LogLevel::warn, "tune");
  EW_TRY(check(words));
  // Nothing is read but the configuration: as for printing it, there need be no data.
  words.keys.emplace_back("--print-config");
  EW_ASSIGN(TrainCommand command, parse_train(words.keys, elaswave_environment()));
  Config& config = command.settings.config;
  config.device.kind = "cuda";  // no other has anything to tune
  EW_ASSIGN(const RunSpec spec, resolve(config));
  EW_ASSIGN(TuneFile file, TuneFile::open(words.out));
  EW_TRY(tune_products({.spec = spec,
                        .gpu = static_cast<int>(config.device.gpu),
                        .candidates = static_cast<int>(words.candidates),
                        .rounds = static_cast<int>(words.rounds)},
                       file));
  return 0;
}

}  // namespace elaswave::app
