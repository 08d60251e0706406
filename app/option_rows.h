// How the rows of the option table are written down. Internal to option_table*.cpp.
#pragma once

#include <vector>

#include "app/options.h"

namespace elaswave::app {

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

void add_train(std::vector<Option>& table);
void add_elastic(std::vector<Option>& table);
void add_chaos(std::vector<Option>& table);

}  // namespace elaswave::app
