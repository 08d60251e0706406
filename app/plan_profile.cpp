#include "app/plan_profile.h"

#include <fmt/format.h>

#include <toml++/toml.h>
#include <array>
#include <cmath>
#include <vector>

#include "app/text.h"
#include "app/toml_guard.h"
#include "io/base/file.h"

namespace elaswave::app {
namespace {

constexpr std::int64_t kFormat = 1;
// Eleven days: sums over a step stay within an int64.
constexpr std::int64_t kMostNanoseconds = 1'000'000'000'000'000;
constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;
constexpr std::size_t kMostBytes = 65536;

/// A number's key, range, and where it goes: integers, or the one number that is not.
struct Entry {
  std::string table, key;
  std::int64_t low = 0, high = 0;
  std::int64_t* integer = nullptr;
  double* number = nullptr;

  std::string name() const { return table.empty() ? key : table + '.' + key; }
};

std::vector<Entry> entries(plan::CostProfile& profile, std::int64_t& format) {
  std::vector<Entry> all = {
      {"", "format", kFormat, kFormat, &format},
      {"", "tokens", 1, kMostTokens, &profile.tokens},
      {"", "tensor", 1, 1'000'000, &profile.tensor},
      {"", "latency_ns", 0, kMostNanoseconds, &profile.latency},
      {"", "bytes_per_second", 0, kMostNanoseconds, nullptr, &profile.bytes_per_second}};
  struct Kind {
    const char* name;
    pipeline::ChunkCost& cost;
  };
  for (const Kind& kind : {Kind{"embedding", profile.embedding}, Kind{"block", profile.block},
                           Kind{"head", profile.head}}) {
    const auto add = [&](const char* key, std::int64_t& value) {
      all.push_back({kind.name, key, 0, kMostNanoseconds, &value});
    };
    add("forward_ns", kind.cost.forward);
    add("input_gradient_ns", kind.cost.input_gradient);
    add("weight_gradient_ns", kind.cost.weight_gradient);
    add("recompute_ns", kind.cost.recompute);
  }
  return all;
}

tl::unexpected<Error> bad_profile(std::string where, std::string why, std::string fix) {
  return fail({.code = Code::usage,
               .what = "this is not a cost profile",
               .where = std::move(where),
               .why = std::move(why),
               .fix = std::move(fix)});
}

Result<void> take(const toml::table& root, const Entry& entry, const std::string& path) {
  const toml::table* table = &root;
  if (!entry.table.empty()) table = root[entry.table].as_table();
  const toml::node* node = table == nullptr ? nullptr : table->get(entry.key);
  if (node == nullptr)
    return bad_profile(path, fmt::format("{} is missing", entry.name()),
                       "give all keys (app/README.md, \"elaswave plan\")");
  const std::string where = fmt::format("{}:{}", path, node->source().begin.line);
  const bool integer = node->is_integer();
  if (!integer && !(entry.number != nullptr && node->is_floating_point()))
    return bad_profile(where,
                       fmt::format("{} is not a{}", entry.name(),
                                   entry.number != nullptr ? " number" : "n integer"),
                       "write a number without quotes");
  const double value = *node->value<double>();
  // Also what is not a number.
  if (!(value >= static_cast<double>(entry.low) && value <= static_cast<double>(entry.high)))
    return bad_profile(
        where,
        fmt::format("{} is {}; the range is {} to {}", entry.name(), value, entry.low, entry.high),
        "give a value in that range");
  if (entry.number != nullptr)
    *entry.number = value;
  else
    *entry.integer = *node->value<std::int64_t>();
  return {};
}

/// Every key of `table` must be an entry's or a table of entries.
Result<void> check_keys(const toml::table& table, const std::string& prefix,
                        std::span<const Entry> known, const std::string& path) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    bool found = false, above = false;
    std::vector<std::string> names;
    for (const Entry& entry : known) {
      found = found || entry.name() == name;
      above = above || (!entry.table.empty() && entry.table == name);
      names.push_back(entry.name());
    }
    if (above && node.is_table()) {
      EW_TRY(check_keys(*node.as_table(), name + '.', known, path));
    } else if (!found) {
      return bad_profile(fmt::format("{}:{}", path, key.source().begin.line),
                         fmt::format("it has no key {}", name),
                         suggestion(name, names, "remove it"));
    }
  }
  return {};
}

}  // namespace

Result<plan::CostProfile> parse_profile(std::string_view text, const std::string& path) {
  EW_TRY(check_toml(text, path));
  toml::table root;
  try {
    root = toml::parse(text, std::string_view(path));
  } catch (const toml::parse_error& problem) {
    return bad_profile(fmt::format("{}:{}", path, problem.source().begin.line),
                       std::string(problem.description()), "correct the line");
  }
  plan::CostProfile profile;
  std::int64_t format = 0;
  const std::vector<Entry> all = entries(profile, format);
  EW_TRY(check_keys(root, "", all, path));
  for (const Entry& entry : all) EW_TRY(take(root, entry, path));
  return profile;
}

Result<plan::CostProfile> read_profile(const std::string& path) {
  auto file = MappedFile::open(path);
  if (!file) return bad_profile(path, file.error().why, "check the name given to --profile");
  const auto bytes = file->bytes();
  if (bytes.size() > kMostBytes)
    return bad_profile(path, fmt::format("it is larger than {} KiB", kMostBytes >> 10),
                       "check the name given to --profile");
  return parse_profile({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::string profile_toml(const plan::CostProfile& profile) {
  plan::CostProfile values = profile;
  std::int64_t format = kFormat;
  std::string text, table;
  for (const Entry& entry : entries(values, format)) {
    if (entry.table != table) {
      table = entry.table;
      text += fmt::format("\n[{}]\n", table);
    }
    // Always with a point or an exponent: a number, not an integer.
    if (entry.number != nullptr)
      text += fmt::format("{} = {:e}\n", entry.key, *entry.number);
    else
      text += fmt::format("{} = {}\n", entry.key, *entry.integer);
  }
  return text;
}

}  // namespace elaswave::app
