#include "parallel/pipeline/gantt.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "io/base/error.h"
#include "parallel/pipeline/lowering.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;

// Geometry of the SVG in pixels.
constexpr double kLabels = 150, kChart = 1100, kMargin = 16;
constexpr double kRowHeight = 24, kBoxHeight = 20;
constexpr double kTop = 76;          // title, legend
constexpr double kDigit = 6.2;       // width of a digit in a box
constexpr std::int64_t kTicks = 12;  // at most about so many

struct Style {
  Op op;
  const char* name;
  const char* light;  // first chunk of a stage
  const char* dark;   // last
};
constexpr std::array<Style, 5> kStyles = {{
    {Op::forward, "forward", "#9cc3ee", "#2f6fb3"},
    {Op::backward, "backward", "#f5b88a", "#c8641b"},
    {Op::input_gradient, "input gradient", "#f3a9b5", "#bb3a55"},
    {Op::weight_gradient, "weight gradient", "#a9d8a4", "#3f8a3b"},
    {Op::recompute, "recompute", "#cfcfd6", "#7a7a86"},
}};

const Style& style_of(Op op) {
  return kStyles[static_cast<std::size_t>(op)];
}

/// "#rrggbb" between two such colours; `share` in [0, 1].
std::string mix(std::string_view light, std::string_view dark, double share) {
  std::string colour = "#";
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const auto part = [channel](std::string_view text) {
      return std::stoi(std::string(text.substr(1 + 2 * channel, 2)), nullptr, 16);
    };
    const double value = part(light) + share * (part(dark) - part(light));
    colour += fmt::format("{:02x}", std::lround(value));
  }
  return colour;
}

std::string escape(std::string_view text) {
  std::string escaped;
  for (const char character : text) {
    switch (character) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:  // XML knows no control characters
        escaped += static_cast<unsigned char>(character) < 0x20 ? ' ' : character;
    }
  }
  return escaped;
}

struct Unit {
  std::int64_t ns;
  const char* name;
};

/// The largest unit in which a time of `ns` is 1 or more.
Unit unit_of(std::int64_t ns) {
  constexpr std::array<Unit, 4> units = {
      {{1'000'000'000, "s"}, {1'000'000, "ms"}, {1'000, "us"}, {1, "ns"}}};
  for (const Unit& unit : units)
    if (ns >= unit.ns) return unit;
  return units.back();
}

std::string time_text(std::int64_t ns) {
  const Unit unit = unit_of(ns);
  return fmt::format("{:.4g} {}", static_cast<double>(ns) / static_cast<double>(unit.ns),
                     unit.name);
}

/// 1, 2 or 5 times a power of ten, so that `makespan` holds at most kTicks.
std::int64_t tick_of(std::int64_t makespan) {
  std::int64_t power = 1;
  while (makespan / power >= 10 * kTicks) power *= 10;
  for (const std::int64_t factor : {1, 2, 5})
    if (makespan / (factor * power) <= kTicks) return factor * power;
  return 10 * power;
}

double idle_percent(const Timing& timing) {
  double busy = 0, all = 0;
  for (std::size_t row = 0; row < timing.begin.size(); ++row) {
    for (std::size_t index = 0; index < timing.begin[row].size(); ++index)
      busy += static_cast<double>(timing.end[row][index] - timing.begin[row][index]);
    all += static_cast<double>(timing.makespan);
  }
  return all > 0 ? 100 * (1 - busy / all) : 0;
}

std::string summary(const Timing& timing) {
  return fmt::format("step {}, bubble {:.1f} %", time_text(timing.makespan), idle_percent(timing));
}

void check_timing(const Plan& plan, const Timing& timing) {
  EW_CHECK(timing.begin.size() == plan.schedule.size() && timing.end.size() == plan.schedule.size(),
           "{} rows of the plan, times of {} and {}", plan.schedule.size(), timing.begin.size(),
           timing.end.size());
  for (std::size_t row = 0; row < plan.schedule.size(); ++row) {
    const std::size_t length = plan.schedule[row].size();
    EW_CHECK(timing.begin[row].size() == length && timing.end[row].size() == length,
             "row {}: {} actions, times of {} and {}", row, length, timing.begin[row].size(),
             timing.end[row].size());
    for (std::size_t index = 0; index < length; ++index)
      EW_CHECK(timing.begin[row][index] >= 0 &&
                   timing.begin[row][index] <= timing.end[row][index] &&
                   timing.end[row][index] <= timing.makespan,
               "row {}: action {} from {} to {} of {}", row, index, timing.begin[row][index],
               timing.end[row][index], timing.makespan);
  }
}

