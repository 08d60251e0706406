// The rows of a plan whose layout and routes are set: which schedule, and its rows for every
// replica. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "elastic/plan/costs.h"
#include "io/base/error.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::plan {

/// What becomes of a schedule's backward passes: what the schedule says, or I and W apart
/// throughout.
enum class Backward : std::uint8_t { as_scheduled, split };

/// A published schedule or, without one, the list scheduler with or without I and W apart.
struct Maker {
  std::optional<pipeline::Schedule> schedule;
  bool split = false;
};
/// "zbv", "list", "list split"
std::string name(const Maker& maker);

struct RowsRequest {
  Maker maker;
  Backward backward = Backward::as_scheduled;
  spec::Recompute recompute = spec::Recompute::none;
  pipeline::Costs costs;  // of the plan's chunks and, where they differ, rows
};

/// True when every stage has as many replicas and a micro-batch meets the replica of the same
/// number everywhere: the plan is that many pipelines side by side.
bool in_columns(const layout::Plan& plan);

/// Of such a plan the pipeline of replicas `column` as a plan of its own: one replica a stage, its
/// micro-batches numbered from 0, no owners. REQUIRES: in_columns(plan).
layout::Plan column_of(const layout::Plan& plan, std::int32_t column);

/// Micro-batches of each column.
std::vector<std::int32_t> column_shares(const layout::Plan& plan);

/// Columns alike have the same rows; one without any has empty ones.
/// ERRORS: Code::usage when the schedule's precondition does not hold for some column, or there are
/// no columns.
Result<std::vector<layout::Row>> make_rows(const layout::Plan& plan, const RowsRequest& request);

/// One pipeline of `plan`'s stages with `micro_batches` of its own, as column_of(), with its rows,
/// all at the usual pace. Errors as make_rows().
Result<layout::Plan> make_column(const layout::Plan& plan, std::int32_t micro_batches,
                                 const RowsRequest& request);

/// The makespan of the longest column, or of the whole plan without columns, ns.
Result<std::int64_t> predicted_makespan(const layout::Plan& plan, const RowsRequest& request);

}  // namespace elaswave::plan
