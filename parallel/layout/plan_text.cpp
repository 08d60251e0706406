#include "parallel/layout/plan_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <type_traits>

namespace elaswave::layout {
namespace {

constexpr std::string_view kHeading = "elaswave plan 2";
// Owners of a model of 2 x 10^12 parameters. Without a bound a damaged count asks for any memory.
constexpr std::int64_t kMostValues = std::int64_t{1} << 27;

// A backup that there is nobody for.
constexpr std::int32_t kNobody = -1;
constexpr std::string_view kNobodyText = "none";

using Numbers = std::vector<std::int32_t>;

std::string heading_of_stage(std::size_t stage) {
  return fmt::format("stage {}", stage);
}

/// Length of the run of consecutive numbers from `begin` on.
std::size_t ascending_run(const Numbers& numbers, std::size_t begin) {
  std::size_t end = begin + 1;
  if (numbers[begin] == kNobody) return 1;  // `none` begins no range
  while (end < numbers.size() && numbers[end] == std::int64_t{numbers[end - 1]} + 1) ++end;
  return end - begin;
}

/// How often the `length` numbers from `begin` on are there one after another.
std::size_t repeats(const Numbers& numbers, std::size_t begin, std::size_t length) {
  std::size_t count = 1;
  const auto at = [&](std::size_t index) {
    return numbers.begin() + static_cast<std::ptrdiff_t>(index);
  };
  while (begin + (count + 1) * length <= numbers.size() &&
         std::equal(at(begin), at(begin + length), at(begin + count * length)))
    ++count;
  return count;
}

/// Every item with a space before it.
std::string sequence_text(const Numbers& numbers) {
  std::string text;
  for (std::size_t begin = 0; begin < numbers.size();) {
    const std::size_t length = ascending_run(numbers, begin);
    const std::size_t count = repeats(numbers, begin, length);
    text += numbers[begin] == kNobody ? fmt::format(" {}", kNobodyText)
                                      : fmt::format(" {}", numbers[begin]);
    if (length > 1) text += fmt::format("-{}", numbers[begin + length - 1]);
    if (count > 1) text += fmt::format("*{}", count);
    begin += length * count;
  }
  return text;
}

/// Takes a number without sign or leading zeros off the front of `text`.
template <typename Number>
bool take_number(std::string_view& text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const auto length = static_cast<std::size_t>(end - text.data());
  if (error != std::errc() || text.front() == '-') return false;
  if (length > 1 && text.front() == '0') return false;
  text.remove_prefix(length);
  return true;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

class PlanReader {
 public:
  explicit PlanReader(std::string_view text) : rest_(text) {}

  Result<Plan> read() {
    EW_TRY(read_heading());
    std::vector<Numbers> routes;
    while (rest_.starts_with("stage ")) EW_TRY(read_stage(routes.emplace_back()));
    lay_out(routes);
    EW_TRY(read_rows());
    EW_TRY(next_line());
    EW_TRY(read_sequence("owner", plan_.owner));
    EW_TRY(read_copies());
    EW_TRY(next_line());
    if (line_ != "end" || !rest_.empty()) return wrong("the plan's end is expected");
    return std::move(plan_);
  }

 private:
  tl::unexpected<Error> wrong(std::string why) const {
    return fail({.code = Code::corrupt,
                 .what = "this is not a plan",
                 .where = fmt::format("line {}", line_number_),
                 .why = std::move(why),
                 .fix = "take the text as it was printed"});
  }

  Result<void> next_line() {
    ++line_number_;
    const std::size_t end = rest_.find('\n');
    if (end == std::string_view::npos) return wrong("the text ends too early");
    line_ = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return {};
  }

  template <typename Number>
  Result<void> read_number(std::string_view key, Number& number) {
    EW_TRY(next_line());
    std::string_view line = line_;
    if (!take(line, key) || !take(line, " ") || line.empty() || !take_number(line, number) ||
        !line.empty())
      return wrong(fmt::format("'{} NUMBER' is expected", key));
    return {};
  }

  /// The rest of `line_` after `key`.
  Result<void> read_sequence(std::string_view key, Numbers& numbers) {
    std::string_view line = line_;
    if (!take(line, key)) return wrong(fmt::format("'{} NUMBERS' is expected", key));
    while (!line.empty()) {
      if (!take(line, " ")) return wrong("numbers are separated by single spaces");
      EW_TRY(read_item(line, numbers));
    }
    return {};
  }

  Result<void> read_item(std::string_view& line, Numbers& numbers) {
    std::int32_t first = 0, last = 0;
    std::int64_t count = 1;
    const bool nobody = take(line, kNobodyText);
    if (nobody)
      first = kNobody;
    else if (line.empty() || !take_number(line, first))
      return wrong("a number is expected");
    last = first;
    if (!nobody && take(line, "-") && (line.empty() || !take_number(line, last) || last <= first))
      return wrong("a range goes up: 2-4");
    if (take(line, "*") && (line.empty() || !take_number(line, count) || count < 2))
      return wrong("a repetition is two or more: 7*2");
    const std::int64_t length = std::int64_t{last} - first + 1;
    if (length > kMostValues || count > kMostValues || length * count > kMostValues - values_)
      return wrong(fmt::format("a plan has no more than {} numbers", kMostValues));
    values_ += length * count;
    for (std::int64_t time = 0; time < count; ++time)
      for (std::int64_t value = first; value <= last; ++value)
        numbers.push_back(static_cast<std::int32_t>(value));
    return {};
  }

  Result<void> read_heading() {
    EW_TRY(next_line());
    if (line_ != kHeading) return wrong(fmt::format("'{}' is expected", kHeading));
    std::underlying_type_t<Generation> generation = 0;
    EW_TRY(read_number("generation", generation));
    plan_.generation = Generation{generation};
    EW_TRY(read_number("id", plan_.id));
    EW_TRY(read_number("tensor_degree", plan_.tensor_degree));
    EW_TRY(read_number("micro_batches", plan_.micro_batches));
    EW_TRY(next_line());
    EW_TRY(read_sequence("chunk_of_layer", plan_.chunk_of_layer));
    EW_TRY(next_line());
    return read_sequence("stage_of_chunk", plan_.stage_of_chunk);
  }

  Result<void> read_stage(Numbers& route) {
    const std::size_t index = plan_.stages.size();
    EW_TRY(next_line());
    if (line_ != heading_of_stage(index))
      return wrong(fmt::format("'{}' is expected", heading_of_stage(index)));
    Stage stage;
    EW_TRY(next_line());
    while (line_.starts_with("replica ")) {
      Replica replica;
      const std::string key = fmt::format("replica {}.{} ranks", index, stage.replicas.size());
      EW_TRY(read_sequence(key, replica.world_ranks));
      stage.replicas.push_back(std::move(replica));
      EW_TRY(next_line());
    }
    plan_.stages.push_back(std::move(stage));
    EW_TRY(read_sequence("route", route));
    if (static_cast<std::int64_t>(route.size()) != plan_.micro_batches)
      return wrong(
          fmt::format("{} routes for {} micro-batches", route.size(), plan_.micro_batches));
    return {};
  }

  Result<void> read_copies() {
    EW_TRY(read_number("copies", plan_.copies));
    EW_TRY(next_line());
    EW_TRY(read_sequence("backup", plan_.backup));
    EW_TRY(next_line());
    return read_sequence("spares", plan_.spares);
  }

  /// Routes by stage become routes by micro-batch.
  void lay_out(const std::vector<Numbers>& routes) {
    if (routes.empty()) return;
    plan_.route.resize(routes.size() * routes.front().size());
    for (std::size_t stage = 0; stage < routes.size(); ++stage)
      for (std::size_t micro_batch = 0; micro_batch < routes[stage].size(); ++micro_batch)
        plan_.route[micro_batch * routes.size() + stage] = routes[stage][micro_batch];
  }

  Result<void> read_rows() {
    for (std::size_t stage = 0; stage < plan_.stages.size(); ++stage)
      for (std::size_t replica = 0; replica < plan_.stages[stage].replicas.size(); ++replica) {
        EW_TRY(next_line());
        std::string_view line = line_;
        const std::string key = fmt::format("row {}.{}", stage, replica);
        if (!take(line, key) || (!line.empty() && !take(line, " ")))
          return wrong(fmt::format("'{} ACTIONS' is expected", key));
        auto row = parse_row(line);
        if (!row) return wrong(row.error().what);
        plan_.schedule.push_back(*std::move(row));
      }
    return {};
  }

  std::string_view rest_, line_;
  std::int64_t line_number_ = 0, values_ = 0;
  Plan plan_;
};

/// Number of the first line in which the texts differ.
std::int64_t first_difference(std::string_view a, std::string_view b) {
  const auto at = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  return 1 + std::count(a.begin(), at, '\n');
}

}  // namespace

std::string to_text(const Plan& plan) {
  std::string text = fmt::format(
      "{}\ngeneration {}\nid {}\ntensor_degree {}\nmicro_batches {}\nchunk_of_layer{}\n"
      "stage_of_chunk{}\n",
      kHeading, raw(plan.generation), plan.id, plan.tensor_degree, plan.micro_batches,
      sequence_text(plan.chunk_of_layer), sequence_text(plan.stage_of_chunk));
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage) {
    text += heading_of_stage(stage) + '\n';
    const auto& replicas = plan.stages[stage].replicas;
    for (std::size_t replica = 0; replica < replicas.size(); ++replica)
      text += fmt::format("replica {}.{} ranks{}\n", stage, replica,
                          sequence_text(replicas[replica].world_ranks));
    Numbers route(static_cast<std::size_t>(plan.micro_batches));
    for (std::size_t micro_batch = 0; micro_batch < route.size(); ++micro_batch)
      route[micro_batch] = plan.route[micro_batch * plan.stages.size() + stage];
    text += fmt::format("route{}\n", sequence_text(route));
  }
  auto row = plan.schedule.begin();
  for (std::size_t stage = 0; stage < plan.stages.size(); ++stage)
    for (std::size_t replica = 0; replica < plan.stages[stage].replicas.size(); ++replica, ++row)
      text +=
          fmt::format("row {}.{}{}{}\n", stage, replica, row->empty() ? "" : " ", to_text(*row));
  text += fmt::format("owner{}\ncopies {}\nbackup{}\nspares{}\nend\n", sequence_text(plan.owner),
                      plan.copies, sequence_text(plan.backup), sequence_text(plan.spares));
  return text;
}

Result<Plan> parse_plan(std::string_view text) {
  PlanReader reader(text);
  EW_ASSIGN(Plan plan, reader.read());
  // A plan has one text, so that texts can be compared: anything else that reads the same (runs
  // coded in another way) is refused.
  if (const std::string again = to_text(plan); again != text)
    return fail({.code = Code::corrupt,
                 .what = "this is not a plan as it is printed",
                 .where = fmt::format("line {}", first_difference(text, again)),
                 .why = "a sequence is coded in another way than the longest runs first",
                 .fix = "take the text as it was printed"});
  return plan;
}

}  // namespace elaswave::layout
