// Checks that need more than one key. Each names the keys, where their values came from, and values
// that would do.
#include <fmt/format.h>

#include "app/fault_options.h"
#include "app/options.h"
#include "app/run_spec.h"

namespace elaswave::app {
namespace {

/// "train.lr (configs/a.toml:3)"
std::string key_and_origin(const Settings& settings, std::string_view key) {
  const std::int64_t row = find_option(key);
  EW_CHECK(row >= 0, "no option {}", key);
  return fmt::format("{} ({})", key, settings.origins[static_cast<std::size_t>(row)]);
}

std::string both(const Settings& settings, std::string_view a, std::string_view b) {
  return fmt::format("{}, {}", key_and_origin(settings, a), key_and_origin(settings, b));
}

Result<void> check_batch(const Settings& settings) {
  const std::int64_t micro = settings.config.train.micro_batch;
  const std::int64_t global = settings.config.train.global_batch;
  if (global % micro == 0) return {};
  const std::int64_t below = global / micro * micro;
  const std::string nearest =
      below > 0 ? fmt::format("{} or {}", below, below + micro) : fmt::format("{}", micro);
  std::int64_t divisor = micro;
  while (global % divisor != 0) --divisor;
  return fail(
      {.code = Code::usage,
       .what = "train.global_batch is not a multiple of train.micro_batch",
       .where = both(settings, "train.global_batch", "train.micro_batch"),
       .why = fmt::format("{} samples do not divide into micro-batches of {}", global, micro),
       .fix = fmt::format("use train.global_batch={}, or train.micro_batch={}", nearest, divisor)});
}

Result<void> check_learning_rate(const Settings& settings) {
  const Config::Train& train = settings.config.train;
  if (train.lr_schedule == "constant" || train.min_lr <= train.lr) return {};
  return fail({.code = Code::usage,
               .what = "train.min_lr is above train.lr",
               .where = both(settings, "train.min_lr", "train.lr"),
               .why = fmt::format("the decay would end at {}, above its start at {}", train.min_lr,
                                  train.lr),
               .fix = fmt::format("use train.min_lr={} or less", train.lr)});
}

Result<void> check_validation(const Settings& settings) {
  if (settings.config.train.val_every == 0 || !settings.config.data.val.empty()) return {};
  return fail({.code = Code::usage,
               .what = "train.val_every asks for validation but there is nothing to validate on",
               .where = both(settings, "train.val_every", "data.val"),
               .why = "data.val names no file",
               .fix = "give --data.val=FILE, or train.val_every=0"});
}

Result<void> check_checkpoints(const Settings& settings) {
  const Config& config = settings.config;
  if (config.checkpoint.every == 0 || !config.checkpoint.dir.empty() || !config.log.dir.empty())
    return {};
  return fail({.code = Code::usage,
               .what = "checkpoint.every asks for checkpoints but there is no place for them",
               .where = both(settings, "checkpoint.every", "log.dir"),
               .why = "neither log.dir nor checkpoint.dir is set",
               .fix = "give --log.dir=DIR, or checkpoint.every=0"});
}

/// Without checksums nobody would notice, and the weights would be wrong.
Result<void> check_faults(const Settings& settings) {
  EW_ASSIGN(const chaos::Faults faults, requested_faults(settings.config));
  for (const chaos::Fault& fault : faults.list)
    if (fault.kind == chaos::Kind::corrupt && fault.target == chaos::Target::message &&
        !settings.config.comm.checksum)
      return fail({.code = Code::usage,
                   .what = "a message is to be spoiled and nobody would notice",
                   .where = both(settings, "chaos.corrupt", "comm.checksum"),
                   .why = "without checksums the run would go on with what it got",
                   .fix = "add --comm.checksum=true"});
  return {};
}

}  // namespace

Result<void> cross_check(const Settings& settings) {
  EW_TRY(check_batch(settings));
  EW_TRY(check_learning_rate(settings));
  auto spec = resolve(settings.config);
  if (spec) return {};
  Error error = std::move(spec).error();
  if (find_option(error.where) >= 0) {
    const std::string key = error.where;
    error.where = key_and_origin(settings, key);
    if (key.starts_with("model.") && key != "model.preset")
      error.where = both(settings, key, "model.preset");
  }
  return fail(std::move(error));
}

Result<void> check_places(const Settings& settings) {
  EW_TRY(check_validation(settings));
  EW_TRY(check_faults(settings));
  return check_checkpoints(settings);
}

}  // namespace elaswave::app
