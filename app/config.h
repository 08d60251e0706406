// Everything a training run can be told, as one plain struct. The option table (options.cpp) binds
// a key to each field; defaults live here and nowhere else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/spec/config.h"

namespace elaswave::app {

struct Config {
  struct Model {
    std::string preset = "gpt2-124m";
    // 0 / negative: as the preset says.
    std::int64_t layers = 0, heads = 0, hidden = 0, context = 0, vocab = 0;
    double dropout = -1;
  } model;

  struct Data {
    std::vector<std::string> train;  // token files, read as one
    std::vector<std::string> val;
    std::string format = "auto";  // auto | elaswave | nanogpt | llmc | megatron
    std::string dtype = "auto";   // auto | u8 | u16 | i32: for files that do not say (nanogpt)
  } data;

  struct Train {
    std::int64_t seed = 1337;
    std::int64_t steps = 1000;
    std::int64_t decay_steps = 0;    // 0: train.steps
    std::int64_t stop_at = 0;        // 0: never
    std::int64_t micro_batch = 4;    // samples
    std::int64_t global_batch = 32;  // samples
    double lr = 6e-4;
    double min_lr = 6e-5;
    std::int64_t warmup_steps = 100;
    std::string lr_schedule = "cosine";  // cosine | wsd | linear | constant
    double wsd_decay_fraction = 0.2;
    double weight_decay = 0.1;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double epsilon = 1e-8;
    double clip = 1.0;                // 0: off
    std::string non_finite = "stop";  // stop | skip
    std::int64_t val_every = 0;       // 0: never (but see val_last)
    std::int64_t val_batches = 20;    // micro-batches of a validation pass; 0: the whole file
    bool val_last = true;             // also after the last step when data.val is given
    std::string dump_state;           // file; empty: none
    bool fresh = false;               // start at step 0 although there are checkpoints
    std::string recompute = "none";   // none | selective | full
    std::string precision = "f32";    // f32 | bf16: of activations and matrices
  } train;

  struct Parallel {
    std::int64_t tp = 1;            // tensor degree
    std::int64_t pp = 1;            // stages
    std::int64_t chunks = 1;        // of each stage
    std::string schedule = "auto";  // auto | gpipe | 1f1b | interleaved | zb-h1 | zbv
  } parallel;

  struct Elastic {
    bool enabled = true;         // false: a rank that fails ends the run
    std::int64_t copies = 1;     // of master weights and moments, beside the owner's
    std::string domain;          // what this rank fails together with; empty: its host
    std::int64_t fill_mib = 64;  // of state sent by a rank to new copies in one step; 0: no limit
    bool rebalance = true;       // shares follow measured speed
    std::int64_t scrub_steps = 64;  // copies are compared once in so many steps; 0: never
    std::int64_t heartbeat_ms = 100;
    std::int64_t silence_ms = 3000;    // a peer that says nothing for so long is doubted
    std::int64_t patience_ms = 20000;  // without a decision for so long a rank leaves
    // Without a sign of work for so long a rank ends itself; what takes longer, like a checkpoint
    // on a slow disk, says so. 0: only comm.timeout_ms counts.
    std::int64_t hang_ms = 60000;
  } elastic;

  // Faults on purpose; elastic/chaos/README.md has their syntax.
  struct Chaos {
    std::vector<std::string> kill, stop, exit, hang, slow, cut, corrupt;
    std::string random;  // empty: none
  } chaos;

  struct Checkpoint {
    std::string dir;              // empty: log.dir; no checkpoints when both are empty
    std::int64_t every = 0;       // steps; 0: never (but see last)
    bool last = true;             // also after the last step
    std::int64_t keep = 3;        // newest ones
    std::int64_t keep_every = 0;  // multiples of so many steps are kept for ever; 0: none
    bool verify = true;           // read back before it counts
  } checkpoint;

  struct Profile {
    std::string trace;       // file; empty: none
    std::int64_t steps = 5;  // in the trace: the last ones of the run
  } profile;

  struct Numerics {
    std::string mode = "exact";  // exact | fast
  } numerics;

  struct Device {
    std::string kind = "cpu";     // cpu | cuda
    std::int64_t gpu = -1;        // of those a process sees; -1: by the rank's number on its host
    std::string gemm_table;       // file; empty: the program's own rows
    std::int64_t threads = 0;     // 0: cores / ranks on this host, at least 1
    std::string isa = "auto";     // auto | avx2 | avx512
    std::int64_t memory_mib = 0;  // of a rank; 0: an equal share of its host's
    std::int64_t gpu_memory_mib = 0;  // the same of its GPU's
  } device;

  struct Comm {
    // Of any single wait. A rank may rightly wait for a peer's whole micro-batch.
    std::int64_t timeout_ms = 600000;
    bool checksum = false;
  } comm;

  struct Log {
    std::string dir;                // empty: no files
    std::int64_t every = 1;         // console lines
    std::int64_t digest_every = 0;  // 0: last step only
    std::string console = "auto";   // auto | plain | bar
    std::string level = "info";     // debug | info | warn | error
  } log;
};

}  // namespace elaswave::app
