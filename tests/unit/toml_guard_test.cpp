// Texts that toml++ must not see are refused by us, at the right place; all others reach it.
#include "app/toml_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "app/options.h"

namespace elaswave::app {
namespace {

using testing::HasSubstr;

/// "line:column why", or "" when the text is let through.
std::string fault(std::string_view text) {
  const auto checked = check_toml(text, "x.toml");
  if (checked) return "";
  const Error& error = checked.error();
  EXPECT_EQ(error.code, Code::usage);
  EXPECT_FALSE(error.what.empty() || error.why.empty() || error.fix.empty()) << error.text();
  EXPECT_TRUE(error.where.starts_with("x.toml:")) << error.where;
  return error.where.substr(7) + " " + error.why;
}

TEST(TomlGuard, BytesThatAreNowhereAllowed) {
  EXPECT_EQ(fault("a = 1\nb = \"\x01\"\n"), "2:6 a control character, U+0001");
  EXPECT_THAT(fault("# \x7f"), HasSubstr("1:3 a control character, U+007F"));
  EXPECT_THAT(fault("a = 1\v"), HasSubstr("1:6 a control character, U+000B"));
  EXPECT_THAT(fault(std::string_view("a\0", 2)), HasSubstr("1:2 a control character, U+0000"));
  EXPECT_THAT(fault("a = 1\rb = 2"), HasSubstr("1:6 a control character, U+000D"));
  EXPECT_THAT(fault("# at the end\r"), HasSubstr("U+000D"));
  EXPECT_EQ(fault("a = 1\r\n\tb = 2\r\n"), "");
}

TEST(TomlGuard, Utf8) {
  for (const char* bad :
       {"\x80", "\xC3", "\xC3(", "\xC0\xAF", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE3\x81",
        "\xE3\x81(", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"})
    for (const char* form : {"a = 'x{}'", "# x{}\n", "a = \"\"\"\n12345{}\"\"\""}) {
      const std::string text = fmt::format(fmt::runtime(form), bad);
      EXPECT_THAT(fault(text), HasSubstr(" is not UTF-8 here")) << text;
    }
  EXPECT_EQ(fault("# \xC3\xA9\n# \xC3\xA9\xFF"), "2:4 byte 0xFF is not UTF-8 here");
  for (const char* good : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_EQ(fault(fmt::format("a = 'x{}' # {}\n", good, good)), "");
}

TEST(TomlGuard, OutsideAsciiOnlyInStringsAndComments) {
  for (const char* letter : {"\xC3\xA9", "\xC2\xA1", "\xC2\xA0", "\xE3\x81\x82", "\xEF\xBB\xBF",
                             "\xE2\x80\xA8", "\xF0\x9F\x98\x80"}) {
    const auto text = [&](const char* form) { return fmt::format(fmt::runtime(form), letter); };
    for (const char* form :
         {"# {0}", "a = \"{0}\"", "a = '{0}' # {0}", "a = \"\"\"{0}\n{0}\"\"\"",
          "a = '''{0}\n'{0}''''", "\"{0}\" = 1", "['{0}']", "a = [\n'{0}', # {0}\n\"{0}\"]",
          "a = \"\\\"{0}\"", "a = '\\{0}'", "a = '''\\\n{0}'''", "a = \"\"\"\"\"{0}\"\"\"\"\"",
          "a = \"\"\"\\\nx{0}\"\"\""})
      EXPECT_EQ(fault(text(form)), "") << form;
    for (const char* form :
         {"x{0}", "a{0}", "a = {0}", "a = 1{0}", "[{0}]", "[a{0}]", "a = ''{0}", "a = '' {0}",
          "a = \"\\\\\"{0}", "a = \"\"\"\"\"\"{0}", "a = \"\"\"\"\"\"\"\"{0}", "a = ''''''''{0}",
          "a = '\\' {0}", "a = [ {0}", "# x\n{0}", "a = 'x\n{0}", "a = \"\"\"\\\n{0}\"\"\"",
          "a = \"\"\"\\ \n \r\n\t{0}\"\"\"", "a = \"\"\"\\{0}\"\"\""})
      EXPECT_THAT(fault(text(form)), HasSubstr("outside ASCII")) << form;
  }
  EXPECT_EQ(fault("\xEF\xBB\xBF# \xC3\xA9\na = 1\n"), "");  // as some editors begin a file
  // Columns count characters, and the mark is none.
  EXPECT_EQ(fault("\xEF\xBB\xBF'\xC3\xA9' \xC3\xA9").substr(0, 4), "1:5 ");
  EXPECT_EQ(fault("\n'\xC3\xA9' \xC3\xA9").substr(0, 4), "2:5 ");
}

TEST(TomlGuard, BracketsThatTheLibraryTakesUnchecked) {
  for (const char* bad : {"[>t", "[ >]", "[[>]]", "[[[a]]]", "[}", "[\n", "[#", "a = 1\n\t[.b]",
                          "[[ =", "[a]\n[=]", "a = [\n]\n[+]"})
    EXPECT_THAT(fault(bad), HasSubstr("a table's name")) << bad;
  for (const char* bad : {"a = [}", "a = [ \n}", "a = [1, # x\n}", "a = [[}]", "a = {b = 1,}"})
    EXPECT_THAT(fault(bad), HasSubstr("'}' after")) << bad;
  for (const char* good :
       {"[a]", "[ a . 'b' ]", "[[ \"a\" ]]", "[-_]", "[1]", "[]", "[", "[[", "a = {}", "a = []",
        "a = [\n[+1], [-1]\n]", "a = [\n  [.5]\n]", "a = [{}, {b = [1]}]", "a = [\n]\n[b]",
        "a = '[>'", "# [>", "a = [ # [\n'}' ]", "a = ']]'\n[b]"})
    EXPECT_EQ(fault(good), "") << good;
}

TEST(TomlGuard, StringsBeginOnlyWhereTheLibrarySeesThem) {
  for (const char* bad : {"x = 0x'\xE3\x81\x82'", "x = +.1'''\xC2\xA1", "x = 1.'a'", "x = [1.'a']",
                          "a\"b\" = 1", "''\"\"", "x = -{a = 1}", "x = 1[", "x = 1=2", "x = [1[",
                          "x = {a = 1.'b'}", "x = {a = 1, b.c = 1.'d'}", "x = {a = {}, b = 1.'c'}",
                          "x = [{a = 1}, 1.'a']", "[a]'b'", "[a'b']", "x = 1\ny = 1.'z'"})
    EXPECT_THAT(fault(bad), HasSubstr(" next after ")) << bad;
  for (const char* good :
       {"'a'.'b' = 'c'", "a.'b' = 1", "[a.'b'.\"c\"]", "[['a'.'b']]",
        "x = {a.'b' = 1, c.'d' = [1]}",
        "x = {a = {b.'c' = 1}, d.'e' = [1, ['a','b'],'c'], f.'g' = 1}", "x = [1]\na.'b' = 1",
        "x ='a'\ny=\"b\"\r\n'z'='c'", "\xEF\xBB\xBF'a' = 1"})
    EXPECT_EQ(fault(good), "") << good;
}

TEST(TomlGuard, DatesNeedTheirTime) {
  for (const char* bad :
       {"x = 1979-05-27T", "x = 1979-05-27true", "x = [1979-05-27t,", "x = 1979-05-27T:00",
        "x = 1979-05-27 1\n", "x = 19_79-05-27 1#'\xC3\xA9'", "x = [1979-05-27 1]"})
    EXPECT_THAT(fault(bad), HasSubstr("no time after it")) << bad;
  for (const char* good :
       {"x = 1979-05-27", "x = 1979-05-27T07:32:00", "x = 1979-05-27t07:32:00.5-07:00",
        "x = [1979-05-27 07:32:00Z, 07:32:00]", "1979-05-27T = 1"})
    EXPECT_EQ(fault(good), "") << good;
  EXPECT_EQ(fault("x = " + std::string(100, '1')), "");
  EXPECT_THAT(fault("x = " + std::string(101, '1')), HasSubstr("100 characters"));
}

TEST(TomlGuard, DeepKeysWouldOverflowTheLibrarysStack) {
  std::string deep = "a", fair = "a";
  for (int part = 0; part < 16; ++part) deep += ".a";
  for (int part = 0; part < 15; ++part) fair += ".a";
  for (const char* form : {"{} = 1", "[{}]", "[[{}]]", "x = {{{} = 1}}"}) {
    EXPECT_THAT(fault(fmt::format(fmt::runtime(form), deep)), HasSubstr("16 parts")) << form;
    EXPECT_EQ(fault(fmt::format(fmt::runtime(form), fair)), "") << form;
  }
  std::string numbers = "x = [1.5";
  for (int i = 0; i < 100; ++i) numbers += ", 1.5";
  EXPECT_EQ(fault(numbers + "]"), "");
}

TEST(TomlGuard, FilesReadThroughIt) {
  const std::string path =
      (std::filesystem::path(testing::TempDir()) / "toml_guard_test.toml").string();
  const auto read = [&](std::string_view text) {
    std::ofstream(path, std::ios::binary) << text;
    Settings settings;
    const auto result = read_config_file(settings, path);
    EXPECT_TRUE(result || exit_code(result.error().code) == 2);
    return result ? settings.config.log.dir.substr(0, 20) : result.error().where;
  };
  EXPECT_EQ(read("\xEF\xBB\xBF[log]\r\ndir = \"\"\"\r\n\xE3\x81\x82\"\"\" # \xC3\xA9\r\n"),
            "\xE3\x81\x82");
  EXPECT_EQ(read("[log]\ndir = \"\xC3\xA9\"\n[\xC3\xA9]"), path + ":3:2");
  EXPECT_EQ(read("[>t\v-4"), path + ":1:4");
  EXPECT_EQ(read("[>t"), path + ":1:2");
  EXPECT_EQ(read("[log]\ndir = [}\n"), path + ":2:8");
  EXPECT_THAT(read(std::string((std::size_t{16} << 20) + 1, '\n')), HasSubstr("--config"));
  EXPECT_EQ(read("[log]\ndir = \"" + std::string(100000, 'x') + "\"\n"), std::string(20, 'x'));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace elaswave::app
