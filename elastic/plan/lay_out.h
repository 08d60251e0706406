// The part of a healthy plan that does not depend on its schedule's rows: layers, stages, routes.
// Internal to this folder.
#pragma once

#include <array>

#include "elastic/plan/healthy.h"

namespace elaswave::plan {

/// In order of preference: of equally fast ones the first is taken.
inline constexpr std::array<pipeline::Schedule, 5> kSchedules = {
    pipeline::Schedule::one_f_one_b, pipeline::Schedule::interleaved, pipeline::Schedule::zb_h1,
    pipeline::Schedule::zbv, pipeline::Schedule::gpipe};

/// Code::usage for numbers that no plan can have (healthy.h).
Result<void> check_request(const layout::BlockTable& blocks, const HealthyRequest& request);

/// Everything but rows and owners. `placement` says where chunks go. REQUIRES: check_request().
layout::Plan lay_out(const layout::BlockTable& blocks, const HealthyRequest& request,
                     pipeline::Schedule placement);

/// What layers cost, by layer; 1 each where the request says nothing.
std::vector<std::int64_t> layer_weights(const layout::BlockTable& blocks,
                                        const HealthyRequest& request);
/// The same by stage of `plan`, of which layers, chunks and the number of stages are read.
std::vector<std::int64_t> stage_weights(const layout::BlockTable& blocks,
                                        const HealthyRequest& request, const layout::Plan& plan);

/// Code::bug when layout::find_fault() or, up to kMostCheckedActions, pipeline::check_schedule()
/// finds something.
Result<void> check_plan(const layout::Plan& plan, const layout::BlockTable& blocks,
                        std::int32_t world_size);

RowsRequest rows_request(const HealthyRequest& request, const layout::Plan& plan,
                         const Maker& maker);

/// Whether the generator's precondition holds for every pipeline of a plan laid out for it.
Result<void> check_maker(const layout::Plan& plan, const HealthyRequest& request,
                         pipeline::Schedule schedule);

}  // namespace elaswave::plan
