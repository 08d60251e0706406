// What a checkpoint says about the run it comes from, and whether this run may go on from it. Pure.
#pragma once

#include <string>
#include <vector>

#include "app/options.h"
#include "app/run_spec.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::app {

/// The values of all keys as they take effect, by key: sizes instead of the preset, the schedule's
/// true horizon. Keys that name things which the facts identify better (data files, instruction
/// set) are left out.
checkpoint::Facts effective_config(const Config& config, const RunSpec& spec);

/// What the facts of a manifest hold besides.
struct RunFacts {
  std::uint64_t train_fingerprint = 0, val_fingerprint = 0;  // val 0: none
  std::string tokenizer;                                     // empty: the files do not say
  std::string numeric_class;
  std::uint64_t fingerprint = 0;  // of the kernels
  std::int64_t ranks = 1;
  std::int64_t tensor_degree = 1;
};
checkpoint::Facts manifest_facts(const RunFacts& facts);

struct ConfigChange {
  ResumeClass resume = ResumeClass::free;
  std::string key, before, now;
  /// "warn    train.lr: 0.001 -> 0.002"
  std::string text() const;
};
/// Everything that differs, the gravest class first.
std::vector<ConfigChange> config_changes(const checkpoint::Manifest& manifest,
                                         const checkpoint::Facts& config,
                                         const checkpoint::Facts& facts);

/// Code::usage when a change makes it another run; names the changes.
Result<void> check_changes(const std::vector<ConfigChange>& changes, const std::string& checkpoint);

}  // namespace elaswave::app
