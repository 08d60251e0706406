// ls, inspect, verify, diff and reindex on small checkpoints in memory; the command's exit codes on
// the disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "app/checkpoint_tools.h"
#include "app/commands.h"
#include "io/checkpoint/publish.h"
#include "io/checkpoint/store.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/small_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace elaswave::app {
namespace {

using checkpoint::Kind;
using checkpoint::Manifest;
using elaswave::testing::expect_error;
using elaswave::testing::FakeFileSystem;
using elaswave::testing::save;
using elaswave::testing::save_halves;
using elaswave::testing::small_manifest;
using elaswave::testing::small_state;
using elaswave::testing::SmallState;
using elaswave::testing::TempDir;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

/// Five blocks of the first tensor, then small ones.
SmallState toy() {
  return small_state({{"big", {70, 1000}}, {"cube", {3, 5, 7}}, {"one", {1}}, {"row", {300}}});
}

std::string saved(FileSystem& files, const std::string& run, Step step, int shards = 2) {
  const SmallState state = toy();
  const auto path = save(files, run, small_manifest(state, step), state, shards);
  EXPECT_TRUE(path.has_value()) << path.error().text();
  return path.value_or("");
}

std::string all_of(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

TEST(CheckpointLs, ShowsEverythingThatLiesThere) {
  FakeFileSystem files;
  saved(files, "/run", Step{9});
  const std::string newest = saved(files, "/run", Step{10}, 3);
  saved(files, "/run", Step{11});
  saved(files, "/run", Step{12});
  files.truncate("/run/checkpoints/step-000000000011/shards/w00001.h5", 5000);
  files.flip("/run/checkpoints/step-000000000012/MANIFEST.json", 40, 1);
  ASSERT_TRUE(files.make_directory("/run/checkpoints/.tmp-000000000013-0-1").has_value());
  ASSERT_TRUE(files.make_directory("/run/checkpoints/.trash-1").has_value());
  ASSERT_TRUE(files.make_directory("/run/checkpoints/.bad-step-000000000003-1").has_value());
  ASSERT_TRUE(checkpoint::write_latest(files, "/run/checkpoints", Step{10}).has_value());
  for (const char* path : {"/run", "/run/", "/run/checkpoints", "/run/checkpoints//"}) {
    const auto listing = list_checkpoints(files, path);
    ASSERT_TRUE(listing.has_value()) << listing.error().text();
    ASSERT_EQ(listing->checkpoints.size(), 4U);
    EXPECT_THAT(listing->checkpoints[0].damage, HasSubstr("MANIFEST.json"));
    EXPECT_THAT(listing->checkpoints[1].damage, HasSubstr("w00001.h5"));
    EXPECT_EQ(listing->checkpoints[2].damage, "");
    EXPECT_EQ(listing->checkpoints[2].name, "step-000000000010");
    EXPECT_EQ(listing->checkpoints[2].shards, 3);
    EXPECT_GT(listing->checkpoints[2].size_bytes, 3 * 4 * (70000 + 105 + 1 + 300));
    EXPECT_EQ(listing->checkpoints[3].shards, 2);
    EXPECT_EQ(listing->latest, "step-000000000010");
    const std::string text = all_of(lines(*listing));
    EXPECT_THAT(text, AllOf(HasSubstr("2026-11-21T10:00:00Z"), HasSubstr("2.500000"),
                            HasSubstr("looks whole"), HasSubstr("damaged: "),
                            HasSubstr(".tmp-000000000013-0-1"), HasSubstr(".trash-1"),
                            HasSubstr(".bad-step-000000000003-1"), HasSubstr("LATEST: step-")));
  }
  const auto one = list_checkpoints(files, newest);
  ASSERT_TRUE(one.has_value()) << one.error().text();
  ASSERT_EQ(one->checkpoints.size(), 1U);
  EXPECT_EQ(one->checkpoints[0].name, "step-000000000010");
}

TEST(CheckpointLs, EmptyAndMissing) {
  FakeFileSystem files;
  ASSERT_TRUE(make_directories(files, "/run/checkpoints").has_value());
  const auto listing = list_checkpoints(files, "/run");
  ASSERT_TRUE(listing.has_value());
  EXPECT_TRUE(listing->checkpoints.empty());
  EXPECT_THAT(lines(*listing), Contains("LATEST: none"));
  expect_error(list_checkpoints(files, "/nowhere"), Code::data);
  expect_error(list_checkpoints(files, "/run/checkpoints/step-000000000001"), Code::data);
  expect_error(select_checkpoints(files, "/run", Selection::all), Code::data);
}

TEST(CheckpointSelect, OneWhateverItsName) {
  FakeFileSystem files;
  const std::string path = saved(files, "/run", Step{3});
  saved(files, "/run", Step{4});
  ASSERT_TRUE(files.rename(path, "/run/checkpoints/.bad-step-000000000003-1").has_value());
  EXPECT_EQ(
      *select_checkpoints(files, "/run/checkpoints/.bad-step-000000000003-1/", Selection::all),
      std::vector<std::string>{"/run/checkpoints/.bad-step-000000000003-1"});
  EXPECT_EQ(*select_checkpoints(files, "/run", Selection::all),
            std::vector<std::string>{"/run/checkpoints/step-000000000004"});
  // Without a manifest it is still the one that was meant.
  ASSERT_TRUE(files.remove_file("/run/checkpoints/step-000000000004/MANIFEST.json").has_value());
  EXPECT_EQ(
      select_checkpoints(files, "/run/checkpoints/step-000000000004", Selection::newest)->front(),
      "/run/checkpoints/step-000000000004");
}

TEST(CheckpointInspect, NamesAllItHolds) {
  FakeFileSystem files;
  const std::string path = saved(files, "/run", Step{7});
  Manifest manifest = checkpoint::read_manifest(files, path).value();
  const std::string text = all_of(describe(manifest, Pieces::hidden));
  EXPECT_THAT(text, AllOf(HasSubstr("0123456789abcdef"), HasSubstr("step        7"),
                          HasSubstr("56 samples, 1792 tokens"), HasSubstr("not computed"),
                          HasSubstr("train.seed"), HasSubstr("numeric_class"),
                          HasSubstr("[3, 5, 7]"), HasSubstr("70406 elements")));
  EXPECT_THAT(text, AllOf(HasSubstr("shards/w00001.h5"), HasSubstr("index.h5")));
  manifest.digest = 0xabc;
  manifest.loss = std::numeric_limits<double>::quiet_NaN();
  const auto with_pieces = describe(manifest, Pieces::shown);
  EXPECT_THAT(with_pieces, Contains(HasSubstr("0000000000000abc")));
  std::size_t pieces = 0;
  for (const checkpoint::FileEntry& file : manifest.files) pieces += file.pieces.size();
  EXPECT_EQ(with_pieces.size(), describe(manifest, Pieces::hidden).size() + pieces);
}

TEST(CheckpointVerify, FindsAFlippedBitInEveryFile) {
  FakeFileSystem files;
  const RealClock clock;
  const std::string path = saved(files, "/run", Step{1});
  const Verification whole = verify_checkpoint(files, clock, path);
  EXPECT_TRUE(whole.damages.empty());
  EXPECT_GT(whole.read_bytes, 3 * 4 * 70406);
  EXPECT_THAT(lines(whole, path), ::testing::ElementsAre(HasSubstr("whole")));
  int flips = 0;
  for (const std::string& name : files.all_files()) {
    const auto size = std::ssize(files.contents(name));
    for (std::int64_t at = 0; at < size; at += std::max<std::int64_t>(size / 40, 1)) {
      files.flip(name, at, 0x10);
      const Verification damaged = verify_checkpoint(files, clock, path);
      ASSERT_FALSE(damaged.damages.empty()) << name << " byte " << at;
      EXPECT_TRUE(name.ends_with(damaged.damages.front().file))
          << name << " is not " << damaged.damages.front().file;
      EXPECT_GE(lines(damaged, path).size(), 2U);
      files.flip(name, at, 0x10);
      ++flips;
    }
  }
  EXPECT_TRUE(verify_checkpoint(files, clock, path).damages.empty());
  std::printf("campaign: %d flipped bits, all found by checkpoint verify\n", flips);
}

CheckpointDifference difference_of(FileSystem& files, const std::string& a, const std::string& b) {
  auto difference = diff_checkpoints(files, a, b);
  EXPECT_TRUE(difference.has_value()) << difference.error().text();
  return std::move(difference).value();
}

TEST(CheckpointDiff, OtherRanksAndConfigAreTheSameState) {
  FakeFileSystem files;
  const SmallState state = toy();
  Manifest manifest = small_manifest(state, Step{5});
  ASSERT_TRUE(save(files, "/a", manifest, state, 1).has_value());
  manifest.created = "2026-11-22T10:00:00Z";
  manifest.digest = 1;  // of one of them alone
  manifest.config = {{"train.seed", "1337"}, {"device.threads", "4"}, {"log.every", "2"}};
  manifest.facts.clear();
  ASSERT_TRUE(save(files, "/b", manifest, state, 3).has_value());
  ASSERT_TRUE(save_halves(files, "/c", manifest, state).has_value());
  const CheckpointDifference ab = difference_of(files, "/a", "/b");
  EXPECT_TRUE(ab.same_state());
  EXPECT_EQ(ab.compared, 12);
  EXPECT_EQ(ab.read_elems, 0) << "blocks line up";
  EXPECT_EQ(ab.manifest.config,
            (std::vector<checkpoint::ValueDifference>{{"device.threads", "2", "4"},
                                                      {"log.every", std::nullopt, "2"}}));
  EXPECT_EQ(ab.manifest.header.size(), 1U);
  EXPECT_EQ(ab.manifest.facts.size(), 2U);
  EXPECT_THAT(lines(ab), Contains("config    log.every: (none) | 2"));
  const CheckpointDifference ac = difference_of(files, "/a", "/c");
  EXPECT_TRUE(ac.same_state());
  EXPECT_EQ(ac.read_elems, 3 * (70000 + 105 + 300)) << "only the tensor of one element lines up";
}

TEST(CheckpointDiff, CountsElementsAndDistance) {
  FakeFileSystem files;
  SmallState state = toy();
  const Manifest manifest = small_manifest(state, Step{5});
  state.of(Kind::exp_avg, 1)[7] = std::numeric_limits<float>::quiet_NaN();
  state.of(Kind::exp_avg, 1)[8] = 0;
  ASSERT_TRUE(save(files, "/a", manifest, state, 2).has_value());
  state.of(Kind::master, 0)[20000] += 2;
  state.of(Kind::master, 0)[69999] -= 3;
  state.of(Kind::exp_avg, 1)[8] = -0.0F;
  state.of(Kind::exp_avg_sq, 3)[0] = std::numeric_limits<float>::infinity();
  ASSERT_TRUE(save(files, "/b", manifest, state, 2).has_value());
  ASSERT_TRUE(save_halves(files, "/c", manifest, state).has_value());
  for (const char* other : {"/b", "/c"}) {
    const CheckpointDifference difference = difference_of(files, "/a", other);
    EXPECT_FALSE(difference.same_state());
    ASSERT_EQ(difference.tensors.size(), 3U);
    const auto& [big, cube, row] =
        std::tie(difference.tensors[0], difference.tensors[1], difference.tensors[2]);
    EXPECT_EQ(big.tensor, "big");
    EXPECT_EQ(big.content.elems, 2);
    EXPECT_EQ(big.content.largest, 3);
    EXPECT_EQ(cube.kind, Kind::exp_avg) << "an equal NaN is no difference, a sign of zero is";
    EXPECT_EQ(cube.content.elems, 1);
    EXPECT_EQ(cube.content.largest, 0);
    EXPECT_EQ(row.content.elems, 1);
    EXPECT_TRUE(std::isinf(row.content.largest));
  }
  // Two of five blocks, and two small tensors.
  EXPECT_EQ(difference_of(files, "/a", "/b").read_elems, 16384 + (70000 - 4 * 16384) + 105 + 300);
}

TEST(CheckpointDiff, SmallBatchesSeeTheSame) {
  FakeFileSystem files;
  SmallState state = toy();
  const Manifest manifest = small_manifest(state, Step{5});
  const std::string a = save(files, "/a", manifest, state, 2).value();
  for (const std::int64_t at : {0, 999, 1000, 16383, 16384, 69999}) state.of(Kind::master, 0)[at]++;
  const std::string b = save_halves(files, "/b", manifest, state).value();
  const Manifest in_a = checkpoint::read_manifest(files, a).value();
  const Manifest in_b = checkpoint::read_manifest(files, b).value();
  for (const std::int64_t batch : {777, 16384, 69999, 70000, 70001}) {
    const auto content =
        checkpoint::compare_tensor({files, a, in_a}, {files, b, in_b}, "big", Kind::master, batch);
    ASSERT_TRUE(content.has_value()) << content.error().text();
    EXPECT_EQ(content->elems, 6) << batch;
    EXPECT_EQ(content->largest, 1) << batch;
    EXPECT_EQ(content->read_elems, 70000) << batch;
  }
}

TEST(CheckpointDiff, CountersAndShapesMatter) {
  FakeFileSystem files;
  const SmallState state = toy();
  Manifest manifest = small_manifest(state, Step{5});
  ASSERT_TRUE(save(files, "/a", manifest, state, 2).has_value());
  manifest.samples += 1;
  ASSERT_TRUE(save(files, "/b", manifest, state, 2).has_value());
  EXPECT_FALSE(difference_of(files, "/a", "/b").same_state());
  const SmallState other = small_state({{"big", {1000, 70}}, {"one", {1}}, {"new", {2}}});
  ASSERT_TRUE(save(files, "/c", small_manifest(other, Step{5}), other, 2).has_value());
  const CheckpointDifference difference = difference_of(files, "/a", "/c");
  EXPECT_FALSE(difference.same_state());
  EXPECT_EQ(difference.manifest.shapes,
            (std::vector<checkpoint::ValueDifference>{{"big", "[70, 1000]", "[1000, 70]"},
                                                      {"cube", "[3, 5, 7]", std::nullopt},
                                                      {"row", "[300]", std::nullopt},
                                                      {"new", std::nullopt, "[2]"}}));
  EXPECT_EQ(difference.compared, 3);
  // What has to be read and is damaged is an error, not a difference.
  const Manifest in_a =
      checkpoint::read_manifest(files, "/a/checkpoints/step-000000000005").value();
  files.flip("/a/checkpoints/step-000000000005/shards/w00000.h5",
             in_a.files.front().pieces.front().offset_bytes, 1);
  ASSERT_TRUE(save_halves(files, "/d", manifest, state).has_value());
  expect_error(diff_checkpoints(files, "/a", "/d"), Code::corrupt);
}

constexpr const char* kIndex = "/run/checkpoints/step-000000000002/index.h5";

TEST(CheckpointReindex, MakesTheSameBytes) {
  FakeFileSystem files;
  const RealClock clock;
  const std::string path = saved(files, "/run", Step{2});
  EXPECT_EQ(reindex(files, "/run"), Reindexed::unchanged);
  const std::string index = files.contents(kIndex);
  ASSERT_TRUE(files.remove_file(kIndex).has_value());
  EXPECT_EQ(reindex(files, "/run"), Reindexed::index_replaced);
  EXPECT_EQ(files.contents(kIndex), index);
  files.truncate(kIndex, 100);
  EXPECT_EQ(reindex(files, path), Reindexed::index_replaced);
  files.flip(kIndex, std::ssize(index) / 2, 4);
  EXPECT_EQ(reindex(files, path + "/"), Reindexed::index_replaced);
  EXPECT_EQ(files.contents(kIndex), index);
  EXPECT_TRUE(verify_checkpoint(files, clock, path).damages.empty());
  files.flip(path + "/MANIFEST.json", 100, 1);
  expect_error(reindex(files, "/run"), Code::corrupt);
}

/// As if another HDF5 version had written the index.
void give_foreign_index(FakeFileSystem& files, const std::string& path) {
  Manifest manifest = checkpoint::read_manifest(files, path).value();
  const std::string foreign(3000, 'x');
  manifest.files.back() =
      checkpoint::plain_entry("index.h5", std::as_bytes(std::span<const char>(foreign)));
  files.set_contents(kIndex, foreign);
  files.set_contents(path + "/MANIFEST.json", checkpoint::to_text(manifest));
}

TEST(CheckpointReindex, LoadsAfterACrashAtAnyPoint) {
  const RealClock clock;
  FakeFileSystem before;
  const std::string path = saved(before, "/run", Step{2});
  const std::string index = before.contents(kIndex);
  give_foreign_index(before, path);
  ASSERT_TRUE(verify_checkpoint(before, clock, path).damages.empty());
  FakeFileSystem whole = before.clone();
  EXPECT_EQ(reindex(whole, "/run"), Reindexed::index_and_manifest_replaced);
  EXPECT_EQ(whole.contents(kIndex), index);
  EXPECT_TRUE(verify_checkpoint(whole, clock, path).damages.empty());
  EXPECT_EQ(whole.all_files().size(), before.all_files().size());
  using Keep = elaswave::testing::CrashPolicy::Keep;
  int cuts = 0;
  for (std::int64_t count = 0; count <= whole.operation_count(); ++count)
    for (const Keep keep : {Keep::nothing, Keep::everything, Keep::directories, Keep::data}) {
      FakeFileSystem files = before.clone();
      files.kill_after(count);
      const auto done = reindex(files, "/run");
      FakeFileSystem after = files.crash({.keep = keep});
      ASSERT_TRUE(checkpoint::read_manifest(after, path).has_value()) << count;
      ASSERT_TRUE(reindex(after, "/run").has_value()) << count;
      EXPECT_TRUE(verify_checkpoint(after, clock, path).damages.empty()) << count;
      EXPECT_EQ(after.contents(kIndex), index);
      ++cuts;
    }
  std::printf("campaign: %d crashes of checkpoint reindex, loadable and mendable after each\n",
              cuts);
}

int run(std::vector<std::string> words) {
  const Result<int> code = checkpoint_command(words);
  return code ? *code : exit_code(code.error().code);
}

TEST(CheckpointCommand, ExitCodes) {
  const TempDir dir;
  const auto files = make_file_system();
  const std::string path = saved(*files, dir / "run", Step{2});
  const std::string other = saved(*files, dir / "other", Step{3});
  EXPECT_EQ(run({"--help"}), 0);
  EXPECT_EQ(run({}), 2);
  EXPECT_EQ(run({"lss"}), 2);
  for (const char* name : {"ls", "inspect", "verify", "diff", "reindex", "export"}) {
    EXPECT_EQ(run({name, "--help"}), 0);
    EXPECT_EQ(run({name}), 2);
  }
  EXPECT_EQ(run({"ls", dir / "run"}), 0);
  EXPECT_EQ(run({"inspect", dir / "run", "--pieces"}), 0);
  EXPECT_EQ(run({"inspect", path, "--json"}), 0);
  EXPECT_EQ(run({"verify", dir / "run", "--all"}), 0);
  EXPECT_EQ(run({"diff", path, dir / "run"}), 0);
  EXPECT_EQ(run({"diff", path, other}), 1);
  EXPECT_EQ(run({"reindex", path}), 0);
  EXPECT_EQ(run({"verify", dir / "missing"}), 3);
  EXPECT_EQ(run({"export", path, "--output", dir / "e", "--format", "onnx"}), 2);
  EXPECT_EQ(run({"export", path, "--output", dir / "e", "--kind", "momentum"}), 2);
  EXPECT_EQ(run({"export", path, "--output", dir / "e"}), 2) << "no GPT-2";
  saved(*files, dir / "run", Step{4});
  std::filesystem::resize_file(path + "/shards/w00000.h5", 10);
  EXPECT_EQ(run({"verify", dir / "run"}), 0) << "the newest is whole";
  EXPECT_EQ(run({"verify", dir / "run", "--all"}), 9);
  EXPECT_EQ(run({"inspect", path}), 9);
}

}  // namespace
}  // namespace elaswave::app
