// Parts of the lowering that the validator shares, and how this folder turns numbers into indices.
// Internal to this folder. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "parallel/layout/plan.h"
#include "parallel/pipeline/program.h"

namespace elaswave::pipeline {

/// Numbers of a plan are signed; they index from 0.
constexpr std::size_t index_of(std::int64_t value) {
  return static_cast<std::size_t>(value);
}

/// Row of replica 0 of each stage, and the number of rows at the end.
std::vector<std::size_t> row_begins(const layout::Plan& plan);

/// What `action` sends, with the receiving replica as the peer; nothing when the neighbouring chunk
/// lies on the same stage or does not exist. One (micro-batch, stage) runs on one replica, so
/// chunks of one stage need no message.
std::optional<Message> message_of(const layout::Plan& plan, const layout::Action& action);

/// Programs of all rows, each equal to lower() of its row. Time and memory grow with the number of
/// actions. REQUIRES: as lower().
std::vector<Program> lower_all(const layout::Plan& plan);

}  // namespace elaswave::pipeline
