// The next token from the logits of a model. Pure: the same arguments give the same token, whatever
// the threads; the random number is named by (seed, index of the token), not drawn from a state.
#pragma once

#include <cstdint>
#include <span>

#include "io/base/error.h"

namespace elaswave::gpt {

/// Probabilities are softmax(logits / temperature). top_k comes first, top_p works on what it left.
/// Tokens of equal logits rank by id, lowest first.
struct ChoiceRules {
  double temperature = 0.8;  // 0: always the most probable token
  std::int64_t top_k = 0;    // only so many of the most probable tokens; 0: all
  // Only the smallest set of most probable tokens that holds at least this share of the mass
  // (Holtzman et al., arXiv 1904.09751); 1: all.
  double top_p = 1;
};

/// Names the first rule out of range. ERRORS: Code::usage.
Result<void> validate(const ChoiceRules& rules);

/// The id of token number `index` of the text. ERRORS: Code::non_finite names the first logit that
/// is not a number. REQUIRES: validate(rules), at least one logit.
Result<std::int32_t> choose_token(std::span<const float> logits, const ChoiceRules& rules,
                                  std::uint64_t seed, std::int64_t index);

/// The same with the random number given: u in (0, 1) falls into the slices of the remaining
/// tokens' masses, laid side by side by id (by rank when a rule removed tokens).
Result<std::int32_t> choose_token_at(std::span<const float> logits, const ChoiceRules& rules,
                                     double u);

}  // namespace elaswave::gpt
