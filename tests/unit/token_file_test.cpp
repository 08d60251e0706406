// io/data/token_format, token_file, token_writer: our format against a reader written here, foreign
// files against writers written here, and what damage does.
#include "io/data/token_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "io/base/hash.h"
#include "io/data/token_writer.h"
#include "tests/support/temp_dir.h"

namespace elaswave::data {
namespace {

using testing::bytes_of;
using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

std::vector<std::int32_t> ramp(std::int64_t count, std::int32_t vocab) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int32_t>(mix64(i + 1) % static_cast<std::uint64_t>(vocab));
  return tokens;
}

void write_own(const std::string& path, const std::vector<std::int32_t>& tokens,
               TokenWriter::Spec spec) {
  auto writer = TokenWriter::create(path, std::move(spec));
  ASSERT_TRUE(writer) << writer.error().text();
  // In uneven runs, so that pieces of the checksum are crossed.
  for (std::size_t i = 0, run = 1; i < tokens.size(); i += run, run = 2 * run + 1) {
    run = std::min(run, tokens.size() - i);
    ASSERT_TRUE(writer->append(std::span(tokens).subspan(i, run)));
  }
  ASSERT_TRUE(writer->finish());
}

template <typename Stream>
std::vector<std::int32_t> all_tokens(const Stream& stream) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(stream.count()));
  stream.copy_tokens(0, tokens);
  return tokens;
}

std::string llmc_header(std::int32_t magic, std::int32_t version, std::int32_t count) {
  std::vector<std::int32_t> header(256, 0);
  header[0] = magic;
  header[1] = version;
  header[2] = count;
  return bytes_of(header);
}

struct MegatronSpec {
  std::uint64_t version = 1;
  std::uint8_t code = 8;
  std::vector<std::int32_t> lengths;
  std::int64_t width = 2;
  std::string_view modes;  // one byte a sequence, or none
};

std::string megatron_index(const MegatronSpec& spec) {
  std::vector<std::int64_t> pointers, documents{0};
  std::int64_t at = 0;
  for (const std::int32_t length : spec.lengths) {
    pointers.push_back(at);
    at += length * spec.width;
    documents.push_back(std::ssize(pointers));
  }
  std::string index("MMIDIDX\0\0", 9);
  index += bytes_of(std::vector<std::uint64_t>{spec.version});
  index += static_cast<char>(spec.code);
  index += bytes_of(std::vector<std::uint64_t>{spec.lengths.size(), documents.size()});
  return index + bytes_of(spec.lengths) + bytes_of(pointers) + bytes_of(documents) +
         std::string(spec.modes);
}

// ---- our own format

TEST(OwnFormat, RoundTripsEveryType) {
  const TempDir dir;
  const struct {
    TokenType type;
    std::int32_t vocab;
  } cases[] = {{TokenType::u8, 200}, {TokenType::u16, 50257}, {TokenType::i32, 150000}};
  for (const auto& [type, vocab] : cases) {
    const std::vector<std::int32_t> tokens = ramp(700001, vocab);
    write_own(dir / "t", tokens, {.tokenizer = "some-tokenizer", .vocab = vocab, .type = type});
    const auto file = TokenFile::open(dir / "t");
    ASSERT_TRUE(file) << file.error().text();
    EXPECT_EQ(file->format(), TokenFormat::elaswave);
    EXPECT_EQ(file->type(), type);
    EXPECT_EQ(file->vocab(), vocab);
    EXPECT_EQ(file->tokenizer(), "some-tokenizer");
    EXPECT_EQ(file->count(), 700001);
    EXPECT_EQ(all_tokens(*file), tokens);
    EXPECT_TRUE(file->has_checksum());
    EXPECT_TRUE(file->verify());
    EXPECT_EQ(dir.names(), std::vector<std::string>{"t"});
  }
}

