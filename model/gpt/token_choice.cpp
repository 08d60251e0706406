#include "model/gpt/token_choice.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "io/base/philox.h"

namespace elaswave::gpt {
namespace {

struct Candidate {
  std::int32_t id = 0;
  float logit = 0;
  double mass = 0;  // relative to that of the most probable token
};

bool less_probable(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
}

Result<void> check_finite(std::span<const float> logits) {
  const auto bad =
      std::find_if_not(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
  if (bad == logits.end()) return {};
  return fail({.code = Code::non_finite,
               .what = "the model's output is not finite",
               .where = fmt::format("logit of token {}", bad - logits.begin()),
               .why = fmt::format("it is {}", *bad),
               .fix = "use an earlier checkpoint: these weights have diverged"});
}

double mass_of(std::span<const Candidate> candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.mass;
  return sum;
}

/// Moves the most probable candidates to a list of their own, by rank, until a rule says stop. A
/// heap: sorting a whole vocabulary for a handful of tokens costs more than the model.
std::vector<Candidate> most_probable(std::vector<Candidate> all, const ChoiceRules& rules) {
  std::vector<Candidate> kept;
  const auto take = [&] {
    std::pop_heap(all.begin(), all.end(), less_probable);
    kept.push_back(all.back());
    all.pop_back();
  };
  double total = mass_of(all);
  std::make_heap(all.begin(), all.end(), less_probable);
  if (rules.top_k > 0) {
    while (!all.empty() && std::ssize(kept) < rules.top_k) take();
    if (rules.top_p >= 1) return kept;
    total = mass_of(kept);
    double mass = 0;
    std::size_t count = 0;
    while (count < kept.size() && mass < rules.top_p * total) mass += kept[count++].mass;
    kept.resize(std::max<std::size_t>(count, 1));
    return kept;
  }
  take();
  for (double mass = kept.back().mass; !all.empty() && mass < rules.top_p * total;
       mass += kept.back().mass)
    take();
  return kept;
}

tl::unexpected<Error> bad_rule(std::string_view name, std::string why, std::string fix) {
  return fail({.code = Code::usage,
               .what = fmt::format("{} is out of range", name),
               .where = std::string(name),
               .why = std::move(why),
               .fix = std::move(fix)});
}

}  // namespace

Result<void> validate(const ChoiceRules& rules) {
  if (!(rules.temperature >= 0) || !std::isfinite(rules.temperature))
    return bad_rule("temperature", fmt::format("it is {}; the least is 0", rules.temperature),
                    "give 0 for the most probable token, or a number near 1");
  if (rules.top_k < 0)
    return bad_rule("top_k", fmt::format("it is {}; the least is 0", rules.top_k),
                    "give 0 for all tokens, or how many to choose from");
  if (!(rules.top_p > 0 && rules.top_p <= 1))
    return bad_rule("top_p", fmt::format("it is {}; the range is above 0 to 1", rules.top_p),
                    "give 1 for all tokens, or a share such as 0.9");
  return {};
}

Result<std::int32_t> choose_token_at(std::span<const float> logits, const ChoiceRules& rules,
                                     double u) {
  EW_CHECK(!logits.empty(), "a choice between no tokens");
  EW_TRY(check_finite(logits));
  const auto top = std::max_element(logits.begin(), logits.end());
  if (rules.temperature == 0) return static_cast<std::int32_t>(top - logits.begin());
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (const float logit : logits) {
    const double distance = static_cast<double>(logit) - static_cast<double>(*top);
    // A temperature close to 0 may make it -infinity; the largest logit stays at 0.
    candidates.push_back({static_cast<std::int32_t>(candidates.size()), logit,
                          std::exp(distance / rules.temperature)});
  }
  if (rules.top_k > 0 || rules.top_p < 1) candidates = most_probable(std::move(candidates), rules);
  const double target = u * mass_of(candidates);
  double sum = 0;
  for (const Candidate& candidate : candidates) {
    sum += candidate.mass;
    if (target < sum) return candidate.id;
  }
  // Only rounding of u * mass up to the mass itself leads here.
  return std::max_element(candidates.begin(), candidates.end(), less_probable)->id;
}

Result<std::int32_t> choose_token(std::span<const float> logits, const ChoiceRules& rules,
                                  std::uint64_t seed, std::int64_t index) {
  const auto words =
      philox(random_stream(seed, RandomUse::token_choice, static_cast<std::uint64_t>(index)), 0);
  // 52 bits and a half: exact in double, never 0 or 1.
  const std::uint64_t bits = std::uint64_t{words[0]} << 20 | words[1] >> 12;
  return choose_token_at(logits, rules, (static_cast<double>(bits) + 0.5) * 0x1p-52);
}

}  // namespace elaswave::gpt
