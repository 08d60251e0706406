// What may change when a run is resumed.
#include "app/resume.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace elaswave::app {
namespace {

Config small_config() {
  Config config;
  config.model.preset = "tiny";
  config.data.train = {"a.tok"};
  return config;
}

checkpoint::Facts effective(const Config& config) {
  return effective_config(config, resolve(config).value());
}

/// Changes between two configurations, as "class key".
std::vector<std::string> changes(const Config& before, const Config& now) {
  checkpoint::Manifest manifest;
  manifest.config = effective(before);
  std::vector<std::string> texts;
  for (const ConfigChange& change : config_changes(manifest, effective(now), {}))
    texts.push_back(fmt::format("{} {}", name(change.resume), change.key));
  return texts;
}

using Texts = std::vector<std::string>;

/// Faults that were asked for belong to one start, not to the run.
TEST(Resume, EveryKeyOfTheTableIsComparedOrStandsForAFact) {
  const checkpoint::Facts facts = effective(small_config());
  std::size_t left_out = 0;
  for (const Option& option : option_table()) {
    const bool there = std::any_of(facts.begin(), facts.end(),
                                   [&](const auto& fact) { return fact.first == option.key; });
    const bool chaos = option.key.starts_with("chaos.");
    EXPECT_FALSE(chaos && there) << option.key;
    left_out += there || chaos ? 0 : 1;
  }
  EXPECT_EQ(left_out, 8U);
}

TEST(Resume, OneChangeOfTensorDegreeIsSaidOnce) {
  Config before = small_config(), now = before;
  now.parallel.tp = 2;
  checkpoint::Manifest manifest;
  manifest.config = effective(before);
  manifest.facts = manifest_facts({.tensor_degree = 1});
  Texts texts;
  for (const ConfigChange& change :
       config_changes(manifest, effective(now), manifest_facts({.tensor_degree = 2})))
    texts.push_back(change.text());
  EXPECT_EQ(texts, (Texts{"warn    tensor_degree: 1 -> 2"}));
}

TEST(Resume, ClassesAreShownGravestFirst) {
  const Config before = small_config();
  EXPECT_EQ(changes(before, before), Texts{});
  Config now = before;
  now.train.seed = 8;
  now.train.lr = 0.5;
  now.log.every = 7;
  EXPECT_EQ(changes(before, now), (Texts{"refuse train.seed", "warn train.lr", "free log.every"}));
  now = before;
  now.train.precision = "bf16";
  EXPECT_EQ(changes(before, now), Texts{"warn train.precision"});
}

TEST(Resume, WhatTakesEffectIsCompared) {
  // The horizon of the schedule follows train.steps unless it is given: then more steps change the
  // rates of the steps to come.
  const Config before = small_config();
  Config longer = before;
  longer.train.steps = 2000;
  EXPECT_EQ(changes(before, longer), (Texts{"warn train.decay_steps", "free train.steps"}));
  longer.train.decay_steps = before.train.steps;
  EXPECT_EQ(changes(before, longer), (Texts{"free train.steps"}));
  // The same model by another name.
  Config spelled_out = before;
  const spec::ModelConfig model = resolve(before).value().model;
  spelled_out.model = {.preset = "small",
                       .layers = model.layers,
                       .heads = model.heads,
                       .hidden = model.hidden,
                       .context = model.context,
                       .vocab = model.vocab,
                       .dropout = model.dropout};
  EXPECT_EQ(changes(before, spelled_out), Texts{});
  spelled_out.model.layers += 1;
  EXPECT_EQ(changes(before, spelled_out), (Texts{"refuse model.layers"}));
}

TEST(Resume, FactsHaveClassesToo) {
  const RunFacts then{.train_fingerprint = 1,
                      .val_fingerprint = 2,
                      .tokenizer = "bytes-v1",
                      .numeric_class = "cpu/avx512",
                      .fingerprint = 3,
                      .ranks = 2};
  checkpoint::Manifest manifest;
  manifest.facts = manifest_facts(then);
  RunFacts now = then;
  now.train_fingerprint = 9;
  now.val_fingerprint = 0;
  now.tokenizer = "other";
  now.numeric_class = "cpu/avx2";
  now.ranks = 5;
  Texts texts;
  for (const ConfigChange& change : config_changes(manifest, {}, manifest_facts(now)))
    texts.push_back(change.text());
  EXPECT_EQ(texts,
            (Texts{"refuse  data: 0000000000000001 -> 0000000000000009",
                   "refuse  tokenizer: bytes-v1 -> other",
                   "warn    validation_data: 0000000000000002 -> (not set)",
                   "warn    numeric_class: cpu/avx512 -> cpu/avx2", "free    ranks: 2 -> 5"}));
}

TEST(Resume, KeysThatOneVersionDoesNotKnowAreNotCompared) {
  checkpoint::Manifest manifest;
  manifest.config = {{"train.of_old", "1"}};
  EXPECT_TRUE(config_changes(manifest, {{"train.seed", "7"}}, {}).empty());
}

TEST(Resume, OnlyRefusedChangesAreAnError) {
  const ConfigChange warn{ResumeClass::warn, "train.lr", "1", "2"};
  EXPECT_TRUE(check_changes({warn}, "x"));
  const auto refused =
      check_changes({{ResumeClass::refuse, "train.seed", "7", "8"}, warn}, "step-1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::usage);
  EXPECT_EQ(refused.error().why, "train.seed: 7 -> 8");
}

}  // namespace
}  // namespace elaswave::app
