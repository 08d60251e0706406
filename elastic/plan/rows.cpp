#include "elastic/plan/rows.h"

#include <fmt/format.h>

#include <algorithm>

namespace elaswave::plan {
namespace {

using layout::Plan;
using layout::Row;

std::vector<Row> with_passes(std::vector<Row> rows, const RowsRequest& request) {
  for (Row& row : rows) {
    if (request.backward == Backward::split) row = pipeline::split_backward(row);
    if (request.recompute == spec::Recompute::full) row = pipeline::with_recompute(row);
  }
  return rows;
}

Result<std::vector<Row>> list_rows(const Plan& plan, const RowsRequest& request) {
  pipeline::Costs costs = request.costs;
  // The list scheduler knows no R; it comes directly before the backward.
  if (request.recompute == spec::Recompute::full)
    for (pipeline::ChunkCost& chunk : costs.chunks) chunk.input_gradient += chunk.recompute;
  const bool split = request.maker.split || request.backward == Backward::split;
  EW_ASSIGN(std::vector<Row> rows, pipeline::list_schedule(plan, costs, {.split = split}));
  return with_passes(std::move(rows), request);
}

/// A plan of one pipeline: rows are what is missing.
Plan single_column(const Plan& plan, std::int32_t micro_batches) {
  Plan column;
  column.generation = plan.generation;
  column.id = plan.id;
  column.chunk_of_layer = plan.chunk_of_layer;
  column.stage_of_chunk = plan.stage_of_chunk;
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage)
    column.stages.push_back({.replicas = {{.world_ranks = {static_cast<std::int32_t>(stage)}}}});
  column.micro_batches = micro_batches;
  column.route.assign(static_cast<std::size_t>(micro_batches) * plan.stages.size(), 0);
  return column;
}

/// Rows of one column of `micro_batches`, by stage; the request's paces are the column's.
Result<std::vector<Row>> column_rows(const Plan& plan, std::int32_t micro_batches,
                                     const RowsRequest& request) {
  if (micro_batches == 0) return std::vector<Row>(plan.stages.size());
  if (!request.maker.schedule) return list_rows(single_column(plan, micro_batches), request);
  const auto stages = static_cast<std::int32_t>(plan.stages.size());
  const pipeline::PipelineShape shape{
      .stages = stages, .chunks = plan.chunks() / stages, .micro_batches = micro_batches};
  EW_TRY(pipeline::check_shape(*request.maker.schedule, shape));
  return with_passes(pipeline::generate(*request.maker.schedule, shape), request);
}

}  // namespace

std::string name(const Maker& maker) {
  if (maker.schedule) return std::string(pipeline::name(*maker.schedule));
  return maker.split ? "list split" : "list";
}

bool in_columns(const Plan& plan) {
  const std::size_t stages = plan.stages.size();
  for (const layout::Stage& stage : plan.stages)
    if (stage.replicas.size() != plan.stages[0].replicas.size()) return false;
  for (std::size_t index = 0; index < plan.route.size(); ++index)
    if (plan.route[index] != plan.route[index / stages * stages]) return false;
  return true;
}

std::vector<std::int32_t> column_shares(const Plan& plan) {
  std::vector<std::int32_t> shares(plan.stages[0].replicas.size(), 0);
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    ++shares[static_cast<std::size_t>(plan.replica_for(micro_batch, 0))];
  return shares;
}

Plan column_of(const Plan& plan, std::int32_t column) {
  const std::vector<std::int64_t> mine =
      layout::micro_batches_of(plan, {.stage = 0, .replica = column});
  Plan single = single_column(plan, static_cast<std::int32_t>(mine.size()));
  single.tensor_degree = plan.tensor_degree;
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage) {
    const auto index = static_cast<std::int32_t>(stage);
    single.stages[stage].replicas[0] = plan.replica(index, column);
    Row row = plan.row(index, column);
    for (layout::Action& action : row)
      action.micro_batch = static_cast<std::int32_t>(
          std::lower_bound(mine.begin(), mine.end(), action.micro_batch) - mine.begin());
    single.schedule.push_back(std::move(row));
  }
  return single;
}

Result<Plan> make_column(const Plan& plan, std::int32_t micro_batches, const RowsRequest& request) {
  Plan column = single_column(plan, micro_batches);
  RowsRequest usual = request;
  usual.costs.pace.clear();
  EW_ASSIGN(column.schedule, column_rows(plan, micro_batches, usual));
  return column;
}

Result<std::vector<Row>> make_rows(const Plan& plan, const RowsRequest& request) {
  if (!in_columns(plan)) {
    if (!request.maker.schedule) return list_rows(plan, request);
    return fail({.code = Code::usage,
                 .what = fmt::format("schedule {} needs equal pipelines", name(request.maker)),
                 .where = "parallel.schedule",
                 .why = "stages have different numbers of replicas",
                 .fix = "use parallel.schedule=auto"});
  }
  const std::vector<std::int32_t> shares = column_shares(plan);
  const auto columns = static_cast<std::int32_t>(shares.size());
  std::vector<Row> rows(plan.stages.size() * shares.size());
  std::vector<std::vector<std::int32_t>> mine(shares.size());  // micro-batches of a column
  for (std::int64_t micro_batch = 0; micro_batch < plan.micro_batches; ++micro_batch)
    mine[static_cast<std::size_t>(plan.replica_for(micro_batch, 0))].push_back(
        static_cast<std::int32_t>(micro_batch));
  std::int32_t made_for = -1;
  RowsRequest single = request;
  std::vector<Row> made;
  for (std::int32_t column = 0; column < columns; ++column) {
    const std::vector<std::int32_t>& micro_batches = mine[static_cast<std::size_t>(column)];
    const std::int32_t share = shares[static_cast<std::size_t>(column)];
    std::vector<std::int64_t> pace;
    for (std::size_t row = static_cast<std::size_t>(column); row < request.costs.pace.size();
         row += shares.size())
      pace.push_back(request.costs.pace[row]);
    if (share != made_for || pace != single.costs.pace) {
      single.costs.pace = std::move(pace);
      EW_ASSIGN(made, column_rows(plan, share, single));
      made_for = share;
    }
    for (std::size_t stage = 0; stage < made.size(); ++stage) {
      Row& row = rows[stage * shares.size() + static_cast<std::size_t>(column)];
      row = made[stage];
      for (layout::Action& action : row)
        action.micro_batch = micro_batches[static_cast<std::size_t>(action.micro_batch)];
    }
  }
  return rows;
}

Result<std::int64_t> predicted_makespan(const Plan& plan, const RowsRequest& request) {
  Plan sample;
  if (in_columns(plan) && request.costs.pace.empty()) {
    const std::vector<std::int32_t> shares = column_shares(plan);
    const std::int32_t most = *std::max_element(shares.begin(), shares.end());
    EW_ASSIGN(sample, make_column(plan, most, request));
  } else {
    sample = plan;
    EW_ASSIGN(sample.schedule, make_rows(plan, request));
  }
  return pipeline::predict(sample, request.costs).makespan;
}

}  // namespace elaswave::plan
