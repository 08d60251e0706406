// A plan as text that a person can read and a program can read back. Pure.
//
//   elaswave plan 2
//   generation 0
//   id 0
//   tensor_degree 2
//   micro_batches 4
//   chunk_of_layer 0*3 1*3         sequences, see below
//   stage_of_chunk 0-1
//   stage 0                        for each stage: its heading, its replicas, its routes
//   replica 0.0 ranks 0-1          stage.replica, in slice order
//   replica 0.1 ranks 2-3
//   route 0-1*2                    replica of each micro-batch
//   ...
//   row 0.0 0F0 0B0 0F2 0B2        stage.replica, actions (action.h); for each replica
//   ...
//   owner 0-3*12 0-1               member of each block
//   copies 1                       of each block beside the owner's
//   backup 2-3 0-1 none*46         world ranks that keep them, block by block
//   spares 4-5                     world ranks
//   end
//
// A sequence of numbers is separated by spaces and run-length coded, longest runs first from the
// left: `7`; `7*3` is 7 7 7; `2-4` is 2 3 4; `2-4*2` is 2 3 4 2 3 4. Nobody (-1) is `none`.
#pragma once

#include <string>
#include <string_view>

#include "io/base/error.h"
#include "parallel/layout/plan.h"

namespace elaswave::layout {

/// REQUIRES: lengths and ranges as find_fault() wants them; owners and order are not looked at.
std::string to_text(const Plan& plan);

/// The plan that to_text() wrote. ERRORS: Code::corrupt, with the line, on any other text. That the
/// plan makes sense is find_fault()'s business.
Result<Plan> parse_plan(std::string_view text);

}  // namespace elaswave::layout
