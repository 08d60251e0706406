// The part of a healthy plan that does not depend on its schedule's rows: layers, stages, routes.
// Internal to this folder.
#pragma once

#include "elastic/plan/healthy.h"

namespace elaswave::plan {

/// Code::usage for numbers that no plan can have (healthy.h).
Result<void> check_request(const layout::BlockTable& blocks, const HealthyRequest& request);

/// Everything but rows and owners. `placement` says where chunks go. REQUIRES: check_request().
layout::Plan lay_out(const layout::BlockTable& blocks, const HealthyRequest& request,
                     pipeline::Schedule placement);

RowsRequest rows_request(const HealthyRequest& request, const layout::Plan& plan,
                         const Maker& maker);

/// Whether the generator's precondition holds for every pipeline of a plan laid out for it.
Result<void> check_maker(const layout::Plan& plan, const HealthyRequest& request,
                         pipeline::Schedule schedule);

}  // namespace elaswave::plan