struct Label {
  std::int32_t stage, replica;
};

/// Of the rows drawn.
std::vector<Label> labels_of(const Plan& plan) {
  std::vector<Label> labels;
  for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
      if (labels.size() < kGanttRows) labels.push_back({stage, replica});
  return labels;
}

/// Empty when all rows are drawn.
std::string note_of(const Plan& plan) {
  if (plan.schedule.size() <= kGanttRows) return {};
  return fmt::format("{} more rows are not shown", plan.schedule.size() - kGanttRows);
}

class Svg {
 public:
  Svg(const Plan& plan, const Timing& timing)
      : plan_(plan), timing_(timing), labels_(labels_of(plan)), shades_(shades_of(plan)) {}

  std::string draw(std::string_view title) {
    const double bottom = kTop + kRowHeight * static_cast<double>(labels_.size());
    const std::string note = note_of(plan_);
    const double width = kLabels + kChart + 2 * kMargin, height = bottom + (note.empty() ? 36 : 54);
    add("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
        "width=\"{0:.0f}\" height=\"{1:.0f}\" font-family=\"system-ui, sans-serif\" "
        "font-size=\"12\" fill=\"#222\">\n",
        width, height);
    add("<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n", escape(title));
    add("<text x=\"{}\" y=\"26\" font-size=\"16\" font-weight=\"600\">{}</text>\n", kMargin,
        escape(title));
    add("<text x=\"{}\" y=\"26\" text-anchor=\"end\">{}</text>\n", width - kMargin,
        summary(timing_));
    add_legend();
    add_axis(bottom);
    for (std::size_t row = 0; row < labels_.size(); ++row) add_row(row);
    if (!note.empty())
      add("<text x=\"{}\" y=\"{:.0f}\" fill=\"#777\">{}</text>\n", kMargin, bottom + 42, note);
    return std::move(text_) + "</svg>\n";
  }

