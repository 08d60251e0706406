// io/data/prepare and inspect: text to tokens, hold-out, and what is said about the result.
#include "io/data/prepare.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "io/data/inspect.h"
#include "io/data/sampler.h"
#include "tests/support/temp_dir.h"

namespace elaswave::data {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

std::vector<std::int32_t> tokens_of(const std::string& path) {
  const auto file = TokenFile::open(path);
  EXPECT_TRUE(file) << file.error().text();
  if (!file) return {};
  EXPECT_TRUE(file->verify());
  EXPECT_EQ(file->tokenizer(), "bytes-v1");
  EXPECT_EQ(file->vocab(), 257);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file->count()));
  file->copy_tokens(0, tokens);
  return tokens;
}

std::vector<std::int32_t> expected_tokens(const std::vector<std::string>& documents) {
  std::vector<std::int32_t> tokens;
  for (const std::string& document : documents) {
    for (const char c : document) tokens.push_back(static_cast<unsigned char>(c));
    tokens.push_back(256);
  }
  return tokens;
}

TEST(Prepare, TextFilesAreDocumentsOfBytes) {
  const TempDir dir;
  const std::string all_bytes = [] {
    std::string text;
    for (int i = 0; i < 256; ++i) text += static_cast<char>(i);
    return text;
  }();
  write_file(dir / "a.txt", "Hi\r\n");
  write_file(dir / "b.bin", all_bytes);
  const auto report = prepare({.inputs = {dir / "a.txt", dir / "b.bin"}, .output = dir / "t"});
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_EQ(tokens_of(dir / "t"), expected_tokens({"Hi\r\n", all_bytes}));
  EXPECT_EQ(report->documents, 2);
  EXPECT_EQ(report->input_bytes, 260);
  EXPECT_EQ(report->tokens, 262);
  EXPECT_EQ(report->train_tokens, 262);
  EXPECT_EQ(report->val_tokens, 0);
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"a.txt", "b.bin", "t"}));
}

TEST(Prepare, LongTextCrossesBuffers) {
  const TempDir dir;
  std::string text;
  while (text.size() < 3'500'000) text += "line " + std::to_string(text.size()) + "\n";
  write_file(dir / "a", text);
  ASSERT_TRUE(prepare({.inputs = {dir / "a"}, .output = dir / "t"}));
  EXPECT_EQ(tokens_of(dir / "t"), expected_tokens({text}));
}

TEST(Prepare, HoldsOutTheContiguousTail) {
  const TempDir dir;
  write_file(dir / "a", std::string(60, 'a') + "end");
  write_file(dir / "b", std::string(33, 'b'));
  const auto whole = expected_tokens({std::string(60, 'a') + "end", std::string(33, 'b')});
  ASSERT_EQ(whole.size(), 98u);
  for (const double fraction : {0.05, 0.5, 0.011, 0.99}) {
    const auto report = prepare({.inputs = {dir / "a", dir / "b"},
                                 .output = dir / "t",
                                 .val_output = dir / "v",
                                 .val_fraction = fraction});
    ASSERT_TRUE(report) << report.error().text();
    const auto cut = static_cast<std::int64_t>(98 * fraction);
    EXPECT_EQ(report->val_tokens, cut);
    EXPECT_EQ(report->train_tokens, 98 - cut);
    auto joined = tokens_of(dir / "t");
    EXPECT_EQ(std::ssize(joined), 98 - cut);
    const auto tail = tokens_of(dir / "v");
    EXPECT_EQ(std::ssize(tail), cut);
    joined.insert(joined.end(), tail.begin(), tail.end());
    EXPECT_EQ(joined, whole);
  }
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"a", "b", "t", "v"}));
  for (const double fraction : {0.01, 0.0001})
    expect_error(prepare({.inputs = {dir / "a", dir / "b"},
                          .output = dir / "t2",
                          .val_output = dir / "v2",
                          .val_fraction = fraction}),
                 Code::data);
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"a", "b", "t", "v"}));
}

