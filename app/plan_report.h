// What `elaswave plan` prints. Pure.
#pragma once

#include <string>

#include "app/run_spec.h"
#include "elastic/plan/evaluate.h"
#include "elastic/plan/sweep.h"

namespace elaswave::app {

/// Whether times mean anything: costs were measured or a rate was given.
enum class Times { known, unknown };

/// Bytes of a rank; 0: none. The host's, or all there is, and the GPU's.
struct MemoryLimits {
  double host = 0, gpu = 0;
};

struct PlanSubject {
  const RunSpec& spec;
  const plan::HealthyRequest& request;
  const plan::Evaluation& evaluation;
  Times times = Times::unknown;
  MemoryLimits limits;
};

/// Layout, memory, time, traffic, schedule; lines end with '\n'.
std::string plan_report(const PlanSubject& subject);

/// The fastest `top` of those that fit, and as many of those that do not, with why.
std::string sweep_report(const plan::SweepRequest& request, const plan::Sweep& sweep,
                         std::int64_t top, Times times);

/// What a picture shows: of equal pipelines the first, else everything.
layout::Plan pictured(const layout::Plan& plan);

/// The plan's Gantt chart as SVG.
std::string plan_picture(const PlanSubject& subject);

/// Code::does_not_fit naming the worst rank and its largest term, when there is a limit it breaks.
Result<void> check_fits(const PlanSubject& subject);

}  // namespace elaswave::app
