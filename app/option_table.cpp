// The table itself.
#include "app/option_rows.h"

namespace elaswave::app {
namespace {

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

void add_parallel(std::vector<Option>& table) {
  using P = Config::Parallel;
  constexpr auto kParallel = &Config::parallel;
  table.push_back({"parallel.tp",
                   field<kParallel, &P::tp>,
                   "ranks",
                   between(1, 1024),
                   {},
                   ResumeClass::warn,
                   "tensor degree: ranks that share every layer; must divide the heads"});
  table.push_back({"parallel.pp",
                   field<kParallel, &P::pp>,
                   "stages",
                   between(1, 100'000),
                   {},
                   ResumeClass::free,
                   "pipeline stages; the data degree follows from the number of ranks"});
  table.push_back({"parallel.chunks",
                   field<kParallel, &P::chunks>,
                   "chunks",
                   between(1, 1000),
                   {},
                   ResumeClass::free,
                   "runs of layers on each stage"});
  table.push_back({"parallel.schedule",
                   field<kParallel, &P::schedule>,
                   "",
                   {},
                   {"auto", "gpipe", "1f1b", "interleaved", "zb-h1", "zbv"},
                   ResumeClass::free,
                   "order of work in the pipeline; auto: the shortest that the layout allows"});
}

void add_profile(std::vector<Option>& table) {
  using P = Config::Profile;
  constexpr auto kProfile = &Config::profile;
  table.push_back({"profile.trace",
                   field<kProfile, &P::trace>,
                   "",
                   {},
                   {},
                   ResumeClass::free,
                   "Chrome trace of all ranks, written at the end of the run; empty: none"});
  table.push_back({"profile.steps",
                   field<kProfile, &P::steps>,
                   "steps",
                   between(1, 1'000'000),
                   {},
                   ResumeClass::free,
                   "in the trace: the last ones of the run, as far as they are remembered"});
}

void add_machine(std::vector<Option>& table) {
  table.push_back({"numerics.mode",
                   field<&Config::numerics, &Config::Numerics::mode>,
                   "",
                   {},
                   {"exact", "fast"},
                   ResumeClass::refuse,
                   "exact: same bits on any ranks and threads; fast: fp32 sums, for comparison"});
  table.push_back({"device.kind",
                   field<&Config::device, &Config::Device::kind>,
                   "",
                   {},
                   {"cpu", "cuda"},
                   ResumeClass::warn,
                   "what trains; part of the numeric class"});
  table.push_back({"device.gpu",
                   field<&Config::device, &Config::Device::gpu>,
                   "",
                   between(-1, 1024),
                   {},
                   ResumeClass::free,
                   "of those a process sees; -1: by the rank's number on its host"});
  table.push_back({"device.gemm_table",
                   field<&Config::device, &Config::Device::gemm_table>,
                   "",
                   {},
                   {},
                   ResumeClass::warn,
                   "file of `elaswave tune` for a GPU's products, instead of the program's own "
                   "rows; part of the numeric class"});
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
  table.push_back({"device.memory_mib",
                   field<&Config::device, &Config::Device::memory_mib>,
                   "MiB",
                   between(0, 1'000'000'000),
                   {},
                   ResumeClass::free,
                   "that a rank may use; 0: its share of the host, more when neighbours fail"});
  table.push_back({"device.gpu_memory_mib",
                   field<&Config::device, &Config::Device::gpu_memory_mib>,
                   "MiB",
                   between(0, 1'000'000'000),
                   {},
                   ResumeClass::free,
                   "that a rank may use of its GPU; 0: a share, as of the host"});
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
  add_train(table);
  add_parallel(table);
  add_elastic(table);
  add_chaos(table);
  add_checkpoint(table);
  add_machine(table);
  add_log(table);
  add_profile(table);
  return table;
}

}  // namespace

std::span<const Option> option_table() {
  static const std::vector<Option> table = make_table();
  return table;
}

}  // namespace elaswave::app
