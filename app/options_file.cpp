// Configuration files: TOML read with toml++, each value with its line and column.
#include <fmt/format.h>

#include <toml++/toml.h>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>

#include "app/options.h"
#include "app/text.h"
#include "app/toml_guard.h"

namespace elaswave::app {
namespace {

// Deep enough for any sane tree of includes, and a bound should canonical paths fail to show a
// cycle.
constexpr std::size_t kMostIncludes = 16;
// No configuration has more; without a bound a pipe or device may never end.
constexpr std::size_t kMostFileBytes = std::size_t{16} << 20;

class FileReader {
 public:
  explicit FileReader(Settings& settings) : settings_(settings) {}

  Result<void> read(const std::string& path, const std::string& asked_at) {
    EW_TRY(enter(path, asked_at));
    EW_ASSIGN(const toml::table root, parse(path, asked_at));
    if (const toml::node* include = root.get("include")) EW_TRY(read_includes(*include, path));
    std::set<std::int64_t> seen;
    EW_TRY(read_table(root, "", path, seen));
    open_.pop_back();
    return {};
  }

 private:
  static Place place(const toml::source_region& source, const std::string& path) {
    return {.origin = fmt::format("{}:{}", path, source.begin.line),
            .exact = fmt::format("{}:{}:{}", path, source.begin.line, source.begin.column)};
  }

  Result<void> enter(const std::string& path, const std::string& asked_at) {
    std::error_code ignored;
    const auto canonical = std::filesystem::weakly_canonical(path, ignored).string();
    bool cycle = open_.size() >= kMostIncludes;
    for (const std::string& file : open_) cycle = cycle || file == canonical;
    if (cycle)
      return fail({.code = Code::usage,
                   .what = fmt::format("configuration file '{}' is included within itself", path),
                   .where = asked_at,
                   .why = fmt::format("already being read: {}", join(open_, " > ")),
                   .fix = "remove one of the include lines"});
    open_.push_back(canonical);
    return {};
  }

  static Result<std::string> read_text(const std::string& path, const std::string& asked_at) {
    const auto refused = [&](std::string why) {
      return fail({.code = Code::usage,
                   .what = fmt::format("cannot read configuration file '{}'", path),
                   .where = asked_at,
                   .why = std::move(why),
                   .fix = "check the name; a path is relative to the working directory, an include "
                          "to the file that includes it"});
    };
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::is_regular_file(status) && !std::filesystem::is_character_file(status) &&
        !std::filesystem::is_fifo(status))
      return refused(error ? error.message() : "it is not a file");
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    std::string text;
    std::array<char, 65536> block{};
    while (file && text.size() <= kMostFileBytes) {
      file.read(block.data(), block.size());
      text.append(block.data(), static_cast<std::size_t>(file.gcount()));
    }
    if (!file.is_open() || file.bad())
      return refused(errno != 0 ? std::generic_category().message(errno) : "reading failed");
    if (text.size() > kMostFileBytes)
      return refused(fmt::format("it is larger than {} MiB", kMostFileBytes >> 20));
    return text;
  }

  static Result<toml::table> parse(const std::string& path, const std::string& asked_at) {
    EW_ASSIGN(const std::string text, read_text(path, asked_at));
    EW_TRY(check_toml(text, path));
    try {
      return toml::parse(std::string_view(text), std::string_view(path));
    } catch (const toml::parse_error& problem) {
      const auto& at = problem.source().begin;
      return fail({.code = Code::usage,
                   .what = fmt::format("configuration file '{}' cannot be read", path),
                   .where = at.line > 0 ? fmt::format("{}:{}:{}", path, at.line, at.column) : path,
                   .why = std::string(problem.description()),
                   .fix = "correct the line (TOML: https://toml.io)"});
    }
  }

  Result<void> read_includes(const toml::node& include, const std::string& path) {
    const auto bad = [&] {
      return fail({.code = Code::usage,
                   .what = "include takes a file name or a list of file names",
                   .where = place(include.source(), path).exact,
                   .why = "something else was given",
                   .fix = "write include = \"other.toml\""});
    };
    std::vector<std::string> names;
    if (const auto* one = include.as_string()) {
      names.push_back(one->get());
    } else if (const auto* list = include.as_array()) {
      for (const toml::node& item : *list) {
        if (!item.is_string()) return bad();
        names.push_back(item.as_string()->get());
      }
    } else {
      return bad();
    }
    for (const std::string& name : names) {
      const auto beside = std::filesystem::path(path).parent_path() / name;
      EW_TRY(read(beside.string(), place(include.source(), path).exact));
    }
    return {};
  }

  Result<void> read_table(const toml::table& table, const std::string& prefix,
                          const std::string& path, std::set<std::int64_t>& seen) {
    for (const auto& [key, node] : table) {
      if (prefix.empty() && key.str() == "include") continue;
      const std::string full =
          prefix.empty() ? std::string(key.str()) : fmt::format("{}.{}", prefix, key.str());
      const std::int64_t row = find_option(full);
      if (row >= 0) {
        const Place at = place(node.source(), path);
        // toml++ rejects equal keys; micro-batch beside micro_batch is left to us.
        if (!seen.insert(row).second)
          return fail({.code = Code::usage,
                       .what = fmt::format("{} is set twice in one file",
                                           option_keys()[static_cast<std::size_t>(row)]),
                       .where = at.exact,
                       .why = "'-' and '_' name the same key",
                       .fix = "remove one of the two"});
        EW_ASSIGN(Value value, typed(node, row, at));
        EW_TRY(assign(settings_, row, std::move(value), at));
      } else if (node.is_table() && is_section(full)) {
        EW_TRY(read_table(*node.as_table(), full, path, seen));
      } else {
        return unknown(full, place(key.source(), path));
      }
    }
    return {};
  }

  static tl::unexpected<Error> unknown(const std::string& key, const Place& at) {
    return fail({.code = Code::usage,
                 .what = fmt::format("unknown key '{}'", key),
                 .where = at.exact,
                 .why = "no option has this name",
                 .fix = suggestion(with_underscores(key), option_keys(),
                                   "elaswave train --help lists all keys")});
  }

  static Result<Value> typed(const toml::node& node, std::int64_t row, const Place& at) {
    const Option& option = option_table()[static_cast<std::size_t>(row)];
    if (const auto* value = node.as_integer()) return Value(value->get());
    if (const auto* value = node.as_floating_point()) return Value(value->get());
    if (const auto* value = node.as_boolean()) return Value(value->get());
    if (const auto* value = node.as_string()) return Value(value->get());
    std::vector<std::string> list;
    bool texts = node.is_array();
    if (texts)
      for (const toml::node& item : *node.as_array()) {
        texts = texts && item.is_string();
        if (texts) list.push_back(item.as_string()->get());
      }
    if (texts) return Value(std::move(list));
    return fail(
        {.code = Code::usage,
         .what = fmt::format("{} has the wrong type", option.key),
         .where = at.exact,
         .why = fmt::format("expected: {}; found: {}", type_name(option),
                            node.is_table()   ? "a table"
                            : node.is_array() ? "a list of something else"
                                              : "a date or time"),
         .fix = fmt::format("for example {} = {}", option.key, value_text(option, Config{}))});
  }

  Settings& settings_;
  std::vector<std::string> open_;  // canonical names of the files being read, outermost first
};

}  // namespace

Result<void> read_config_file(Settings& settings, const std::string& path) {
  return FileReader(settings).read(path, "--config");
}

}  // namespace elaswave::app