// The layout in README.md, read here by hand: a change of the format must change this test.
TEST(OwnFormat, HasTheDocumentedBytes) {
  const TempDir dir;
  write_own(dir / "t", {72, 105, 256}, {.tokenizer = "bytes-v1", .vocab = 257});
  const std::string bytes = read_file(dir / "t");
  ASSERT_EQ(bytes.size(), 4096u + 6u);
  const auto u32 = [&](std::size_t at) {
    std::uint32_t value;
    std::memcpy(&value, bytes.data() + at, 4);
    return value;
  };
  const auto u64 = [&](std::size_t at) {
    std::uint64_t value;
    std::memcpy(&value, bytes.data() + at, 8);
    return value;
  };
  EXPECT_EQ(bytes.substr(0, 8), "EWTOKENS");
  EXPECT_EQ(u32(8), 1u);
  EXPECT_EQ(u32(12), 4096u);
  EXPECT_EQ(u64(16), 257u);
  EXPECT_EQ(u64(24), 3u);
  EXPECT_EQ(u32(40), 2u);
  EXPECT_EQ(u32(44), 8u);
  EXPECT_EQ(bytes.substr(48, 8), "bytes-v1");
  EXPECT_EQ(bytes.substr(56, 4032), std::string(4032, '\0'));
  // data checksum by its definition: one piece, one zero-padded word, then the length
  const std::string data("\x48\0\x69\0\0\x01\0\0", 8);
  EXPECT_EQ(bytes.substr(4096), data.substr(0, 6));
  std::uint64_t word;
  std::memcpy(&word, data.data(), 8);
  EXPECT_EQ(u64(32), combine64(combine64(0, word), 6));
  EXPECT_EQ(u64(4088), hash_text(std::string_view(bytes).substr(0, 4088)));
  // the worked example of README.md
  EXPECT_EQ(u64(32), 0xfdd541b910c5acc5u);
  EXPECT_EQ(u64(4088), 0xad0bbbb80f55c65du);
}

TEST(OwnFormat, LongChecksumIsChainedOverMebibytes) {
  std::string data(3 * 1024 * 1024 + 5, 'x');
  data[2'000'000] = 'y';
  const std::string_view view(data);
  std::uint64_t expected = 0;
  for (std::size_t at = 0; at < data.size(); at += 1 << 20)
    expected = hash_text(view.substr(at, 1 << 20), expected);
  EXPECT_EQ(token_checksum(std::as_bytes(std::span(data))), expected);
}

TEST(OwnFormat, AbandonedWriterLeavesNothing) {
  const TempDir dir;
  {
    auto writer = TokenWriter::create(dir / "t", {.tokenizer = "x", .vocab = 10});
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->append(std::vector<std::int32_t>{1, 2}));
  }
  {
    auto writer = TokenWriter::create(dir / "t", {.tokenizer = "x", .vocab = 10});
    ASSERT_TRUE(writer);
    expect_error(writer->finish(), Code::data);
  }
  EXPECT_TRUE(dir.names().empty());
}

// Corruption table, header: each byte of it, flipped in one bit and in all, is found.
TEST(OwnFormat, EveryDamagedHeaderByteIsFound) {
  const TempDir dir;
  write_own(dir / "t", ramp(1000, 257), {.tokenizer = "bytes-v1", .vocab = 257});
  std::string bytes = read_file(dir / "t");
  ASSERT_TRUE(decode_own(std::as_bytes(std::span(bytes)), "t"));
  for (std::size_t at = 0; at < 4096; ++at)
    for (const unsigned char flip : {1u << at % 8, 0xFFu}) {
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      const auto layout = decode_own(std::as_bytes(std::span(bytes)), "t");
      ASSERT_FALSE(layout) << "byte " << at << " flip " << int{flip};
      ASSERT_EQ(layout.error().code, Code::data);
      if (at % 64 == 0) {  // and as a file of unknown format
        write_file(dir / "bad", bytes);
        expect_error(TokenFile::open(dir / "bad"), Code::data);
      }
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
    }
}

// Corruption table, data: opening stays constant-time and does not see it, verify() does, every
// time.
TEST(OwnFormat, EveryDamagedDataByteIsFoundByVerify) {
  const TempDir dir;
  write_own(dir / "t", ramp(333, 257), {.tokenizer = "bytes-v1", .vocab = 257});
  const std::string good = read_file(dir / "t");
  for (std::size_t at = 4096; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1u << at % 8));
    write_file(dir / "bad", bad);
    const auto file = TokenFile::open(dir / "bad");
    ASSERT_TRUE(file);
    const std::string text = expect_error(file->verify(), Code::data);
    ASSERT_NE(text.find("damaged"), std::string::npos);
  }
}

