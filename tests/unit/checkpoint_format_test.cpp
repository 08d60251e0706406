// The format of a checkpoint: manifest texts, the shard file, reading in any pieces, and that
// damage of every kind is found, both by verify and by loading.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <thread>

#include "io/base/crc32c.h"
#include "io/base/memory.h"
#include "io/base/philox.h"
#include "io/checkpoint/publish.h"
#include "io/checkpoint/reader.h"
#include "io/checkpoint/shard.h"
#include "io/checkpoint/store.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/small_checkpoint.h"

namespace elaswave::checkpoint {
namespace {

using testing::FakeFileSystem;
using testing::SmallState;

/// Several units a tensor, ends inside rows, and tensors of one dim.
SmallState sample_state() {
  return testing::small_state({{"wte.weight", {211, 160}},
                               {"h.0.ln_1.weight", {160}},
                               {"h.0.attn.c_attn.weight", {160, 480}},
                               {"h.0.attn.c_attn.bias", {480}},
                               {"ln_f.bias", {7}}});
}

/// Loads all of it as a rank would. Empty: everything was as saved.
std::string load_fault(FileSystem& files, const std::string& path, const SmallState& state) {
  const auto manifest = read_manifest(files, path);
  if (!manifest) return manifest.error().text();
  SmallState read = state;
  std::vector<Want> wants;
  for (std::size_t kind = 0; kind < read.values.size(); ++kind)
    for (std::size_t tensor = 0; tensor < read.tensors.size(); ++tensor) {
      auto& values = read.values[kind][tensor];
      std::fill(values.begin(), values.end(), -1.0f);
      wants.push_back({static_cast<std::int32_t>(tensor), static_cast<Kind>(kind), 0, values});
    }
  if (const auto result = read_wants(files, path, *manifest, wants); !result)
    return result.error().text();
  for (const FileEntry& entry : manifest->files) {
    if (entry.pieces.empty()) {
      const auto damages = verify_file(files, path, entry);
      if (!damages.empty()) return damages.front().what;
    } else if (const auto result = verify_frame(files, path, entry); !result) {
      return result.error().text();
    }
  }
  if (read.values != state.values) return "SILENT: other values";
  return {};
}

class FormatTest : public ::testing::Test {
 protected:
  std::string save(FakeFileSystem& files, Step step, int shards) const {
    const auto path =
        testing::save(files, "/run", testing::small_manifest(state_, step), state_, shards);
    EXPECT_TRUE(path) << (path ? "" : path.error().text());
    return path.value_or("");
  }

  /// Both ways of looking find it.
  void expect_found(FileSystem& files, const std::string& path, const std::string& what) {
    ++damages_;
    EXPECT_FALSE(verify(files, path).empty()) << what;
    const std::string fault = load_fault(files, path, state_);
    EXPECT_NE(fault, "") << what;
    EXPECT_EQ(fault.find("SILENT"), std::string::npos) << what;
  }

