// What a rank does in a step, as data one can read: "2F0" is the forward of micro-batch 0 through
// chunk 2 (chunks are numbered over the whole model). Sends, receives, reductions and gathers are
// derived from the actions of all ranks, never written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/error.h"

namespace elaswave::layout {

enum class Op : std::uint8_t {
  forward,          // F
  backward,         // B: input and weight gradients
  input_gradient,   // I
  weight_gradient,  // W, after I of the same chunk and micro-batch
  recompute,        // R: the activations of a forward that kept its input alone
};

constexpr char letter(Op op) {
  constexpr char letters[] = {'F', 'B', 'I', 'W', 'R'};
  return letters[static_cast<std::size_t>(op)];
}

struct Action {
  Op op = Op::forward;
  std::int32_t chunk = 0;
  std::int32_t micro_batch = 0;
  auto operator<=>(const Action&) const = default;
};

/// What one replica does in a step, in order. Its slices all do the same.
using Row = std::vector<Action>;

std::string to_text(const Action& action);
/// Actions separated by single spaces.
std::string to_text(const Row& row);
/// Code::usage on anything to_text() does not write.
Result<Action> parse_action(std::string_view text);
Result<Row> parse_row(std::string_view text);

}  // namespace elaswave::layout