TEST(OwnFormat, EveryTruncationIsFound) {
  const TempDir dir;
  write_own(dir / "t", ramp(20, 257), {.tokenizer = "bytes-v1", .vocab = 257});
  const std::string good = read_file(dir / "t");
  std::vector<std::size_t> lengths{0,  1,  7,  8,  9,    15,   16,   31,  47,
                                   48, 55, 56, 63, 4087, 4088, 4095, 4096};
  for (std::size_t length = 4097; length < good.size(); ++length) lengths.push_back(length);
  for (const std::size_t length : lengths) {
    write_file(dir / "bad", good.substr(0, length));
    const std::string text = expect_error(TokenFile::open(dir / "bad"), Code::data);
    EXPECT_NE(text.find(dir / "bad"), std::string::npos) << length;
  }
  write_file(dir / "bad", good + "x");
  expect_error(TokenFile::open(dir / "bad"), Code::data);
  write_file(dir / "bad", good + std::string(2, 'x'));
  expect_error(TokenFile::open(dir / "bad"), Code::data);
}

// A header whose checksum is right but whose content is not: only another writer could make it.
TEST(OwnFormat, ContradictingHeadersAreRefused) {
  const TempDir dir;
  write_own(dir / "t", ramp(20, 257), {.tokenizer = "bytes-v1", .vocab = 257});
  const std::string good = read_file(dir / "t");
  const struct {
    std::size_t at;
    std::uint64_t value;
    std::size_t bytes;
    std::string_view expected;
  } cases[] = {{8, 2, 4, "version 2"},    {12, 8192, 4, "contradicts"},
               {16, 0, 8, "contradicts"}, {16, (std::uint64_t{1} << 31) + 1, 8, "contradicts"},
               {24, 0, 8, "empty"},       {24, 21, 8, "truncated"},
               {24, 19, 8, "longer"},     {24, ~std::uint64_t{0}, 8, "contradicts"},
               {40, 3, 4, "contradicts"}, {40, 8, 4, "contradicts"},
               {44, 65, 4, "contradicts"}};
  for (const auto& [at, value, bytes, expected] : cases) {
    std::string bad = good;
    std::memcpy(bad.data() + at, &value, bytes);
    const std::uint64_t checksum = hash_text(std::string_view(bad).substr(0, 4088));
    std::memcpy(bad.data() + 4088, &checksum, 8);
    write_file(dir / "bad", bad);
    const std::string text = expect_error(TokenFile::open(dir / "bad"), Code::data);
    EXPECT_NE(text.find(expected), std::string::npos) << at << "=" << value << "\n" << text;
  }
}

// 2^62 + 20 tokens of four bytes wrap around to the 80 bytes that are there.
TEST(OwnFormat, CountThatOverflowsIsRefused) {
  const TempDir dir;
  write_own(dir / "t", ramp(20, 257), {.tokenizer = "x", .vocab = 257, .type = TokenType::i32});
  std::string bytes = read_file(dir / "t");
  const std::uint64_t count = 0x4000000000000014u;
  std::memcpy(bytes.data() + 24, &count, 8);
  const std::uint64_t checksum = hash_text(std::string_view(bytes).substr(0, 4088));
  std::memcpy(bytes.data() + 4088, &checksum, 8);
  write_file(dir / "t", bytes);
  const std::string text = expect_error(TokenFile::open(dir / "t"), Code::data);
  EXPECT_NE(text.find("truncated"), std::string::npos) << text;
}

// ---- foreign formats

TEST(Foreign, NanoGptMustBeAskedFor) {
  const TempDir dir;
  const std::vector<std::uint16_t> tokens{5, 50256, 65535, 0, 7};
  write_file(dir / "train.bin", bytes_of(tokens));
  const std::string text = expect_error(TokenFile::open(dir / "train.bin"), Code::data);
  EXPECT_NE(text.find("data.format=nanogpt"), std::string::npos) << text;
  const auto file = TokenFile::open(dir / "train.bin", TokenFormat::nanogpt);
  ASSERT_TRUE(file) << file.error().text();
  EXPECT_EQ(file->type(), TokenType::u16);
  EXPECT_EQ(file->vocab(), 0);
  EXPECT_TRUE(file->tokenizer().empty());
  EXPECT_EQ(all_tokens(*file), (std::vector<std::int32_t>{5, 50256, 65535, 0, 7}));
  EXPECT_TRUE(file->verify());

  const auto bytes = TokenFile::open(dir / "train.bin", TokenFormat::nanogpt, TokenType::u8);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(bytes->count(), 10);
  const std::string odd = expect_error(
      TokenFile::open(dir / "train.bin", TokenFormat::nanogpt, TokenType::i32), Code::data);
  EXPECT_NE(odd.find("no multiple of 4"), std::string::npos) << odd;
  write_file(dir / "odd.bin", "abc");
  expect_error(TokenFile::open(dir / "odd.bin", TokenFormat::nanogpt), Code::data);
  write_file(dir / "empty.bin", "");
  expect_error(TokenFile::open(dir / "empty.bin", TokenFormat::nanogpt), Code::data);
}

