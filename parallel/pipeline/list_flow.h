// The routes of a plan as the list scheduler walks them: every micro-batch is a chain of 2C
// positions, forward through chunks 0 .. C - 1, then backward through C - 1 .. 0. Internal to
// list_schedule.cpp. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout/plan.h"
#include "parallel/pipeline/lowering.h"

namespace elaswave::pipeline {

/// Chain actions of one row at one position whose outputs go to the same place.
struct Lane {
  std::int32_t row = 0;
  std::int32_t position = 0;
  std::int32_t link = -1;  // that carries the output; -1: it stays on the row
};

/// Messages from one row to another, activations and gradients in one order.
struct Link {
  std::int32_t from = 0, to = 0;
};

struct Flow {
  std::int32_t chunks = 0;
  std::int32_t positions = 0;  // 2 * chunks
  std::vector<std::int32_t> stage_of_position;
  std::vector<std::int32_t> chunks_of_stage;
  std::vector<std::int32_t> first_row;  // of each stage, and the number of rows
  std::vector<Link> links;
  std::vector<Lane> lanes;
  std::vector<std::int32_t> lane;  // [micro_batch * positions + position]
  std::vector<std::int32_t>
      lanes_of_row;                      // lanes of row r: from lane_begin[r] to lane_begin[r + 1],
  std::vector<std::int32_t> lane_begin;  // positions ascending

  bool is_forward(std::int32_t position) const { return position < chunks; }
  std::int32_t chunk_at(std::int32_t position) const {
    return position < chunks ? position : positions - 1 - position;
  }
  std::int32_t rows() const { return first_row.back(); }
  std::int32_t lane_at(std::int64_t micro_batch, std::int32_t position) const {
    return lane[index_of(micro_batch * positions + position)];
  }
};

Flow make_flow(const layout::Plan& plan);

}  // namespace elaswave::pipeline
