#include <fmt/format.h>

#include <algorithm>

#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {
namespace {

using layout::Plan;
using layout::Row;

constexpr std::size_t kRowsAround = 2;     // shown on each side of the fault
constexpr std::size_t kColumnsBefore = 5;  // shown before it
constexpr std::size_t kColumns = 11;

struct Window {
  std::size_t row_begin = 0, row_end = 0;
  std::size_t column_begin = 0, column_end = 0;
};

Window window_around(const Plan& plan, const ScheduleFault& fault) {
  Window window;
  window.row_begin = fault.row - std::min(fault.row, kRowsAround);
  window.row_end = std::min(plan.schedule.size(), fault.row + kRowsAround + 1);
  window.column_begin = fault.column - std::min(fault.column, kColumnsBefore);
  window.column_end = window.column_begin + kColumns;
  return window;
}

/// "stage 1, replica 0" of every row in the window.
std::vector<std::string> labels_of(const Plan& plan, const Window& window) {
  std::vector<std::string> labels;
  std::size_t row = 0;
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage)
    for (std::size_t replica = 0; replica < plan.stages[stage].replicas.size(); ++replica, ++row)
      if (row >= window.row_begin && row < window.row_end)
        labels.push_back(fmt::format("stage {}, replica {}", stage, replica));
  labels.resize(window.row_end - window.row_begin);
  return labels;
}

std::string cell_text(const Row& row, std::size_t column, bool marked) {
  if (marked)
    return fmt::format("[{}]", column < row.size() ? layout::to_text(row[column]) : "end");
  return column < row.size() ? fmt::format(" {} ", layout::to_text(row[column])) : std::string();
}

std::size_t cell_width(const Plan& plan, const Window& window) {
  std::size_t width = 5;  // of "[end]"
  for (std::size_t row = window.row_begin; row < window.row_end; ++row)
    for (std::size_t column = window.column_begin; column < window.column_end; ++column)
      width = std::max(width, cell_text(plan.schedule[row], column, false).size());
  return width;
}

}  // namespace

std::string fault_text(const Plan& plan, const ScheduleFault& fault) {
  if (fault.what.empty()) return {};
  if (fault.row >= plan.schedule.size()) return fault.what + "\n";
  const Window window = window_around(plan, fault);
  const std::vector<std::string> labels = labels_of(plan, window);
  std::size_t label_width = 0;
  for (const std::string& label : labels) label_width = std::max(label_width, label.size());
  const std::size_t width = cell_width(plan, window);
  std::string text = fmt::format("{}, column {}: {}\n", labels[fault.row - window.row_begin],
                                 fault.column, fault.what);
  for (std::size_t row = window.row_begin; row < window.row_end; ++row) {
    const Row& actions = plan.schedule[row];
    std::string line =
        fmt::format("{} {:<{}} |{}", row == fault.row ? '>' : ' ', labels[row - window.row_begin],
                    label_width, window.column_begin > 0 ? " .." : "");
    for (std::size_t column = window.column_begin; column < window.column_end; ++column)
      line += fmt::format(
          "{:<{}}", cell_text(actions, column, row == fault.row && column == fault.column), width);
    if (actions.size() > window.column_end) line += "..";
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace elaswave::pipeline