TEST(Foreign, LlmcBothKinds) {
  const TempDir dir;
  write_file(dir / "a.bin",
             llmc_header(20240520, 1, 3) + bytes_of(std::vector<std::uint16_t>{50256, 1, 2}));
  write_file(dir / "b.bin",
             llmc_header(20240801, 7, 2) + bytes_of(std::vector<std::uint32_t>{128000, 3}));
  for (const TokenFormat format : {TokenFormat::automatic, TokenFormat::llmc}) {
    const auto a = TokenFile::open(dir / "a.bin", format);
    ASSERT_TRUE(a) << a.error().text();
    EXPECT_EQ(a->format(), TokenFormat::llmc);
    EXPECT_EQ(all_tokens(*a), (std::vector<std::int32_t>{50256, 1, 2}));
    const auto b = TokenFile::open(dir / "b.bin", format);
    ASSERT_TRUE(b) << b.error().text();
    EXPECT_EQ(all_tokens(*b), (std::vector<std::int32_t>{128000, 3}));
  }
  expect_error(TokenFile::open(dir / "a.bin", TokenFormat::nanogpt), Code::data);
  expect_error(TokenFile::open(dir / "a.bin", TokenFormat::elaswave), Code::data);
  expect_error(TokenFile::open(dir / "a.bin", TokenFormat::megatron), Code::data);
}

TEST(Foreign, DamagedLlmc) {
  const TempDir dir;
  const std::string data = bytes_of(std::vector<std::uint16_t>{50256, 1, 2});
  const struct {
    std::string content;
    std::string_view expected;
  } cases[] = {{llmc_header(20240520, 2, 3) + data, "version"},
               {llmc_header(20240801, 1, 3) + data, "version"},
               {llmc_header(20240520, 1, 4) + data, "truncated"},
               {llmc_header(20240520, 1, 2) + data, "longer"},
               {llmc_header(20240520, 1, 3) + data.substr(1), "truncated"},
               {llmc_header(20240520, 1, 0), "empty"},
               {llmc_header(20240520, 1, -3) + data, "negative"},
               {llmc_header(20240520, 1, 3).substr(0, 1023), "truncated"},
               {llmc_header(20240520, 1, 3).substr(0, 4), "truncated"},
               {llmc_header(20240326, 3, 3) + data, "not a token file"}};
  for (const auto& [content, expected] : cases) {
    write_file(dir / "bad", content);
    const std::string text = expect_error(TokenFile::open(dir / "bad"), Code::data);
    EXPECT_NE(text.find(expected), std::string::npos) << text;
  }
}

