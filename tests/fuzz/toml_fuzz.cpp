// Configuration files as texts of TOML: short ones, so that many of them reach the parser. What
// their values then mean is config_fuzz's part.
#include "app/options.h"
#include "tests/fuzz/fuzz.h"

using namespace elaswave;

std::vector<std::string> fuzz_seeds() {
  std::string deep_key = "a";  // a table in a table, and so on: destroyed they took all the stack
  while (deep_key.size() < 60000) deep_key += ".a";
  return {deep_key + "=1",
          "[" + deep_key + "]",
          "a = 1\nb-c_1 = +2 # \xC3\xA9\r\n",
          "a = \"\\u00E9\\U0001F600\\t\\\"\xE3\x81\x82\"\nb = 'c\\'\n",
          "a = \"\"\"\nb\"\" \\\n  c\"\"\"\"\"\nd = '''\n\xC2\xA1''''\n",
          "a = [0x7F, 0o17, 0b1, 1_000, -9223372036854775808]\n",
          "a = [1.5, -2e-3, 3E+4, 1_0.0_1, inf, -inf, nan]\n",
          "a = [1979-05-27, 07:32:00.999, 1979-05-27T07:32:00Z]\n",
          "a = [1979-05-27 07:32:00.5+01:00, 1979-05-27t07:32:00]\n",
          "a = [ # b\n  [true, false], [],\n  ['c', \"d\"],\n]\n",
          "a = {b = 1, c.'d' = {}, \"e\" = [{f = 2}]}\n",
          "a.b.'c'.\"d\" = 1\na.e = 2\n",
          "[a]\nb = 1\n[a.'c'] # d\n[ \"e\" . f ]\n",
          "[[a]]\n[a.b]\n[[a]]\nc = 1\n",
          "\xEF\xBB\xBF[train]\nlr = 1e-3\n[data]\ntrain = ['a', \"\"\"b\"\"\"]\n"};
}

std::vector<std::string> fuzz_dictionary() {
  return {"[",
          "]",
          "[[",
          "]]",
          "{",
          "}",
          "\"",
          "'",
          "\"\"\"",
          "'''",
          "\\",
          "\\\n",
          "\\u",
          "\\U",
          "\n",
          "\r\n",
          "#",
          "=",
          " = ",
          ".",
          ",",
          " ",
          "\t",
          "_",
          "+",
          "-",
          ":",
          "0",
          "1",
          "9",
          "0x",
          "0o",
          "0b",
          "e",
          "a",
          "p",
          "T",
          "Z",
          "true",
          "false",
          "inf",
          "nan",
          "1.5",
          "1979-05-27",
          "1979-05-27 ",
          "07:32:00",
          ".999",
          "+01:00",
          "9223372036854775807",
          "D800",
          "\xC2\xA0",      // is white space
          "\xC2\xA1",      // is none, yet near
          "\xC3\xA9",      // a letter
          "\xE2\x80\xA8",  // ends lines, not in TOML
          "\xE3\x81\x82",
          "\xEF\xBB\xBF",  // byte order mark
          "\xF0\x9F\x98\x80",
          "a = ",
          "\n[a]\n",
          "\n[train]\n"};
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::ScratchDirectory scratch;
  static const std::string path = scratch / "input.toml";
  fuzz::write_file(path, fuzz::Input(data, size).rest());
  app::Settings settings;
  const auto read = app::read_config_file(settings, path);
  if (read) return 0;
  fuzz::check_error(read.error());
  EW_CHECK(read.error().code == Code::usage, "an error of another kind: {}", read.error().text());
  return 0;
}