  SmallState state_ = sample_state();
  int damages_ = 0;
};

TEST_F(FormatTest, ManifestTextsReadBackAndNothingElseIsAccepted) {
  FakeFileSystem files;
  const std::string path = save(files, Step{12}, 3);
  const std::string text = files.contents(path + "/MANIFEST.json");
  auto manifest = parse_manifest(text, "x");
  ASSERT_TRUE(manifest) << manifest.error().text();
  EXPECT_EQ(to_text(*manifest), text);
  EXPECT_EQ(manifest->step, Step{12});

  manifest->loss = std::numeric_limits<double>::infinity();  // JSON has no such number
  manifest->digest = 0xFEDCBA9876543210u;
  manifest->config.emplace_back("odd \"key\"\n", "\x01 \\ \xC3\xA9");
  const auto again = parse_manifest(to_text(*manifest), "x");
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_TRUE(std::isnan(again->loss));
  EXPECT_EQ(again->digest, manifest->digest);
  EXPECT_EQ(again->config, manifest->config);
}

/// A manifest whose checksum is right and whose content is not.
TEST_F(FormatTest, ManifestsThatDoNotAddUpAreRefused) {
  FakeFileSystem files;
  const std::string path = save(files, Step{12}, 3);
  const Manifest good = parse_manifest(files.contents(path + "/MANIFEST.json"), "x").value();
  int refused = 0;
  const auto refuse = [&](const char* what, auto change) {
    Manifest bad = good;
    change(bad);
    EXPECT_FALSE(parse_manifest(to_text(bad), "x")) << what;
    ++refused;
  };
  const auto piece = [](Manifest& m) -> Piece& { return m.files[0].pieces[0]; };
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  refuse("a missing piece", [](Manifest& m) { m.files[0].pieces.pop_back(); });
  refuse("a piece twice", [](Manifest& m) { m.files[0].pieces.push_back(m.files[0].pieces[0]); });
  refuse("a missing shard", [](Manifest& m) { m.files.erase(m.files.begin()); });
  refuse("a shard twice", [](Manifest& m) { m.files.push_back(m.files[0]); });
  refuse("an unknown tensor", [&](Manifest& m) { piece(m).tensor = 99; });
  refuse("a negative tensor", [&](Manifest& m) { piece(m).tensor = -1; });
  refuse("another tensor", [&](Manifest& m) { piece(m).tensor = 2; });
  refuse("another kind", [&](Manifest& m) { piece(m).kind = Kind::exp_avg; });
  refuse("a shifted run", [&](Manifest& m) { piece(m).runs[0].begin += 1; });
  refuse("a negative begin", [&](Manifest& m) { piece(m).runs[0].begin = -1; });
  refuse("a huge begin", [&](Manifest& m) { piece(m).runs[0].begin = kHuge; });
  refuse("an empty run", [&](Manifest& m) { piece(m).runs[0].elems = 0; });
  refuse("a huge run", [&](Manifest& m) { piece(m).runs[0].elems = kHuge; });
  refuse("a huge count", [&](Manifest& m) { piece(m).runs[0].count = kHuge; });
  refuse("no count", [&](Manifest& m) { piece(m).runs[0].count = 0; });
  refuse("an overlapping stride", [&](Manifest& m) {
    piece(m).runs[0].count = 2;
    piece(m).runs[0].stride = 1;
  });
  refuse("no runs", [&](Manifest& m) { piece(m).runs.clear(); });
  refuse("too few checksums", [&](Manifest& m) { piece(m).unit_crcs.pop_back(); });
  refuse("a piece behind its file",
         [](Manifest& m) { m.files[0].pieces.back().offset_bytes = m.files[0].size_bytes; });
  refuse("an odd offset", [&](Manifest& m) { piece(m).offset_bytes += 1; });
  refuse("a negative offset", [&](Manifest& m) { piece(m).offset_bytes = -4; });
  refuse("overlapping pieces", [](Manifest& m) {
    m.files[0].pieces[1].offset_bytes = m.files[0].pieces[0].offset_bytes;
  });
  refuse("too few block checksums", [](Manifest& m) { m.files[0].block_crcs.clear(); });
  refuse("an empty file", [](Manifest& m) { m.files[0].size_bytes = 0; });
  refuse("a name outside", [](Manifest& m) { m.files[0].name = "shards/../../x"; });
  refuse("an absolute name", [](Manifest& m) { m.files[0].name = "/etc/passwd"; });
  refuse("a hidden name", [](Manifest& m) { m.files[0].name = ".x"; });
  refuse("a dim of 0", [](Manifest& m) { m.tensors[0].shape[0] = 0; });
  refuse("a huge tensor", [](Manifest& m) { m.tensors[0].shape = {kHuge, kHuge}; });
  refuse("a tensor without shape", [](Manifest& m) { m.tensors[0].shape.clear(); });
  refuse("a tensor twice", [](Manifest& m) { m.tensors[1].name = m.tensors[0].name; });
  refuse("a negative step", [](Manifest& m) { m.step = Step{-1}; });
  std::printf("campaign: %d manifests with right checksums and wrong contents, all refused\n",
              refused);
}

TEST_F(FormatTest, AnyPieceOfAnyTensorCanBeReadOnItsOwn) {
  FakeFileSystem files;
  const std::string dealt = save(files, Step{1}, 4);
  const auto halves =
      testing::save_halves(files, "/halves", testing::small_manifest(state_, Step{1}), state_);
  ASSERT_TRUE(halves) << halves.error().text();
  const RandomStream stream = random_stream(3, RandomUse::test);
  std::uint64_t word = 0;
  for (const std::string& path : {dealt, *halves}) {
    const Manifest manifest = read_manifest(files, path).value();
    for (int trial = 0; trial < 300; ++trial) {
      const auto draw = [&](std::int64_t below) {
        return static_cast<std::int64_t>(random_word(stream, word++)) % below;
      };
      const auto tensor = static_cast<std::size_t>(draw(std::ssize(state_.tensors)));
      const auto kind = static_cast<Kind>(draw(3));
      const std::vector<float>& values = state_.of(kind, tensor);
      const std::int64_t begin = draw(std::ssize(values));
      const std::int64_t elems = 1 + draw(std::ssize(values) - begin);
      std::vector<float> out(static_cast<std::size_t>(elems));
      const auto read = read_wants(files, path, manifest,
                                   {{static_cast<std::int32_t>(tensor), kind, begin, out}});
      ASSERT_TRUE(read) << read.error().text();
      ASSERT_TRUE(std::equal(out.begin(), out.end(), values.begin() + begin))
          << state_.tensors[tensor].name << " from " << begin << ", " << elems;
    }
  }
}

/// Memory laid out as the file is: direct transfers go to their place, partial blocks of the file
/// at the ends of a piece do not. On a real disk, where alignment matters.
TEST_F(FormatTest, WholeUnitsGoStraightToTheirPlace) {
  const std::string folder = ::testing::TempDir() + "elaswave-straight";
  const auto files = make_file_system();
  ASSERT_TRUE(remove_tree(*files, folder));
  const auto path =
      testing::save(*files, folder, testing::small_manifest(state_, Step{1}), state_, 2);
  ASSERT_TRUE(path) << path.error().text();
  const Manifest manifest = read_manifest(*files, *path).value();
  // One byte further, nothing lies alike and all of it takes the detour.
  for (const std::int64_t shift : {0, 4}) {
    for (const FileEntry& entry : manifest.files) {
      const Memory memory = allocate(entry.size_bytes + shift, kDirectAlignment);
      std::vector<Want> wants;
      for (const Piece& piece : entry.pieces) {
        std::int64_t at = piece.offset_bytes;
        for (const ElementRun& run : piece.runs)
          for (std::int64_t k = 0; k < run.count; ++k, at += run.elems * 4)
            wants.push_back({piece.tensor,
                             piece.kind,
                             run.begin + k * run.stride,
                             {reinterpret_cast<float*>(memory.get() + shift + at),
                              static_cast<std::size_t>(run.elems)}});
      }
      const auto read = read_wants(*files, *path, manifest, wants);
      ASSERT_TRUE(read) << read.error().text();
      for (const Want& want : wants) {
        const auto& values = state_.of(want.kind, static_cast<std::size_t>(want.tensor));
        EXPECT_TRUE(std::equal(want.out.begin(), want.out.end(), values.begin() + want.begin))
            << state_.tensors[static_cast<std::size_t>(want.tensor)].name << " from " << want.begin;
      }
    }
  }
  ASSERT_TRUE(remove_tree(*files, folder));
}

TEST_F(FormatTest, EveryFlippedByteIsFound) {
  FakeFileSystem files;
  const std::string path = save(files, Step{12}, 3);
  ASSERT_EQ(load_fault(files, path, state_), "");
  ASSERT_TRUE(verify(files, path).empty());
  const RandomStream stream = random_stream(4, RandomUse::test);
  std::uint64_t word = 0;
  for (const std::string& file : files.all_files()) {
    if (!file.starts_with(path)) continue;
    const std::int64_t bytes = std::ssize(files.contents(file));
    const bool is_manifest = file.ends_with("MANIFEST.json");
    // Every byte of the manifest; elsewhere one in every 512-byte block.
    const std::int64_t distance = is_manifest ? 1 : 512;
    for (std::int64_t at = 0; at < bytes; at += distance) {
      const std::uint32_t random = random_word(stream, word++);
      const std::int64_t byte =
          at + static_cast<std::int64_t>(random >> 8) % std::min(distance, bytes - at);
      const auto mask = static_cast<std::uint8_t>(1u << (random % 8));
      files.flip(file, byte, mask);
      expect_found(files, path, fmt::format("{} byte {} mask {}", file, byte, mask));
      files.flip(file, byte, mask);
      if (HasFailure()) return;
    }
  }
  EXPECT_EQ(load_fault(files, path, state_), "");
  std::printf("campaign: %d flipped bits, all found by verify and by loading\n", damages_);
}

TEST_F(FormatTest, FilesCutDeletedLengthenedOrSwappedAreFound) {
  FakeFileSystem files;
  const std::string path = save(files, Step{12}, 3);
  const std::string other = save(files, Step{13}, 3);
  std::vector<std::string> names;
  for (const std::string& file : files.all_files())
    if (file.starts_with(path)) names.push_back(file);
  ASSERT_EQ(names.size(), 5U);
  for (const std::string& file : names) {
    const std::string kept = files.contents(file);
    for (const std::int64_t left : {std::int64_t{0}, std::int64_t{1}, std::ssize(kept) / 2,
                                    std::ssize(kept) - 1, std::ssize(kept) + 1}) {
      files.truncate(file, left);
      expect_found(files, path, fmt::format("{} of {} bytes", file, left));
      files.set_contents(file, kept);
    }
    ASSERT_TRUE(files.remove_file(file));
    expect_found(files, path, file + " deleted");
    ASSERT_TRUE(write_text(files, file, kept));
  }
  for (std::size_t a = 0; a < names.size(); ++a)
    for (std::size_t b = a + 1; b < names.size(); ++b) {
      files.swap_contents(names[a], names[b]);
      expect_found(files, path, names[a] + " and " + names[b] + " swapped");
      files.swap_contents(names[a], names[b]);
    }
  EXPECT_EQ(load_fault(files, path, state_), "");
  std::printf("campaign: %d files cut, deleted, lengthened or swapped, all found\n", damages_);
}

TEST_F(FormatTest, ShardsOfTwoStepsAreFound) {
  FakeFileSystem files;
  const std::string path = save(files, Step{12}, 2);
  state_.of(Kind::exp_avg, 2)[1000] += 1;  // the next step
  const std::string other = save(files, Step{13}, 2);
  EXPECT_EQ(load_fault(files, other, state_), "");
  // Moments of the second step differ in one of the shards.
  int swapped = 0;
  for (const std::string& shard : {shard_name(0), shard_name(1)}) {
    const std::string here = fmt::format("{}/{}", path, shard);
    const std::string there = fmt::format("{}/{}", other, shard);
    if (files.contents(here) == files.contents(there)) continue;
    files.swap_contents(here, there);
    expect_found(files, other, shard);
    EXPECT_FALSE(verify(files, path).empty());
    files.swap_contents(here, there);
    ++swapped;
  }
  EXPECT_EQ(swapped, 1);
  // The whole manifest of the other step.
  files.swap_contents(path + "/MANIFEST.json", other + "/MANIFEST.json");
  expect_found(files, other, "manifests swapped");
}

TEST(ShardFile, ChecksumsAreThoseOfTheBytesWritten) {
  // Ranges that make runs with a stride, adjacent ones, and short ones; more than one file block.
  std::vector<StateRange> ranges;
  const auto add = [&](std::int32_t tensor, std::int64_t begin, std::int64_t elems) {
    ranges.push_back({tensor, {{begin, elems, elems, 1}}});
  };
  for (std::int64_t i = 0; i < 40; i += 2) add(0, i * kUnitElems, kUnitElems);
  add(0, 40 * kUnitElems, 77);
  add(1, 0, 5);
  add(2, 0, 1000);
  add(2, 1000, 30000);
  std::vector<std::vector<float>> values;
  std::vector<StateSource> sources;
  for (const StateRange& range : ranges) {
    auto& v = values.emplace_back(static_cast<std::size_t>(range.elems()));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i) * 0.5f;
    sources.push_back({v, v, v});
  }
  auto shard = ShardFile::create(ranges);
  ASSERT_TRUE(shard) << shard.error().text();
  FakeFileSystem files;
  ASSERT_TRUE(files.make_directory("/a"));
  for (const char* name : {"first", "second"}) {  // the image is used again
    (*shard)->rewind();
    // The copy is followed by the writer as it goes on.
    std::thread copier([&] { (*shard)->capture(sources); });
    const auto entry = (*shard)->write(files, "/a", name);
    copier.join();
    ASSERT_TRUE(entry) << entry.error().text();
    EXPECT_EQ(entry->size_bytes, (*shard)->size_bytes());
    const std::string contents = files.contents(std::string("/a/") + name);
    const auto bytes = std::as_bytes(std::span(contents));
    ASSERT_EQ(std::ssize(bytes), entry->size_bytes);
    EXPECT_EQ(entry->block_crcs, plain_entry("x", bytes).block_crcs);
    EXPECT_GT(entry->block_crcs.size(), 1U);
    std::size_t units = 0;
    for (const Piece& piece : entry->pieces) {
      const std::int64_t piece_bytes = piece.elems() * 4;
      for (std::size_t unit = 0; unit < piece.unit_crcs.size(); ++unit, ++units) {
        const std::int64_t begin = static_cast<std::int64_t>(unit) * kUnitElems * 4;
        const std::int64_t length = std::min(kUnitElems * 4, piece_bytes - begin);
        EXPECT_EQ(piece.unit_crcs[unit],
                  crc32c(bytes.subspan(static_cast<std::size_t>(piece.offset_bytes + begin),
                                       static_cast<std::size_t>(length))));
      }
    }
    EXPECT_EQ(units, 3U * (21 + 1 + 2));
    EXPECT_EQ(entry->pieces[0].runs.size(), 2U);  // one with a stride, and the short end
    EXPECT_EQ(entry->pieces[2].runs.size(), 1U);  // adjacent ranges are one
    EXPECT_TRUE(verify_frame(files, "/a", *entry));
  }
}

TEST(Retention, KeepsTheNewestTheIntervalAndTheVerifiedOne) {
  const std::vector<Step> steps = {Step{60}, Step{50}, Step{40}, Step{30}, Step{20}, Step{10}};
  using List = std::vector<Step>;
  EXPECT_EQ(to_delete(steps, {.keep = 2, .keep_every = 0}, Step{60}),
            (List{Step{40}, Step{30}, Step{20}, Step{10}}));
  EXPECT_EQ(to_delete(steps, {.keep = 2, .keep_every = 20}, Step{60}), (List{Step{30}, Step{10}}));
  EXPECT_EQ(to_delete(steps, {.keep = 1, .keep_every = 0}, Step{20}),
            (List{Step{50}, Step{40}, Step{30}, Step{10}}));
  EXPECT_EQ(to_delete(steps, {.keep = 9, .keep_every = 0}, Step{0}), List{});
  EXPECT_EQ(to_delete({Step{7}}, {.keep = 0, .keep_every = 0}, Step{0}), List{});
}

TEST(Names, StepNamesAreReadBack) {
  EXPECT_EQ(step_name(Step{12}), "step-000000000012");
  EXPECT_EQ(parse_step_name("step-000000000012"), 12);
  EXPECT_EQ(parse_step_name("step-1234567890123"), 1234567890123);
  for (const char* other : {"step-12", "step-", "step-00000000001x", "step--00000000012",
                            "Step-000000000012", ".bad-step-000000000012-1", "step-000000000012 "})
    EXPECT_EQ(parse_step_name(other), -1) << other;
}

}  // namespace
}  // namespace elaswave::checkpoint
