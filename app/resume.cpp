#include "app/resume.h"

#include <algorithm>
#include <array>
#include <map>

namespace elaswave::app {
namespace {

// Their effect is in the facts or in other keys, or they matter at the start alone.
constexpr std::array<std::string_view, 8> kLeftOut = {"model.preset", "data.train", "data.val",
                                                      "data.format",  "data.dtype", "device.isa",
                                                      "parallel.tp",  "train.fresh"};

struct FactClass {
  std::string_view name;
  ResumeClass resume;
};
constexpr std::array<FactClass, 7> kFactClasses = {{{"data", ResumeClass::refuse},
                                                    {"tokenizer", ResumeClass::refuse},
                                                    {"validation_data", ResumeClass::warn},
                                                    {"numeric_class", ResumeClass::warn},
                                                    {"numeric_fingerprint", ResumeClass::warn},
                                                    {"tensor_degree", ResumeClass::warn},
                                                    {"ranks", ResumeClass::free}}};

/// A key of the option table, or a fact. Keys that this program does not know (any more) are free.
ResumeClass class_of(std::string_view key) {
  for (const FactClass& fact : kFactClasses)
    if (fact.name == key) return fact.resume;
  const std::int64_t row = find_option(key);
  return row < 0 ? ResumeClass::free : option_table()[static_cast<std::size_t>(row)].resume;
}

std::string hex(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

std::string shortened(std::string_view value) {
  return value.empty() ? "(not set)" : std::string(value);
}

}  // namespace

checkpoint::Facts effective_config(const Config& config, const RunSpec& spec) {
  Config effective = config;
  effective.model = {.preset = config.model.preset,
                     .layers = spec.model.layers,
                     .heads = spec.model.heads,
                     .hidden = spec.model.hidden,
                     .context = spec.model.context,
                     .vocab = spec.model.vocab,
                     .dropout = static_cast<double>(spec.model.dropout)};
  effective.train.decay_steps = spec.adamw.lr.horizon_steps;
  checkpoint::Facts facts;
  for (const Option& option : option_table())
    if (std::find(kLeftOut.begin(), kLeftOut.end(), option.key) == kLeftOut.end() &&
        !option.key.starts_with("chaos."))
      facts.emplace_back(option.key, value_text(option, effective));
  return facts;
}

checkpoint::Facts manifest_facts(const RunFacts& facts) {
  return {{"data", hex(facts.train_fingerprint)},
          {"validation_data", facts.val_fingerprint == 0 ? "" : hex(facts.val_fingerprint)},
          {"tokenizer", facts.tokenizer},
          {"numeric_class", facts.numeric_class},
          {"numeric_fingerprint", hex(facts.fingerprint)},
          {"fraction_bits", fmt::format("{}", kernels::kFractionBits)},
          {"tensor_degree", fmt::format("{}", facts.tensor_degree)},
          {"ranks", fmt::format("{}", facts.ranks)}};
}

std::string ConfigChange::text() const {
  return fmt::format("{:<6}  {}: {} -> {}", name(resume), key, shortened(before), shortened(now));
}

std::vector<ConfigChange> config_changes(const checkpoint::Manifest& manifest,
                                         const checkpoint::Facts& config,
                                         const checkpoint::Facts& facts) {
  std::map<std::string, std::string> before;
  for (const checkpoint::Facts* old : {&manifest.config, &manifest.facts})
    before.insert(old->begin(), old->end());
  std::vector<ConfigChange> changes;
  // A key that only one of the two program versions has cannot be compared.
  for (const checkpoint::Facts* current : {&config, &facts})
    for (const auto& [key, now] : *current)
      if (const auto old = before.find(key); old != before.end() && old->second != now)
        changes.push_back({class_of(key), key, old->second, now});
  std::stable_sort(changes.begin(), changes.end(),
                   [](const auto& a, const auto& b) { return a.resume > b.resume; });
  return changes;
}

Result<void> check_changes(const std::vector<ConfigChange>& changes,
                           const std::string& checkpoint) {
  std::string refused;
  for (const ConfigChange& change : changes)
    if (change.resume == ResumeClass::refuse)
      refused += fmt::format("{}{}: {} -> {}", refused.empty() ? "" : "; ", change.key,
                             shortened(change.before), shortened(change.now));
  if (refused.empty()) return {};
  return fail({.code = Code::usage,
               .what = "the checkpoint belongs to another run",
               .where = checkpoint,
               .why = refused,
               .fix = "set these back, use another log.dir, or start over with --train.fresh"});
}

}  // namespace elaswave::app