TEST(Prepare, LargeHoldOutCrossesBuffers) {
  const TempDir dir;
  std::string text;
  while (text.size() < 2'500'000) text += "line " + std::to_string(text.size()) + "\n";
  write_file(dir / "a", text);
  ASSERT_TRUE(prepare(
      {.inputs = {dir / "a"}, .output = dir / "t", .val_output = dir / "v", .val_fraction = 0.45}));
  auto joined = tokens_of(dir / "t");
  const auto tail = tokens_of(dir / "v");
  EXPECT_GT(tail.size(), 1u << 20);
  joined.insert(joined.end(), tail.begin(), tail.end());
  EXPECT_EQ(joined, expected_tokens({text}));
}

TEST(Prepare, JsonLines) {
  const TempDir dir;
  write_file(dir / "a.jsonl",
             "{\"text\": \"one\", \"id\": 1}\r\n"
             "\n"
             "  \t\n"
             "{\"text\": \"z\\u00fc\\n\\ud83d\\ude00\\u0000\"}\n"
             "{\"text\": \"\"}\n"
             "{\"text\": \"last\"}");
  const auto report = prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "t"});
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_EQ(tokens_of(dir / "t"),
            expected_tokens({"one", std::string("z\xc3\xbc\n\xf0\x9f\x98\x80\0", 9), "", "last"}));
  EXPECT_EQ(report->documents, 4);

  write_file(dir / "b.ndjson", "{\"body\": \"x\"}\n");
  ASSERT_TRUE(prepare({.inputs = {dir / "b.ndjson"}, .output = dir / "t", .jsonl_field = "body"}));
  EXPECT_EQ(tokens_of(dir / "t"), expected_tokens({"x"}));
  ASSERT_TRUE(
      prepare({.inputs = {dir / "b.ndjson"}, .output = dir / "t", .kind = InputKind::text}));
  EXPECT_EQ(tokens_of(dir / "t"), expected_tokens({"{\"body\": \"x\"}\n"}));
}

TEST(Prepare, LongJsonLinesCrossBuffers) {
  const TempDir dir;
  const std::string first(1'048'570, 'q'), second(2'500'000, 'r');
  write_file(dir / "a.jsonl", "{\"text\":\"" + first + "\"}\n{\"text\":\"" + second + "\"}\n");
  ASSERT_TRUE(prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "t"}));
  EXPECT_EQ(tokens_of(dir / "t"), expected_tokens({first, second}));
}

TEST(Prepare, JsonErrorsNameFileAndLine) {
  const TempDir dir;
  const struct {
    std::string_view line;
    std::string_view expected;
  } cases[] = {{"{\"text\": \"open", "not valid JSON"},
               {"{\"text\": \"bad \xff utf\"}", "not valid JSON"},
               {"[1, 2]", "not a JSON object"},
               {"\"text\"", "not a JSON object"},
               {"{\"body\": \"x\", \"n\": 1}", "'body'"},
               {"{\"text\": 5}", "not a string"},
               {"{} {}", "not valid JSON"}};
  for (const auto& [line, expected] : cases) {
    write_file(dir / "a.jsonl", "{\"text\": \"good\"}\n\n" + std::string(line) + "\n");
    const std::string text =
        expect_error(prepare({.inputs = {dir / "a.jsonl"}, .output = dir / "t"}), Code::data);
    EXPECT_NE(text.find("a.jsonl:3"), std::string::npos) << text;
    EXPECT_NE(text.find(expected), std::string::npos) << text;
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"a.jsonl"});
}

