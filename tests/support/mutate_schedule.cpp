#include "tests/support/mutate_schedule.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "io/base/hash.h"

namespace elaswave::test {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;
using layout::Row;

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(combine64(seed, 0x6D757461u)) {}
  /// In [0, sides). REQUIRES: sides > 0.
  std::size_t roll(std::size_t sides) {
    state_ = combine64(state_, sides);
    return static_cast<std::size_t>(state_ % sides);
  }

 private:
  std::uint64_t state_;
};

/// A place up to three away from `at`, now and then anywhere: small changes are the hard ones to
/// see.
std::size_t near(Dice& dice, std::size_t at, std::size_t size) {
  if (dice.roll(4) == 0) return dice.roll(size);
  const std::size_t low = at < 3 ? 0 : at - 3, high = std::min(size, at + 4);
  return low + dice.roll(high - low);
}

void move_action(Row& row, std::size_t from, std::size_t to) {
  const Action action = row[from];
  row.erase(row.begin() + static_cast<std::ptrdiff_t>(from));
  row.insert(row.begin() + static_cast<std::ptrdiff_t>(to), action);
}

void insert_action(Row& row, std::size_t at, const Action& action) {
  row.insert(row.begin() + static_cast<std::ptrdiff_t>(at), action);
}

void erase_action(Row& row, std::size_t at) {
  row.erase(row.begin() + static_cast<std::ptrdiff_t>(at));
}

void alter_action(const Plan& plan, Dice& dice, Action& action) {
  switch (dice.roll(3)) {
    case 0:
      action.op = static_cast<Op>(dice.roll(5));
      break;
    case 1:  // also one that does not exist
      action.chunk = static_cast<std::int32_t>(dice.roll(plan.stage_of_chunk.size() + 1));
      break;
    default:
      action.micro_batch =
          static_cast<std::int32_t>(dice.roll(static_cast<std::size_t>(plan.micro_batches) + 1));
  }
}

/// Replaces a B at or after `at` by I and a later W.
void split_one(Row& row, std::size_t at, Dice& dice) {
  for (std::size_t index = at; index < row.size(); ++index) {
    if (row[index].op != Op::backward) continue;
    row[index].op = Op::input_gradient;
    Action weight = row[index];
    weight.op = Op::weight_gradient;
    insert_action(row, index + 1 + dice.roll(std::min<std::size_t>(4, row.size() - index)), weight);
    return;
  }
}

/// Replaces an I at or after `at` and its W, wherever that is, by B.
void fuse_one(Row& row, std::size_t at) {
  for (std::size_t index = at; index < row.size(); ++index) {
    if (row[index].op != Op::input_gradient) continue;
    Action weight = row[index];
    weight.op = Op::weight_gradient;
    row[index].op = Op::backward;
    const auto found = std::find(row.begin(), row.end(), weight);
    if (found != row.end()) row.erase(found);
    return;
  }
}

/// Puts R somewhere between F and B or I of an action at or after `at`.
void recompute_one(Row& row, std::size_t at, Dice& dice) {
  for (std::size_t index = at; index < row.size(); ++index) {
    if (row[index].op != Op::backward && row[index].op != Op::input_gradient) continue;
    Action again = row[index];
    again.op = Op::recompute;
    insert_action(row, index - dice.roll(std::min<std::size_t>(3, index + 1)), again);
    return;
  }
}

void mutate_once(Plan& plan, Dice& dice) {
  Row& row = plan.schedule[dice.roll(plan.schedule.size())];
  if (row.empty()) return;
  const std::size_t at = dice.roll(row.size());
  switch (dice.roll(12)) {
    case 0:
    case 1:
      std::swap(row[at], row[near(dice, at, row.size())]);
      break;
    case 2:
    case 3:
    case 4:
      move_action(row, at, near(dice, at, row.size()));
      break;
    case 5:
      insert_action(row, near(dice, at, row.size()), row[at]);
      break;
    case 6:
      erase_action(row, at);
      break;
    case 7:
      alter_action(plan, dice, row[at]);
      break;
    case 8:
      split_one(row, at, dice);
      break;
    case 9:
      fuse_one(row, at);
      break;
    case 10:
      recompute_one(row, at, dice);
      break;
    default:
      std::swap(row, plan.schedule[dice.roll(plan.schedule.size())]);
  }
}

}  // namespace

Plan mutate(const Plan& plan, std::uint64_t seed) {
  Dice dice(seed);
  Plan mutant = plan;
  const auto empty = [](const Row& row) { return row.empty(); };
  if (std::all_of(plan.schedule.begin(), plan.schedule.end(), empty)) return mutant;
  while (mutant.schedule == plan.schedule) mutate_once(mutant, dice);
  return mutant;
}

}  // namespace elaswave::test
