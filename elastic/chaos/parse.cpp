// "rank=3,step=5,point=after_log,at=2": faults read from text.
#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "elastic/chaos/faults.h"

namespace elaswave::chaos {
namespace {

// World ranks, steps and hits are written with at most so many digits: sums cannot overflow.
constexpr std::int64_t kLargest = 1'000'000'000'000;

std::string_view trim(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.push_back(trim(text.substr(0, end)));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string points_text() {
  std::string text;
  for (std::size_t i = 0; i < static_cast<std::size_t>(Point::count); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ", ", name(static_cast<Point>(i)));
  return text;
}

std::string_view example(std::string_view option) {
  constexpr std::pair<std::string_view, std::string_view> kExamples[] = {
      {"kill", "chaos.kill=rank=3,step=5,point=after_log"},
      {"stop", "chaos.stop=rank=any,seed=7,step=5"},
      {"exit", "chaos.exit=ranks=1+2,step=5,code=70"},
      {"hang", "chaos.hang=rank=3,step=5,point=after_forward"},
      {"slow", "chaos.slow=rank=3,step=5,factor=2.5,until=9"},
      {"cut", "chaos.cut=a=0+1,b=2+3,step=5,ms=500"},
      {"corrupt", "chaos.corrupt=what=copy,domain=node1,step=5"},
      {"random", "chaos.random=seed=1,rate=0.01,kinds=kill+stop"}};
  for (const auto& [key, text] : kExamples)
    if (key == option) return text;
  return "";
}

/// The fields of one fault; every one must be asked for.
class Fields {
 public:
  Fields(std::string_view option, std::string_view text) : option_(option), text_(text) {}

  Result<void> read() {
    for (const std::string_view part : split(text_, ',')) {
      const std::size_t equal = part.find('=');
      if (equal == part.npos || equal == 0 || equal + 1 == part.size())
        return bad(fmt::format("\"{}\" is not of the form name=value", part));
      const std::string_view key = trim(part.substr(0, equal));
      if (find(key) != nullptr) return bad(fmt::format("{} is given twice", key));
      fields_.push_back({key, trim(part.substr(equal + 1)), Use::unused});
    }
    return {};
  }

  tl::unexpected<Error> bad(std::string why, std::string fix = {}) const {
    if (fix.empty()) fix = fmt::format("write it like {}", example(option_));
    return fail({.code = Code::usage,
                 .what = "a fault cannot be understood",
                 .where = fmt::format("chaos.{}={}", option_, text_),
                 .why = std::move(why),
                 .fix = std::move(fix)});
  }

  std::optional<std::string_view> take(std::string_view key) {
    Field* field = find(key);
    if (field == nullptr) return std::nullopt;
    field->use = Use::used;
    return field->value;
  }

  Result<std::optional<std::int64_t>> integer(std::string_view key, std::int64_t low,
                                              std::int64_t high = kLargest) {
    const auto text = take(key);
    if (!text) return std::nullopt;
    EW_ASSIGN(const std::int64_t value, number(key, *text, low, high));
    return value;
  }

  Result<std::int64_t> number(std::string_view key, std::string_view text, std::int64_t low,
                              std::int64_t high) const {
    std::int64_t value = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size() || value < low || value > high)
      return bad(fmt::format("{}={}: not an integer from {} to {}", key, text, low, high));
    return value;
  }

  Result<std::optional<double>> real(std::string_view key, double low, double high) {
    const auto text = take(key);
    if (!text) return std::nullopt;
    double value = 0;
    const auto [end, problem] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (problem != std::errc() || end != text->data() + text->size() ||
        !(value >= low && value <= high))
      return bad(fmt::format("{}={}: not a number from {} to {}", key, *text, low, high));
    return value;
  }

  Result<std::vector<std::int32_t>> ranks(std::string_view key, std::string_view text) const {
    std::vector<std::int32_t> ranks;
    for (const std::string_view part : split(text, '+')) {
      EW_ASSIGN(const std::int64_t rank, number(key, part, 0, INT32_MAX));
      ranks.push_back(static_cast<std::int32_t>(rank));
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    return ranks;
  }

  Result<void> nothing_left() const {
    for (const Field& field : fields_)
      if (field.use == Use::unused)
        return bad(fmt::format("{} means nothing to chaos.{}", field.key, option_));
    return {};
  }

 private:
  enum class Use : std::uint8_t { unused, used };
  struct Field {
    std::string_view key, value;
    Use use = Use::unused;
  };
  Field* find(std::string_view key) {
    const auto found = std::find_if(fields_.begin(), fields_.end(),
                                    [&](const Field& field) { return field.key == key; });
    return found == fields_.end() ? nullptr : &*found;
  }

  std::string_view option_, text_;
  std::vector<Field> fields_;
};

Result<void> read_who(Fields& fields, Who& who) {
  const auto rank = fields.take("rank"), ranks = fields.take("ranks"),
             domain = fields.take("domain");
  if (rank.has_value() + ranks.has_value() + domain.has_value() != 1)
    return fields.bad("it must say whom it hits, once: rank=3, ranks=1+2, domain=NAME or rank=any");
  if (domain) {
    who.set = Who::Set::domain;
    who.domain = *domain;
  } else if (rank == "any") {
    who.set = Who::Set::any;
    EW_ASSIGN(const auto seed, fields.integer("seed", 0));
    who.seed = static_cast<std::uint64_t>(seed.value_or(1));
  } else if (rank) {
    EW_ASSIGN(const std::int64_t one, fields.number("rank", *rank, 0, INT32_MAX));
    who.ranks = {static_cast<std::int32_t>(one)};
  } else {
    EW_ASSIGN(who.ranks, fields.ranks("ranks", *ranks));
  }
  return {};
}

Result<void> read_when(Fields& fields, Fault& fault) {
  const auto text = fields.take("step");
  if (!text) return fields.bad("it does not say when: step=5, or step=any");
  if (*text == "any") return {};
  EW_ASSIGN(const std::int64_t step, fields.number("step", *text, 1, kLargest));
  fault.step = Step{step};
  return {};
}

Result<void> read_point(Fields& fields, Fault& fault) {
  EW_ASSIGN(const auto at, fields.integer("at", 1));
  fault.at = at.value_or(1);
  const auto text = fields.take("point");
  if (!text) return {};
  for (std::size_t i = 0; i < static_cast<std::size_t>(Point::count); ++i)
    if (name(static_cast<Point>(i)) == *text) {
      fault.point = static_cast<Point>(i);
      return {};
    }
  return fields.bad(fmt::format("there is no point \"{}\"", *text),
                    fmt::format("one of {}", points_text()));
}

Result<void> read_until(Fields& fields, Fault& fault) {
  EW_ASSIGN(const auto until, fields.integer("until", 1));
  if (!until) return {};
  fault.until = Step{*until};
  if (fault.step && *fault.until < *fault.step)
    return fields.bad(fmt::format("it ends at step {}, before it begins", *until));
  return {};
}

Result<void> read_cut(Fields& fields, Fault& fault) {
  const auto a = fields.take("a"), b = fields.take("b");
  if (!a || !b) return fields.bad("it must name the ranks of both sides: a=0+1,b=2+3");
  EW_ASSIGN(fault.who.ranks, fields.ranks("a", *a));
  EW_ASSIGN(fault.far, fields.ranks("b", *b));
  for (const std::int32_t rank : fault.far)
    if (std::binary_search(fault.who.ranks.begin(), fault.who.ranks.end(), rank))
      return fields.bad(fmt::format("rank {} is on both sides", rank));
  EW_ASSIGN(fault.lasts_ms, fields.integer("ms", 1));
  return {};
}

Result<void> read_target(Fields& fields, Fault& fault) {
  const auto what = fields.take("what");
  if (what == "copy")
    fault.target = Target::copy;
  else if (what != "message")
    return fields.bad("it must say what is spoiled: what=message or what=copy");
  EW_ASSIGN(const auto at, fields.integer("at", 1));
  fault.at = at.value_or(1);
  return {};
}

Result<void> read_own(Kind kind, Fields& fields, Fault& fault) {
  switch (kind) {
    case Kind::kill:
    case Kind::stop:
    case Kind::hang:
      return read_point(fields, fault);
    case Kind::exit: {
      EW_ASSIGN(const auto code, fields.integer("code", 0, 255));
      fault.code = static_cast<int>(code.value_or(fault.code));
      return read_point(fields, fault);
    }
    case Kind::slow: {
      EW_ASSIGN(const auto factor, fields.real("factor", 1, 1e6));
      if (!factor) return fields.bad("it does not say how slow: factor=2.5");
      fault.factor = *factor;
      return read_until(fields, fault);
    }
    case Kind::cut:
      EW_TRY(read_cut(fields, fault));
      return read_until(fields, fault);
    case Kind::corrupt:
      break;
  }
  return read_target(fields, fault);
}

Result<Fault> parse_fault(Kind kind, std::string_view text) {
  Fields fields(name(kind), text);
  EW_TRY(fields.read());
  Fault fault;
  fault.kind = kind;
  fault.text = text;
  if (kind != Kind::cut) EW_TRY(read_who(fields, fault.who));
  EW_TRY(read_when(fields, fault));
  EW_TRY(read_own(kind, fields, fault));
  EW_TRY(fields.nothing_left());
  return fault;
}

}  // namespace

Result<std::vector<Fault>> parse_faults(Kind kind, const std::vector<std::string>& texts) {
  std::vector<Fault> faults;
  for (const std::string& text : texts)
    for (const std::string_view one : split(text, ';')) {
      EW_ASSIGN(Fault fault, parse_fault(kind, one));
      faults.push_back(std::move(fault));
    }
  return faults;
}

Result<RandomFaults> parse_random(const std::string& text) {
  Fields fields("random", text);
  EW_TRY(fields.read());
  RandomFaults random;
  EW_ASSIGN(const auto seed, fields.integer("seed", 0));
  random.seed = static_cast<std::uint64_t>(seed.value_or(1));
  EW_ASSIGN(const auto rate, fields.real("rate", 0, 1));
  if (!rate) return fields.bad("it does not say how often: rate=0.01 for each rank and step");
  random.rate = *rate;
  if (const auto kinds = fields.take("kinds")) {
    random.kinds.clear();
    for (const std::string_view one : split(*kinds, '+')) {
      constexpr std::array kAllowed = {Kind::kill, Kind::stop, Kind::exit};
      const auto found = std::find_if(kAllowed.begin(), kAllowed.end(),
                                      [&](Kind kind) { return name(kind) == one; });
      if (found == kAllowed.end())
        return fields.bad(fmt::format("\"{}\" is none of kill, stop, exit", one));
      random.kinds.push_back(*found);
    }
  }
  EW_TRY(fields.nothing_left());
  return random;
}

}  // namespace elaswave::chaos
