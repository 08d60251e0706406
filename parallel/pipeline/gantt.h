// A step as a picture: what every replica does when. For schedules predicted and measured alike.
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "parallel/layout/plan.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {

/// Rows drawn at most; a note says how many are left out.
inline constexpr std::size_t kGanttRows = 64;

/// One line a replica, `width` characters for the makespan: each action is its letter, its
/// micro-batch when that fits, then dashes; idle time is blank. Actions shorter than a character
/// may be left out. REQUIRES: `timing` has a begin and an end for every action of the plan, within
/// [0, makespan]; width > 0.
std::string gantt_text(const layout::Plan& plan, const Timing& timing, std::int32_t width);

/// A self-contained SVG document: one row a replica, boxes coloured by what is done and shaded by
/// chunk, a time axis, a legend, tooltips. `title` is plain text. REQUIRES: as gantt_text().
std::string gantt_svg(const layout::Plan& plan, const Timing& timing, std::string_view title);

}  // namespace elaswave::pipeline