 private:
  template <typename... Parts>
  void add(fmt::format_string<Parts...> format, Parts&&... parts) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Parts>(parts)...);
  }

  /// 0 for the first chunk of a stage to 1 for its last.
  static std::vector<double> shades_of(const Plan& plan) {
    std::vector<double> shades(plan.stage_of_chunk.size(), 0);
    for (std::int32_t stage = 0; stage < static_cast<std::int32_t>(plan.stages.size()); ++stage) {
      const std::vector<std::int32_t> chunks = layout::chunks_of_stage(plan, stage);
      for (std::size_t turn = 1; turn < chunks.size(); ++turn)
        shades[index_of(chunks[turn])] =
            static_cast<double>(turn) / static_cast<double>(chunks.size() - 1);
    }
    return shades;
  }

  double x_of(std::int64_t ns) const {
    const auto makespan = static_cast<double>(std::max<std::int64_t>(1, timing_.makespan));
    return kMargin + kLabels + kChart * static_cast<double>(ns) / makespan;
  }

  bool drawn(Op op) const {
    for (std::size_t row = 0; row < labels_.size(); ++row)
      for (const Action& action : plan_.schedule[row])
        if (action.op == op) return true;
    return false;
  }

  void add_legend() {
    const bool several =
        std::any_of(shades_.begin(), shades_.end(), [](double shade) { return shade > 0; });
    double x = kMargin + kLabels;
    for (const Style& style : kStyles) {
      if (!drawn(style.op)) continue;
      add("<rect x=\"{0:.1f}\" y=\"40\" width=\"18\" height=\"12\" fill=\"{1}\"/>", x, style.light);
      if (several)
        add("<rect x=\"{0:.1f}\" y=\"40\" width=\"9\" height=\"12\" fill=\"{1}\"/>", x + 9,
            style.dark);
      add("<text x=\"{0:.1f}\" y=\"50\">{1}</text>\n", x + 24, style.name);
      x += 48 + 6.4 * static_cast<double>(std::string_view(style.name).size());
    }
    add("<text x=\"{:.1f}\" y=\"50\" fill=\"#777\">numbers: micro-batch{}</text>\n", x,
        several ? "; the darker, the later the chunk of its stage" : "");
  }

  void add_axis(double bottom) {
    const std::int64_t tick = tick_of(timing_.makespan);
    const Unit unit = unit_of(timing_.makespan);
    for (std::int64_t ns = 0; ns <= timing_.makespan; ns += tick) {
      add("<line x1=\"{0:.2f}\" y1=\"{1}\" x2=\"{0:.2f}\" y2=\"{2:.0f}\" stroke=\"#e3e3e3\"/>"
          "<text x=\"{0:.2f}\" y=\"{3:.0f}\" text-anchor=\"middle\" "
          "fill=\"#555\">{4:.6g}{5}</text>\n",
          x_of(ns), kTop - 6, bottom + 4, bottom + 20,
          static_cast<double>(ns) / static_cast<double>(unit.ns),
          ns == 0 ? fmt::format(" {}", unit.name) : "");
    }
  }

  void add_row(std::size_t row) {
    const double y = kTop + kRowHeight * static_cast<double>(row);
    const Label& label = labels_[row];
    add("<text x=\"{}\" y=\"{:.0f}\">stage {} \u00b7 replica {}</text>\n", kMargin, y + 14,
        label.stage, label.replica);
    add("<line x1=\"{0:.0f}\" y1=\"{2:.0f}\" x2=\"{1:.0f}\" y2=\"{2:.0f}\" stroke=\"#ccc\"/>\n",
        kMargin + kLabels, kMargin + kLabels + kChart, y + kBoxHeight / 2);
    for (std::size_t index = 0; index < plan_.schedule[row].size(); ++index)
      add_box(plan_.schedule[row][index], timing_.begin[row][index], timing_.end[row][index], y);
  }

  void add_box(const Action& action, std::int64_t begin, std::int64_t end, double y) {
    const Style& style = style_of(action.op);
    const double shade = shades_[index_of(action.chunk)];
    const double x = x_of(begin), width = x_of(end) - x;
    // A thin edge keeps neighbours apart; on slivers it would be all there is.
    add("<g><title>{}: {} of micro-batch {}, chunk {}\nfrom {} to {} ({})</title>"
        "<rect class=\"action\" x=\"{:.3f}\" y=\"{:.0f}\" width=\"{:.3f}\" height=\"{:.0f}\" "
        "fill=\"{}\"{}/>",
        layout::to_text(action), style.name, action.micro_batch, action.chunk, time_text(begin),
        time_text(end), time_text(end - begin), x, y, width, kBoxHeight,
        mix(style.light, style.dark, shade),
        width >= 3 ? " stroke=\"#fff\" stroke-width=\"0.6\"" : "");
    const std::string number = fmt::format("{}", action.micro_batch);
    if (width >= kDigit * static_cast<double>(number.size()) + 3)
      add("<text x=\"{:.2f}\" y=\"{:.0f}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{}\" "
          "pointer-events=\"none\">{}</text>",
          x + width / 2, y + 14, shade > 0.5 ? "#fff" : "#222", number);
    add("</g>\n");
  }

  const Plan& plan_;
  const Timing& timing_;
  std::vector<Label> labels_;
  std::vector<double> shades_;  // of each chunk
  std::string text_;
};

}  // namespace

std::string gantt_text(const Plan& plan, const Timing& timing, std::int32_t width) {
  EW_CHECK(width > 0, "width {}", width);
  check_timing(plan, timing);
  const std::int64_t makespan = std::max<std::int64_t>(1, timing.makespan);
  const auto column_of = [&](std::int64_t ns) { return index_of(ns * width / makespan); };
  std::string text = summary(timing) + "\n";
  const std::vector<Label> labels = labels_of(plan);
  for (std::size_t row = 0; row < labels.size(); ++row) {
    std::string line(index_of(width), ' ');
    for (std::size_t index = 0; index < plan.schedule[row].size(); ++index) {
      const Action& action = plan.schedule[row][index];
      const std::size_t begin = column_of(timing.begin[row][index]);
      const std::size_t length = column_of(timing.end[row][index]) - begin;
      std::string cell = fmt::format("{}{}", layout::letter(action.op), action.micro_batch);
      if (cell.size() > length) cell.resize(1);  // rather no number than half of one
      cell.resize(length, '-');
      line.replace(begin, length, cell);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += fmt::format("stage {:>2} replica {:>2} |{}\n", labels[row].stage, labels[row].replica,
                        line);
  }
  if (const std::string note = note_of(plan); !note.empty()) text += note + "\n";
  return text;
}

std::string gantt_svg(const Plan& plan, const Timing& timing, std::string_view title) {
  check_timing(plan, timing);
  return Svg(plan, timing).draw(title);
}

}  // namespace elaswave::pipeline
