// Numbers in a manifest's text: every loss is read back, and numbers of another kind or beyond
// their field's range are damage, whatever the checksum says.
#include <gtest/gtest.h>

#include <cmath>

#include "io/base/crc32c.h"
#include "io/checkpoint/manifest.h"

namespace elaswave::checkpoint {
namespace {

/// The text with its checksum made right, as another writer could have made it.
std::string resealed(const std::string& text) {
  const std::string body = text.substr(0, text.rfind("\"crc32c\":\""));
  return fmt::format("{}\"crc32c\":\"{:08x}\"\n}}\n", body, crc32c(std::as_bytes(std::span(body))));
}

TEST(ManifestText, LossesAreReadBackExactly) {
  for (const double loss : {-0.0, 0.0, 2.5, -3.0, 123456.0, 1e16, 1e300, 5e-324, 0.1}) {
    const Manifest manifest{.loss = loss};
    const auto read = parse_manifest(to_text(manifest), "x");
    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(read->loss, loss);
    EXPECT_EQ(std::signbit(read->loss), std::signbit(loss)) << loss;
  }
}

TEST(ManifestText, NumbersOfAnotherKindAreRefused) {
  const std::string good = to_text(Manifest{.step = Step{7},
                                            .generation = Generation{7},
                                            .updates = 7,
                                            .samples = 7,
                                            .tokens = 7,
                                            .loss = 7});
  ASSERT_TRUE(parse_manifest(good, "x"));
  ASSERT_EQ(resealed(good), good);
  const auto refused = [&](const std::string& key, const char* value) {
    std::string text = good;
    const std::string field = "\"" + key + "\":";
    const std::size_t at = text.find(field) + field.size();
    text.replace(at, text.find(',', at) - at, value);
    const auto read = parse_manifest(resealed(text), "x");
    EXPECT_FALSE(read) << key << " " << value;
    // A version that is a number may be a later program's: not damage.
    const Code expected =
        key == "format_version" && std::string_view(value) == "-1" ? Code::usage : Code::corrupt;
    EXPECT_EQ(read.error().code, expected) << key << " " << value;
  };
  for (const char* key : {"format_version", "step", "generation", "updates", "samples", "tokens"})
    for (const char* value :
         {"1e300", "-1e300", "7.0", "9223372036854775808", "18446744073709551615",
          "18446744073709551616", "-1", "-9223372036854775809", "true", "null", "\"7\"", "[7]"})
      refused(key, value);
  refused("generation", "4294967303");  // 7 in its lowest 32 bits
  for (const char* value : {"true", "\"7\"", "[7]", "{}", "7.0", "-0"}) refused("loss", value);
}

TEST(ManifestText, NumbersOfPiecesOfAnotherKindAreRefused) {
  const FileEntry entry{.name = "a",
                        .size_bytes = 7,
                        .block_crcs = {1},
                        .frame_crc = 2,
                        .pieces = {{.tensor = 7,
                                    .kind = Kind::master,
                                    .offset_bytes = 7,
                                    .runs = {{7, 7, 7, 7}},
                                    .unit_crcs = {3}}}};
  const std::string good = entry_text(entry);
  const auto read = parse_entry(good);
  ASSERT_TRUE(read) << read.error().text();
  EXPECT_EQ(*read, entry);
  int tried = 0;
  for (std::size_t at = good.find('7'); at != std::string::npos; at = good.find('7', at + 1))
    for (const char* value : {"1e300", "7.0", "18446744073709551615", "true", "null"}) {
      std::string text = good;
      text.replace(at, 1, value);
      const auto bad = parse_entry(text);
      EXPECT_FALSE(bad) << text;
      EXPECT_TRUE(bad || bad.error().code == Code::corrupt);
      ++tried;
    }
  EXPECT_EQ(tried, 7 * 5);
  // Beyond 32 bits.
  std::string text = good;
  text.replace(text.find("\"tensor\":7") + 9, 1, "4294967303");
  EXPECT_FALSE(parse_entry(text));
}

}  // namespace
}  // namespace elaswave::checkpoint
