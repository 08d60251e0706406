// The table itself.
#include "app/options.h"

namespace elaswave::app {
namespace {

/// The accessor of one field of one section, as a plain function pointer.
template <auto Section, auto Member>
Field field(Config& config) {
  return &((config.*Section).*Member);
}

constexpr Range at_least(double low) {
  return {.low = low};
}
constexpr Range between(double low, double high) {
  return {.low = low, .high = high};
}
constexpr Range below(double low, double high) {
  return {.low = low, .high = high, .end = Range::High::excluded};
}
constexpr Range above(double low) {
  return {.low = low, .begin = Range::Low::excluded};
}
// Any integer that all formats carry exactly (TOML files and JSON readers hold numbers as doubles).
constexpr Range seeds() {
  return between(0, 9007199254740992.0);
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const spec::Preset& preset : spec::presets()) names.emplace_back(preset.name);
  return names;
}

void add_model(std::vector<Option>& table) {
  using M = Config::Model;
  constexpr auto kModel = &Config::model;
  const auto refuse = ResumeClass::refuse;
  table.push_back({"model.preset",
                   field<kModel, &M::preset>,
                   "",
                   {},
                   preset_names(),
                   refuse,
                   "shape to start from; the keys below change single sizes"});
  table.push_back({"model.layers",
                   field<kModel, &M::layers>,
                   "",
                   between(0, 10'000),
                   {},
                   refuse,
                   "transformer blocks; 0: as the preset"});
  table.push_back({"model.heads",
                   field<kModel, &M::heads>,
                   "",
                   between(0, 10'000),
                   {},
                   refuse,
                   "attention heads, a divisor of hidden; 0: as the preset"});
  table.push_back({"model.hidden",
                   field<kModel, &M::hidden>,
                   "",
                   between(0, 1'000'000),
                   {},
                   refuse,
                   "width of the residual stream; 0: as the preset"});
  table.push_back({"model.context",
                   field<kModel, &M::context>,
                   "tokens",
                   between(0, 10'000'000),
                   {},
                   refuse,
                   "length of a sample; 0: as the preset"});
  table.push_back({"model.vocab",
                   field<kModel, &M::vocab>,
                   "tokens",
                   between(0, 2'000'000'000),
                   {},
                   refuse,
                   "vocabulary; 0: as the preset"});
  table.push_back({"model.dropout",
                   field<kModel, &M::dropout>,
                   "",
                   below(-1, 1),
                   {},
                   refuse,
                   "rate, after embedding, attention and residual branches; -1: as the preset"});
}

void add_data(std::vector<Option>& table) {
  using D = Config::Data;
  constexpr auto kData = &Config::data;
  table.push_back({"data.train",
                   field<kData, &D::train>,
                   "",
                   {},
                   {},
                   ResumeClass::refuse,
                   "token files to train on, read as one; give the key once for each file"});
  table.push_back({"data.val",
                   field<kData, &D::val>,
                   "",
                   {},
                   {},
                   ResumeClass::warn,
                   "token files to validate on"});
  table.push_back({"data.format",
                   field<kData, &D::format>,
                   "",
                   {},
                   {"auto", "elaswave", "nanogpt", "llmc", "megatron"},
                   ResumeClass::refuse,
                   "layout of the token files; auto: look at them"});
  table.push_back({"data.dtype",
                   field<kData, &D::dtype>,
                   "",
                   {},
                   {"auto", "u8", "u16", "i32"},
                   ResumeClass::refuse,
                   "token type of files that do not say (nanogpt)"});
}

void add_batch(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  table.push_back({"train.seed",
                   field<kTrain, &T::seed>,
                   "",
                   seeds(),
                   {},
                   ResumeClass::refuse,
                   "of initial weights, sample order and dropout"});
  table.push_back({"train.steps",
                   field<kTrain, &T::steps>,
                   "steps",
                   at_least(1),
                   {},
                   ResumeClass::free,
                   "when to stop, nothing else (but see decay_steps)"});
  table.push_back({"train.stop_at",
                   field<kTrain, &T::stop_at>,
                   "steps",
                   at_least(0),
                   {},
                   ResumeClass::free,
                   "stop after this step as if asked to, exit code 75; 0: never"});
  table.push_back({"train.micro_batch",
                   field<kTrain, &T::micro_batch>,
                   "samples",
                   between(1, 1'000'000),
                   {},
                   ResumeClass::warn,
                   "what the kernels see at once"});
  table.push_back({"train.global_batch",
                   field<kTrain, &T::global_batch>,
                   "samples",
                   between(1, 1'000'000'000),
                   {},
                   ResumeClass::warn,
                   "of one step, a multiple of micro_batch"});
}

void add_schedule(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  const auto warn = ResumeClass::warn;
  table.push_back(
      {"train.lr", field<kTrain, &T::lr>, "", above(0), {}, warn, "peak learning rate"});
  table.push_back({"train.min_lr",
                   field<kTrain, &T::min_lr>,
                   "",
                   at_least(0),
                   {},
                   warn,
                   "learning rate at the end of the decay"});
  table.push_back({"train.lr_schedule",
                   field<kTrain, &T::lr_schedule>,
                   "",
                   {},
                   {"cosine", "wsd", "linear", "constant"},
                   warn,
                   "shape of the decay after warm-up (wsd: warm-up, stable, decay)"});
  table.push_back({"train.warmup_steps",
                   field<kTrain, &T::warmup_steps>,
                   "steps",
                   at_least(0),
                   {},
                   warn,
                   "linear warm-up from 0 to lr"});
  table.push_back({"train.decay_steps",
                   field<kTrain, &T::decay_steps>,
                   "steps",
                   at_least(0),
                   {},
                   warn,
                   "the schedule's horizon; 0: train.steps"});
  table.push_back({"train.wsd_decay_fraction",
                   field<kTrain, &T::wsd_decay_fraction>,
                   "",
                   between(0, 1),
                   {},
                   warn,
                   "share of the horizon that wsd spends decaying"});
}

void add_optimizer(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  const auto warn = ResumeClass::warn;
  table.push_back({"train.weight_decay",
                   field<kTrain, &T::weight_decay>,
                   "",
                   at_least(0),
                   {},
                   warn,
                   "of matrices; vectors do not decay"});
  table.push_back({"train.beta1",
                   field<kTrain, &T::beta1>,
                   "",
                   below(0, 1),
                   {},
                   warn,
                   "AdamW, decay of the first moment"});
  table.push_back({"train.beta2",
                   field<kTrain, &T::beta2>,
                   "",
                   below(0, 1),
                   {},
                   warn,
                   "AdamW, decay of the second moment"});
  table.push_back({"train.epsilon",
                   field<kTrain, &T::epsilon>,
                   "",
                   above(0),
                   {},
                   warn,
                   "AdamW, added to the root of the second moment"});
  table.push_back({"train.clip",
                   field<kTrain, &T::clip>,
                   "",
                   at_least(0),
                   {},
                   warn,
                   "largest global gradient norm; 0: no clipping"});
  table.push_back({"train.non_finite",
                   field<kTrain, &T::non_finite>,
                   "",
                   {},
                   {"stop", "skip"},
                   warn,
                   "what to do when loss or gradient leave the finite range"});
}

void add_validation(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  table.push_back({"train.val_every",
                   field<kTrain, &T::val_every>,
                   "steps",
                   at_least(0),
                   {},
                   ResumeClass::warn,
                   "between validations; 0: never (but see val_last)"});
  table.push_back({"train.val_batches",
                   field<kTrain, &T::val_batches>,
                   "micro-batches",
                   at_least(0),
                   {},
                   ResumeClass::warn,
                   "of one validation; 0: all whole micro-batches of data.val"});
  table.push_back({"train.val_last",
                   field<kTrain, &T::val_last>,
                   "",
                   {},
                   {},
                   ResumeClass::warn,
                   "validate after the last step when data.val is given"});
  table.push_back({"train.dump_state",
                   field<kTrain, &T::dump_state>,
                   "",
                   {},
                   {},
                   ResumeClass::free,
                   "write the final state to this HDF5 file; empty: do not"});
  table.push_back({"train.fresh",
                   field<kTrain, &T::fresh>,
                   "",
                   {},
                   {},
                   ResumeClass::free,
                   "start at step 0; checkpoints that are there are renamed out of the way"});
}

void add_checkpoint(std::vector<Option>& table) {
  using P = Config::Checkpoint;
  constexpr auto kCheckpoint = &Config::checkpoint;
  const auto free = ResumeClass::free;
  table.push_back({"checkpoint.dir",
                   field<kCheckpoint, &P::dir>,
                   "",
                   {},
                   {},
                   free,
                   "directory that gets checkpoints/; empty: log.dir; neither: no checkpoints"});
  table.push_back(
      {"checkpoint.every",
       field<kCheckpoint, &P::every>,
       "steps",
       at_least(0),
       {},
       free,
       "between checkpoints, one at a time: one still being written skips the next; 0: never"});
  table.push_back({"checkpoint.last",
                   field<kCheckpoint, &P::last>,
                   "",
                   {},
                   {},
                   free,
                   "take a checkpoint after the last step"});
  table.push_back({"checkpoint.keep",
                   field<kCheckpoint, &P::keep>,
                   "checkpoints",
                   at_least(1),
                   {},
                   free,
                   "newest ones that stay"});
  table.push_back({"checkpoint.keep_every",
                   field<kCheckpoint, &P::keep_every>,
                   "steps",
                   at_least(0),
                   {},
                   free,
                   "checkpoints of multiples of this stay for ever; 0: none"});
  table.push_back({"checkpoint.verify",
                   field<kCheckpoint, &P::verify>,
                   "",
                   {},
                   {},
                   free,
                   "read back what was written before a checkpoint counts"});
}

void add_machine(std::vector<Option>& table) {
  table.push_back({"numerics.mode",
                   field<&Config::numerics, &Config::Numerics::mode>,
                   "",
                   {},
                   {"exact", "fast"},
                   ResumeClass::refuse,
                   "exact: same bits on any ranks and threads; fast: fp32 sums, for comparison"});
  table.push_back({"device.threads",
                   field<&Config::device, &Config::Device::threads>,
                   "threads",
                   between(0, 4096),
                   {},
                   ResumeClass::free,
                   "of a rank; 0: this host's cores shared by its ranks"});
  table.push_back({"device.isa",
                   field<&Config::device, &Config::Device::isa>,
                   "",
                   {},
                   {"auto", "avx2", "avx512"},
                   ResumeClass::warn,
                   "instruction set of the CPU kernels; part of the numeric class"});
  // A wait is held in nanoseconds in an int64: a day leaves room for sums.
  table.push_back({"comm.timeout_ms",
                   field<&Config::comm, &Config::Comm::timeout_ms>,
                   "ms",
                   between(1, 86'400'000),
                   {},
                   ResumeClass::free,
                   "longest wait for a peer before the run gives up"});
  table.push_back({"comm.checksum",
                   field<&Config::comm, &Config::Comm::checksum>,
                   "",
                   {},
                   {},
                   ResumeClass::free,
                   "check every message's contents"});
}

void add_log(std::vector<Option>& table) {
  using L = Config::Log;
  constexpr auto kLog = &Config::log;
  const auto free = ResumeClass::free;
  table.push_back({"log.dir",
                   field<kLog, &L::dir>,
                   "",
                   {},
                   {},
                   free,
                   "directory of metrics.jsonl; empty: write no files"});
  table.push_back({"log.every",
                   field<kLog, &L::every>,
                   "steps",
                   at_least(1),
                   {},
                   free,
                   "between lines on the console"});
  table.push_back({"log.digest_every",
                   field<kLog, &L::digest_every>,
                   "steps",
                   at_least(0),
                   {},
                   free,
                   "between state digests; 0: at the last step only"});
  table.push_back({"log.console",
                   field<kLog, &L::console>,
                   "",
                   {},
                   {"auto", "plain", "bar"},
                   free,
                   "auto: a live bar on a terminal, plain lines elsewhere"});
  table.push_back({"log.level",
                   field<kLog, &L::level>,
                   "",
                   {},
                   {"debug", "info", "warn", "error"},
                   free,
                   "least severe diagnostic shown on stderr"});
}

std::vector<Option> make_table() {
  std::vector<Option> table;
  add_model(table);
  add_data(table);
  add_batch(table);
  add_schedule(table);
  add_optimizer(table);
  add_validation(table);
  add_checkpoint(table);
  add_machine(table);
  add_log(table);
  return table;
}

}  // namespace

std::span<const Option> option_table() {
  static const std::vector<Option> table = make_table();
  return table;
}

}  // namespace elaswave::app