TEST(Prepare, BadInputs) {
  const TempDir dir;
  write_file(dir / "a", "text");
  write_file(dir / "empty", "");
  write_file(dir / "blank.jsonl", "\n\n");
  const auto text = [&](const PrepareOptions& options, Code code) {
    return expect_error(prepare(options), code);
  };
  EXPECT_NE(text({.inputs = {dir / "none"}, .output = dir / "t"}, Code::data).find("none"),
            std::string::npos);
  EXPECT_NE(
      text({.inputs = {dir / "a", dir / "empty"}, .output = dir / "t"}, Code::data).find("empty"),
      std::string::npos);
  text({.inputs = {dir / "blank.jsonl"}, .output = dir / "t"}, Code::data);
  text({.inputs = {dir / "a"}, .output = dir / "no/dir/t"}, Code::data);
  text({.inputs = {dir / "a"}, .output = dir.path()}, Code::data);
  text({.inputs = {}, .output = dir / "t"}, Code::usage);
  text({.inputs = {dir / "a"}, .output = ""}, Code::usage);
  text({.inputs = {dir / "a"}, .output = dir / "a"}, Code::usage);
  text({.inputs = {dir / "a"}, .output = dir / "t", .val_output = dir / "./a"}, Code::usage);
  text({.inputs = {dir / "a"}, .output = dir / "t", .val_output = dir / "./t"}, Code::usage);
  for (const double fraction : {0.0, 1.0, -0.5, 2.0, std::nan("")})
    text({.inputs = {dir / "a"},
          .output = dir / "t",
          .val_output = dir / "v",
          .val_fraction = fraction},
         Code::usage);
  EXPECT_EQ(read_file(dir / "a"), "text");
  EXPECT_EQ(dir.names(), (std::vector<std::string>{"a", "blank.jsonl", "empty"}));
}

TEST(Prepare, ReadsPipes) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  std::thread feeder([&] { write_file(dir / "pipe", "from a pipe"); });
  const auto report = prepare({.inputs = {dir / "pipe"},
                               .output = dir / "t",
                               .val_output = dir / "v",
                               .val_fraction = 0.5});
  feeder.join();
  ASSERT_TRUE(report) << report.error().text();
  EXPECT_EQ(tokens_of(dir / "t"), (std::vector<std::int32_t>{'f', 'r', 'o', 'm', ' ', 'a'}));
  EXPECT_EQ(tokens_of(dir / "v"), (std::vector<std::int32_t>{' ', 'p', 'i', 'p', 'e', 256}));
}

TEST(Prepare, SameInputSameFile) {
  const TempDir dir;
  write_file(dir / "a", "some text");
  ASSERT_TRUE(prepare({.inputs = {dir / "a"}, .output = dir / "t"}));
  ASSERT_TRUE(prepare({.inputs = {dir / "a"}, .output = dir / "u"}));
  EXPECT_EQ(read_file(dir / "t"), read_file(dir / "u"));
}

TEST(Prepare, ReportLines) {
  const PrepareOptions options{
      .inputs = {"a"}, .output = "t", .val_output = "v", .val_fraction = 0.05};
  const auto text = lines(PrepareReport{3, 97, 100, 95, 5}, options);
  ASSERT_EQ(text.size(), 3u);
  EXPECT_EQ(text[0], "read 3 documents, 97 bytes of text");
  EXPECT_EQ(text[1], "wrote t: 95 tokens, tokenizer bytes-v1, vocab 257");
  EXPECT_EQ(text[2], "wrote v: 5 tokens, the last 0.05 of the corpus");
}

// ---- inspect and verify

TEST(Inspect, SaysWhatIsInAFile) {
  const TempDir dir;
  write_file(dir / "a", "Hi\n\\\xff");
  ASSERT_TRUE(prepare({.inputs = {dir / "a"}, .output = dir / "t"}));
  const auto file = TokenFile::open(dir / "t");
  ASSERT_TRUE(file);
  const Inspection found = inspect(*file);
  EXPECT_EQ(found.count, 6);
  EXPECT_EQ(found.min_id, 10);
  EXPECT_EQ(found.max_id, 256);
  EXPECT_EQ(found.checksum, ChecksumState::good);
  EXPECT_EQ(found.first_text, "Hi\\x0a\\x5c\\xff<|end|>");
  EXPECT_EQ(found.first_ids, (std::vector<std::int32_t>{72, 105, 10, 92, 255, 256}));
  const auto text = lines(found);
  const auto has = [&](const std::string& line) {
    return std::find(text.begin(), text.end(), line) != text.end();
  };
  EXPECT_TRUE(has("format: elaswave"));
  EXPECT_TRUE(has("tokenizer: bytes-v1"));
  EXPECT_TRUE(has("vocab: 257"));
  EXPECT_TRUE(has("dtype: u16"));
  EXPECT_TRUE(has("tokens: 6"));
  EXPECT_TRUE(has("ids: 10 to 256"));
  EXPECT_TRUE(has("checksum: ok"));

  std::string bytes = read_file(dir / "t");
  bytes[4096] ^= 1;
  write_file(dir / "bad", bytes);
  EXPECT_EQ(inspect(*TokenFile::open(dir / "bad")).checksum, ChecksumState::bad);
  write_file(dir / "n.bin", testing::bytes_of(std::vector<std::uint16_t>{1, 2}));
  const Inspection raw = inspect(*TokenFile::open(dir / "n.bin", TokenFormat::nanogpt));
  EXPECT_EQ(raw.checksum, ChecksumState::absent);
  EXPECT_EQ(raw.first_text, "");
}