TEST(Foreign, MegatronByEveryName) {
  const TempDir dir;
  write_file(dir / "c_text.bin", bytes_of(std::vector<std::uint16_t>{1, 2, 3, 4, 5, 6}));
  write_file(dir / "c_text.idx", megatron_index({.lengths = {2, 0, 3, 1}, .modes = {}}));
  for (const char* name : {"c_text.bin", "c_text.idx", "c_text"}) {
    const auto file = TokenFile::open(dir / name);
    ASSERT_TRUE(file) << name << file.error().text();
    EXPECT_EQ(file->format(), TokenFormat::megatron);
    EXPECT_EQ(file->path(), dir / "c_text.bin");
    EXPECT_EQ(all_tokens(*file), (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
    EXPECT_TRUE(file->verify());
  }
  write_file(dir / "m.bin", bytes_of(std::vector<std::int32_t>{70000, -1}));
  write_file(dir / "m.idx",
             megatron_index({.code = 4, .lengths = {1, 1}, .width = 4, .modes = "ab"}));
  const auto wide = TokenFile::open(dir / "m", TokenFormat::megatron);
  ASSERT_TRUE(wide) << wide.error().text();
  EXPECT_EQ(all_tokens(*wide), (std::vector<std::int32_t>{70000, -1}));
  std::vector<std::int32_t> out(2);
  EXPECT_NE(expect_error(wide->copy_tokens_checked(0, out, 100000), Code::data).find("token 1"),
            std::string::npos);
}

TEST(Foreign, DamagedMegatron) {
  const TempDir dir;
  const std::string data = bytes_of(std::vector<std::uint16_t>{1, 2, 3, 4, 5, 6});
  const std::string good = megatron_index({.lengths = {2, 3, 1}, .modes = {}});
  write_file(dir / "c.bin", data);
  const auto refused = [&](const std::string& index, std::string_view expected) {
    write_file(dir / "c.idx", index);
    const std::string text =
        expect_error(TokenFile::open(dir / "c.bin", TokenFormat::megatron), Code::data);
    EXPECT_NE(text.find(expected), std::string::npos) << text;
  };
  for (const std::uint8_t code : {0, 2, 3, 5, 6, 7, 9})
    refused(megatron_index({.code = code, .lengths = {2, 3, 1}, .modes = {}}), "type code");
  refused(megatron_index({.version = 2, .lengths = {2, 3, 1}, .modes = {}}), "version 2");
  refused(megatron_index({.lengths = {2, 3}, .modes = {}}), "does not fit");
  refused(megatron_index({.lengths = {2, 3, 2}, .modes = {}}), "does not fit");
  refused(megatron_index({.lengths = {}, .modes = {}}), "empty");
  refused("MMIDIDX", "foreign");
  for (std::size_t length = 0; length < good.size(); ++length) refused(good.substr(0, length), "");
  // Any damaged byte is refused, found by verify(), or is in what a stream does not use: the
  // document index and the last bytes of counts that still make the same size do not exist here.
  for (std::size_t at = 0; at < good.size() - 4 * 8; ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    write_file(dir / "c.idx", bad);
    const auto file = TokenFile::open(dir / "c.bin", TokenFormat::megatron);
    if (!file) continue;
    EXPECT_FALSE(file->verify()) << at;
  }
  std::filesystem::remove(dir / "c.idx");
  expect_error(TokenFile::open(dir / "c.bin", TokenFormat::megatron), Code::data);
  write_file(dir / "d.idx", good);
  expect_error(TokenFile::open(dir / "d"), Code::data);
  write_file(dir / "d.bin", "");
  expect_error(TokenFile::open(dir / "d"), Code::data);
}

// ---- any format

TEST(TokenFile, MissingEmptyForeign) {
  const TempDir dir;
  EXPECT_NE(expect_error(TokenFile::open(dir / "none"), Code::data).find("none"),
            std::string::npos);
  expect_error(TokenFile::open(dir.path()), Code::data);
  write_file(dir / "empty", "");
  EXPECT_NE(expect_error(TokenFile::open(dir / "empty"), Code::data).find("empty"),
            std::string::npos);
  write_file(dir / "t.txt", "Call me Ishmael.\n");
  EXPECT_NE(expect_error(TokenFile::open(dir / "t.txt"), Code::data).find("elaswave data prepare"),
            std::string::npos);
  for (const TokenFormat format : {TokenFormat::elaswave, TokenFormat::llmc, TokenFormat::megatron})
    expect_error(TokenFile::open(dir / "t.txt", format), Code::data);
}

TEST(TokenFile, RandomBytesNeverCrash) {
  const TempDir dir;
  std::mt19937_64 random(20240607);
  const std::string beginnings[] = {"", "EWTOKENS",
                                    bytes_of(std::vector<std::int32_t>{20240520, 1}),
                                    bytes_of(std::vector<std::int32_t>{20240801, 7}),
                                    std::string("MMIDIDX\0\0\1\0\0\0\0\0\0\0\10", 18)};
  int accepted = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = beginnings[random() % std::size(beginnings)];
    const auto length = static_cast<std::size_t>(random() % (round % 3 == 0 ? 6000 : 80));
    // Small numbers are more dangerous than large ones: they pass more checks.
    while (bytes.size() < length) bytes += static_cast<char>(random() % 4 ? 0 : random());
    write_file(dir / "f.bin", bytes);
    write_file(dir / "f.idx", round % 2 == 0 ? bytes : "x");
    for (const TokenFormat format :
         {TokenFormat::automatic, TokenFormat::elaswave, TokenFormat::nanogpt, TokenFormat::llmc,
          TokenFormat::megatron}) {
      const auto file = TokenFile::open(dir / "f.bin", format);
      if (!file) {
        EXPECT_EQ(file.error().code, Code::data);
        continue;
      }
      ++accepted;
      EXPECT_EQ(std::ssize(all_tokens(*file)), file->count());
      (void)file->verify();
    }
  }
  EXPECT_GT(accepted, 0);  // headerless files of even size are legal
}

TEST(TokenFile, IdOutsideVocabularyIsNamed) {
  const TempDir dir;
  write_file(dir / "n.bin", bytes_of(std::vector<std::uint16_t>{1, 2, 300, 3, 400}));
  const auto file = TokenFile::open(dir / "n.bin", TokenFormat::nanogpt);
  ASSERT_TRUE(file);
  std::vector<std::int32_t> out(4);
  const std::string text = expect_error(file->copy_tokens_checked(1, out, 257), Code::data);
  EXPECT_NE(text.find("n.bin, token 2"), std::string::npos) << text;
  EXPECT_NE(text.find("id 300, the vocabulary has 257"), std::string::npos) << text;
  EXPECT_TRUE(file->copy_tokens_checked(1, out, 401));
  EXPECT_FALSE(file->copy_tokens_checked(1, out, 400));
  EXPECT_TRUE(file->copy_tokens_checked(0, std::span(out).first(2), 3));
}

TEST(TokenFile, FingerprintFollowsContentNotPath) {
  const TempDir dir;
  // Larger than the bound up to which all content is read, so that sampling is what is tested.
  std::vector<std::uint16_t> tokens(1'500'000);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::uint16_t>(i * 7919 % 50000);
  const auto fingerprint = [&](const std::string& path) {
    const auto file = TokenFile::open(path, TokenFormat::nanogpt);
    EXPECT_TRUE(file);
    return file ? file->fingerprint() : 0;
  };
  write_file(dir / "a", bytes_of(tokens));
  write_file(dir / "b", bytes_of(tokens));
  const std::uint64_t original = fingerprint(dir / "a");
  EXPECT_EQ(fingerprint(dir / "b"), original);
  for (const std::size_t at : {std::size_t{0}, tokens.size() - 1}) {
    auto changed = tokens;
    changed[at] ^= 1;
    write_file(dir / "b", bytes_of(changed));
    EXPECT_NE(fingerprint(dir / "b"), original) << at;
  }
  auto shorter = tokens;
  shorter.pop_back();
  write_file(dir / "b", bytes_of(shorter));
  EXPECT_NE(fingerprint(dir / "b"), original);
  // Small files: every byte counts.
  tokens.resize(3000);
  write_file(dir / "a", bytes_of(tokens));
  const std::uint64_t small = fingerprint(dir / "a");
  for (std::size_t at = 0; at < tokens.size(); at += 37) {
    auto changed = tokens;
    changed[at] ^= 0x100;
    write_file(dir / "b", bytes_of(changed));
    EXPECT_NE(fingerprint(dir / "b"), small) << at;
  }
}

TEST(TokenFile, OwnFingerprintSeesEveryToken) {
  const TempDir dir;
  std::vector<std::int32_t> tokens = ramp(1000, 257);
  write_own(dir / "a", tokens, {.tokenizer = "bytes-v1", .vocab = 257});
  tokens[500] ^= 1;
  write_own(dir / "b", tokens, {.tokenizer = "bytes-v1", .vocab = 257});
  EXPECT_NE(TokenFile::open(dir / "a")->fingerprint(), TokenFile::open(dir / "b")->fingerprint());
}

TEST(TokenFile, ReadsBeyondFourGibibytes) {
  const TempDir dir;
  const std::uint64_t bytes = (std::uint64_t{5} << 30) + 2;  // sparse: no disk is used
  {
    std::ofstream file(dir / "big.bin", std::ios::binary);
    file.seekp(static_cast<std::streamoff>(bytes - 6));
    const std::vector<std::uint16_t> last{11, 22, 33};
    file.write(reinterpret_cast<const char*>(last.data()), 6);
  }
  const auto set = TokenSet::open({dir / "big.bin"}, TokenFormat::nanogpt);
  ASSERT_TRUE(set) << set.error().text();
  ASSERT_EQ(set->count(), static_cast<std::int64_t>(bytes / 2));
  std::vector<std::int32_t> out(4);
  ASSERT_TRUE(set->copy_tokens_checked(set->count() - 4, out, 50257));
  EXPECT_EQ(out, (std::vector<std::int32_t>{0, 11, 22, 33}));
  EXPECT_NE(expect_error(set->copy_tokens_checked(set->count() - 4, out, 33), Code::data)
                .find("2684354560"),
            std::string::npos);
}

// ---- several files

TEST(TokenSet, FilesAreOneStream) {
  const TempDir dir;
  write_own(dir / "a", {1, 2, 3}, {.tokenizer = "t", .vocab = 100});
  write_own(dir / "b", {4}, {.tokenizer = "t", .vocab = 100, .type = TokenType::u8});
  write_file(dir / "c.bin",
             llmc_header(20240520, 1, 3) + bytes_of(std::vector<std::uint16_t>{5, 6, 7}));
  const auto set = TokenSet::open({dir / "a", dir / "b", dir / "c.bin"});
  ASSERT_TRUE(set) << set.error().text();
  EXPECT_EQ(set->count(), 7);
  EXPECT_EQ(set->vocab(), 100);
  EXPECT_EQ(set->tokenizer(), "t");
  for (std::int64_t first = 0; first <= 7; ++first)
    for (std::int64_t size = 0; first + size <= 7; ++size) {
      std::vector<std::int32_t> out(static_cast<std::size_t>(size));
      set->copy_tokens(first, out);
      for (std::int64_t i = 0; i < size; ++i)
        EXPECT_EQ(out[static_cast<std::size_t>(i)], first + i + 1);
    }
  std::vector<std::int32_t> sample(4);
  ASSERT_TRUE(set->copy_sample(1, sample, 100));
  EXPECT_EQ(sample, (std::vector<std::int32_t>{4, 5, 6, 7}));
  const std::string text = expect_error(set->copy_sample(1, sample, 6), Code::data);
  EXPECT_NE(text.find("c.bin, token 1"), std::string::npos) << text;
  const auto other = TokenSet::open({dir / "b", dir / "a", dir / "c.bin"});
  EXPECT_NE(other->fingerprint(), set->fingerprint());
  EXPECT_EQ(TokenSet::open({dir / "a", dir / "b", dir / "c.bin"})->fingerprint(),
            set->fingerprint());
  expect_error(TokenSet::open({dir / "a", dir / "none"}), Code::data);
}

TEST(TokenSet, SampleCountAndVocabulary) {
  const TempDir dir;
  write_own(dir / "a", ramp(100, 90), {.tokenizer = "t", .vocab = 90});
  const auto set = TokenSet::open({dir / "a"});
  ASSERT_TRUE(set);
  EXPECT_EQ(*set->sample_count(99), 1);
  EXPECT_EQ(*set->sample_count(33), 3);
  EXPECT_EQ(*set->sample_count(34), 2);
  const std::string text = expect_error(set->sample_count(100), Code::data);
  EXPECT_NE(text.find("100 tokens, one sample of context 100 takes 101"), std::string::npos)
      << text;
  EXPECT_TRUE(set->check_vocab(90));
  EXPECT_NE(expect_error(set->check_vocab(89), Code::data).find("model.vocab=90"),
            std::string::npos);
}

TEST(TokenSet, DifferentTokenizersAreRefused) {
  const TempDir dir;
  write_own(dir / "a", {1}, {.tokenizer = "t", .vocab = 100});
  write_own(dir / "b", {1}, {.tokenizer = "u", .vocab = 100});
  write_own(dir / "c", {1}, {.tokenizer = "t", .vocab = 101});
  EXPECT_NE(expect_error(TokenSet::open({dir / "a", dir / "b"}), Code::data).find("'u'"),
            std::string::npos);
  expect_error(TokenSet::open({dir / "a", dir / "c"}), Code::data);
  EXPECT_TRUE(TokenSet::open({dir / "a", dir / "a"}));
}

TEST(Words, ParseAndName) {
  for (const char* word : {"auto", "elaswave", "nanogpt", "llmc", "megatron"})
    EXPECT_EQ(name(*parse_token_format(word)), word);
  for (const char* word : {"auto", "u8", "u16", "i32"})
    EXPECT_EQ(name(*parse_token_type(word)), word);
  EXPECT_NE(expect_error(parse_token_format("hdf5"), Code::usage).find("megatron"),
            std::string::npos);
  expect_error(parse_token_type("f32"), Code::usage);
}

}  // namespace
}  // namespace elaswave::data
