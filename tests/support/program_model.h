// Runs lowered programs without arithmetic: every rank a step machine, every pair of ranks a queue,
// who moves next a matter of the seed. Matrices and slots hold the name of what they stand for, so
// a wrong order, a slot used twice or a matrix too few is seen. Shares no code with the validator.
#pragma once

#include <cstdint>
#include <string>

#include "parallel/layout/plan.h"

namespace elaswave::test {

enum class Delivery : std::uint8_t {
  rendezvous,  // a send completes when its receive is posted
  buffered,    // at once
};

struct ModelRun {
  bool ended = false;
  std::string fault;  // what a program did that it must not; empty when nothing
};

/// REQUIRES: rows_are_complete().
ModelRun run_programs(const layout::Plan& plan, Delivery delivery, std::uint64_t seed);

/// What check_rows() is to find out, in another way: the letters of every (chunk, micro-batch) in
/// the routed row are FB, FIW, FRB or FRIW, or F in all rows; chunks of one stage follow one
/// another; and there is nothing else.
bool rows_are_complete(const layout::Plan& plan);

}  // namespace elaswave::test
