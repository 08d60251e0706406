// Everything a configuration comes from. The first byte chooses:
//   0 TOML file | 1 environment, "NAME=VALUE" lines | 2 u8 option, text of its value
//   3 arguments of `train`, one a line
// What is accepted must survive being printed as TOML and read again.
#include "app/options.h"
#include "tests/fuzz/fuzz.h"

using namespace elaswave;

namespace {

const fuzz::ScratchDirectory& scratch() {
  static const fuzz::ScratchDirectory directory;
  return directory;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

/// TOML is UTF-8 by definition; arguments and file names need not be. (As RFC 3629: no surrogates,
/// nothing longer than needed.)
bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t more = lead < 0x80 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4 || more >= text.size() - i) return false;
    for (std::size_t k = 1; k <= more; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      const unsigned low = k > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
      const unsigned high = k > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
      if (byte < low || byte > high) return false;
    }
    i += more + 1;
  }
  return true;
}

void check_round_trip(const app::Settings& settings) {
  const std::string text = app::config_toml(settings);
  if (!is_utf8(text)) return;
  const std::string path = scratch() / "printed.toml";
  fuzz::write_file(path, text);
  app::Settings again;
  const auto read = app::read_config_file(again, path);
  EW_CHECK(read.has_value(), "the printed configuration is refused: {}\n{}", read.error().text(),
           text);
  for (const app::Option& option : app::option_table())
    EW_CHECK(value_text(option, settings.config) == value_text(option, again.config),
             "{} changed from {} to {}", option.key, value_text(option, settings.config),
             value_text(option, again.config));
}

void use(const app::Settings& settings) {
  const auto checked = app::cross_check(settings);
  if (!checked) fuzz::check_error(checked.error());
  check_round_trip(settings);
}

/// Uses what was read; an error must be whole.
void finish(const Result<void>& read, const app::Settings& settings) {
  if (read)
    use(settings);
  else
    fuzz::check_error(read.error());
}

void try_file(std::string_view text) {
  const std::string path = scratch() / "input.toml";
  fuzz::write_file(path, text);
  app::Settings settings;
  finish(app::read_config_file(settings, path), settings);
}

void try_environment(std::string_view text) {
  app::Environment environment;
  for (const std::string& line : split_lines(text)) {
    const std::size_t equals = std::min(line.find('='), line.size());
    // elaswave_environment() collects no others.
    environment[fmt::format("ELASWAVE_{}", line.substr(0, equals))] =
        equals == line.size() ? std::string() : line.substr(equals + 1);
  }
  app::Settings settings;
  finish(app::read_environment(settings, environment), settings);
}

void try_value(std::uint8_t choice, std::string_view text) {
  const auto table = app::option_table();
  const std::size_t row = choice % table.size();
  const app::Place place{.origin = "command line", .exact = "command line"};
  auto value = app::parse_value(table[row], text, place);
  if (!value) return fuzz::check_error(value.error());
  app::Settings settings;
  finish(app::assign(settings, static_cast<std::int64_t>(row), *std::move(value), place), settings);
}

void try_arguments(std::string_view text) {
  const auto command = app::parse_train(split_lines(text), {});
  if (command)
    check_round_trip(command->settings);
  else
    fuzz::check_error(command.error());
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const app::Settings defaults;
  const auto way = [](std::uint8_t choice, std::string_view text) {
    return fuzz::field(choice).append(text);
  };
  std::vector<std::string> seeds = {
      way(0, app::config_toml(defaults)),
      way(0,
          "[train]\nsteps = 10\nlr = 1e-3\nmicro_batch = 2\nglobal_batch = 4\n"
          "[model]\npreset = \"small\"\ndropout = 0.1\n[data]\ntrain = [\"a\"]\n"),
      way(0, "include = \"other.toml\"\ntrain.steps = 3\n"),
      way(0, "[data]\ntrain = [\n  'a', # \xC3\xA9\n  \"\"\"\\\n  b\xC3\xA9\"\"\", '''c'''\n]\n"),
      way(0, "x = [1979-05-27 07:32:00.5+01:00, 0x7F, -1.5e-3, {a.'b' = 1_0}, inf]\n"),
      way(1, "TRAIN_STEPS=10\nTRAIN_LR=1e-3\nDATA_TRAIN=a:b\nMODEL_PRESET=small\n"),
      way(3, "--train.steps=10\n--model.preset=small\n--data.train=a\n--print-config\n"),
      way(3, "--train.lr\n1e-3\n--model.context=64\n--help\n")};
  const auto table = app::option_table();
  for (std::size_t row = 0; row < table.size(); ++row)
    seeds.push_back(way(2, fuzz::field(static_cast<std::uint8_t>(row))
                               .append(app::value_text(table[row], defaults.config))));
  return seeds;
}

std::vector<std::string> fuzz_dictionary() {
  std::vector<std::string> words = {"include",
                                    " = ",
                                    "[",
                                    "]",
                                    "\"",
                                    "\n",
                                    "true",
                                    "false",
                                    "nan",
                                    "inf",
                                    "-inf",
                                    "1e308",
                                    "5e-324",
                                    "0x7f",
                                    "[[",
                                    "]]",
                                    "\"\"\"",
                                    "'''",
                                    "\\\n",
                                    "'",
                                    "{",
                                    "}",
                                    "#",
                                    "--",
                                    "\\u00",
                                    "\xC3\xA9",
                                    "\xEF\xBB\xBF",
                                    "\xE3\x81\x82",
                                    "\r\n",
                                    "1979-05-27",
                                    "1979-05-27 0",
                                    "T07:32:00",
                                    "_",
                                    "'\xC3\xA9",
                                    "9223372036854775807",
                                    "-9223372036854775808"};
  for (const app::Option& option : app::option_table()) {
    const std::size_t dot = option.key.find('.');
    words.push_back(option.key);
    words.push_back(fmt::format("[{}]\n", option.key.substr(0, dot)));
    words.push_back(fmt::format("\n{} = ", option.key.substr(dot + 1)));
    words.push_back(fmt::format("--{}=", option.key));
    for (const std::string& choice : option.choices) words.push_back(fmt::format("\"{}\"", choice));
  }
  return words;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const auto way = input.take<std::uint8_t>();
  if (way % 4 == 2) {
    const auto choice = input.take<std::uint8_t>();
    try_value(choice, input.rest());
  } else if (way % 4 == 0) {
    try_file(input.rest());
  } else if (way % 4 == 1) {
    try_environment(input.rest());
  } else {
    try_arguments(input.rest());
  }
  return 0;
}