TEST(Verify, ProvesTheEpochAndHashesSteps) {
  const TempDir dir;
  write_file(dir / "a", std::string(1000, 'x'));
  ASSERT_TRUE(prepare({.inputs = {dir / "a"}, .output = dir / "t"}));
  VerifyOptions options{.files = {dir / "t"},
                        .seed = 7,
                        .context_tokens = 10,
                        .global_batch_samples = 8,
                        .first_step = 12,
                        .last_step = 14};
  const auto result = verify(options);
  ASSERT_TRUE(result) << result.error().text();
  EXPECT_EQ(result->samples_per_epoch, 100);
  EXPECT_EQ(result->tail_tokens, 0);
  EXPECT_EQ(result->checksums_checked, 1);
  EXPECT_EQ(result->first_epoch, 0);  // positions 88 .. 111
  EXPECT_EQ(result->last_epoch, 1);
  ASSERT_EQ(result->steps.size(), 3u);
  const Sampler sampler(7, TokenSet::open({dir / "t"})->fingerprint(), 100);
  EXPECT_EQ(result->steps[1].step, 13);
  EXPECT_EQ(result->steps[1].sample_hash, sampler.sample_hash(13, 8));
  EXPECT_EQ(lines(*result).size(), 8u);

  options.vocab = 256;  // the end mark is outside
  EXPECT_NE(expect_error(verify(options), Code::data).find("id 256"), std::string::npos);
  options.vocab = 0;
  options.context_tokens = 1001;
  EXPECT_NE(expect_error(verify(options), Code::data).find("too short"), std::string::npos);
  std::string bytes = read_file(dir / "t");
  bytes[5000] ^= 1;
  write_file(dir / "t", bytes);
  EXPECT_NE(expect_error(verify(options), Code::data).find("checksum"), std::string::npos);
}

TEST(Verify, ProofRefusesWhatIsNoPermutation) {
  const auto reversed = [](std::int64_t i) { return 9 - i; };
  EXPECT_TRUE(prove_cover(10, reversed));
  EXPECT_FALSE(prove_cover(11, reversed));  // place 10 is sample -1
  EXPECT_FALSE(prove_cover(9, reversed));   // place 0 is sample 9
  const std::string text =
      expect_error(prove_cover(10, [](std::int64_t i) { return i == 7 ? 3 : i; }), Code::bug);
  EXPECT_NE(text.find("place 7"), std::string::npos) << text;
}

TEST(Verify, OptionsMustMakeSense) {
  const VerifyOptions good{.files = {"f"}, .context_tokens = 4, .global_batch_samples = 2};
  for (const auto& change : std::vector<void (*)(VerifyOptions&)>{
           [](VerifyOptions& o) { o.files.clear(); },
           [](VerifyOptions& o) { o.context_tokens = 0; },
           [](VerifyOptions& o) { o.global_batch_samples = 0; },
           [](VerifyOptions& o) { o.first_step = 0; }, [](VerifyOptions& o) { o.first_step = 2; },
           [](VerifyOptions& o) { o.last_step = INT64_MAX; }}) {
    VerifyOptions bad = good;
    change(bad);
    expect_error(verify(bad), Code::usage);
  }
}

}  // namespace
}  // namespace elaswave::data
