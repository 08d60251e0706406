// io/checkpoint/index: the logical view of a checkpoint, read back through HDF5.
#include "io/checkpoint/index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "io/hdf5/file.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/checkpoint_sample.h"

namespace elaswave::checkpoint {
namespace {

using testing::expect_error;
using testing::sample_value;
using testing::TempDir;
using testing::write_sample_index;
using testing::write_sample_shards;

constexpr std::array<const char*, 3> kGroups = {"/model", "/optimizer/exp_avg",
                                                "/optimizer/exp_avg_sq"};

void expect_all_tensors(const std::string& directory, const Manifest& manifest) {
  const auto reader = hdf5::Reader::open(directory + "/index.h5");
  ASSERT_TRUE(reader) << reader.error().text();
  for (std::size_t kind = 0; kind < 3; ++kind)
    for (std::size_t i = 0; i < manifest.tensors.size(); ++i) {
      const Tensor& tensor = manifest.tensors[i];
      const std::string name = kGroups[kind] + ("/" + tensor.name);
      const auto values = reader->read_f32(name);
      ASSERT_TRUE(values) << values.error().text();
      EXPECT_EQ(*reader->dims(name), tensor.shape);
      for (std::int64_t e = 0; e < std::ssize(*values); ++e)
        ASSERT_EQ((*values)[static_cast<std::size_t>(e)],
                  sample_value(kind, static_cast<std::int32_t>(i), e))
            << name << " " << e;
    }
}

TEST(CheckpointIndex, HoldsEveryTensor) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "a");
  const Manifest manifest = write_sample_shards(dir / "a");
  write_sample_index(dir / "a", manifest);
  expect_all_tensors(dir / "a", manifest);
  std::filesystem::rename(dir / "a", dir / "b");
  expect_all_tensors(dir / "b", manifest);
}

TEST(CheckpointIndex, Attributes) {
  const TempDir dir;
  const Manifest manifest = write_sample_shards(dir.path());
  write_sample_index(dir.path(), manifest);
  const auto reader = hdf5::Reader::open(dir / "index.h5");
  ASSERT_TRUE(reader) << reader.error().text();
  EXPECT_EQ(*reader->text("/", "format"), "elaswave-checkpoint");
  EXPECT_EQ(*reader->i64("/", "format_version"), kFormatVersion);
  EXPECT_EQ(*reader->text("/", "run"), manifest.run);
  EXPECT_EQ(*reader->text("/", "writer"), manifest.writer);
  EXPECT_EQ(*reader->text("/", "created"), manifest.created);
  EXPECT_EQ(*reader->i64("/", "step"), 12);
  EXPECT_EQ(*reader->i64("/", "generation"), 3);
  EXPECT_EQ(*reader->i64("/trainer", "step"), 12);
  EXPECT_EQ(*reader->i64("/trainer", "updates"), 11);
  EXPECT_EQ(*reader->i64("/trainer", "samples"), 3072);
  EXPECT_EQ(*reader->i64("/trainer", "tokens"), std::int64_t{3} << 40);
  EXPECT_EQ(*reader->f64("/trainer", "loss"), 3.25);
  for (const auto& [key, value] : manifest.config) EXPECT_EQ(*reader->text("/config", key), value);
  for (const auto& [key, value] : manifest.facts) EXPECT_EQ(*reader->text("/facts", key), value);
}

// What makes `reindex` end with the checksum that the manifest names.
TEST(CheckpointIndex, SameManifestSameBytes) {
  const TempDir dir;
  Manifest manifest = write_sample_shards(dir.path());
  const auto first = make_index(manifest);
  ASSERT_TRUE(first) << first.error().text();
  manifest.files.push_back({.name = "index.h5",
                            .size_bytes = std::ssize(*first),
                            .block_crcs = {1},
                            .frame_crc = 2,
                            .pieces = {}});
  EXPECT_EQ(*make_index(manifest), *first);
  manifest.loss = 3.5;
  EXPECT_NE(*make_index(manifest), *first);
}

TEST(CheckpointIndex, OrderOfPiecesInTheManifestDoesNotMatter) {
  const TempDir dir;
  Manifest manifest = write_sample_shards(dir.path());
  std::reverse(manifest.files[0].pieces.begin(), manifest.files[0].pieces.end());
  std::reverse(manifest.files.begin(), manifest.files.end());
  write_sample_index(dir.path(), manifest);
  expect_all_tensors(dir.path(), manifest);
}

TEST(CheckpointIndex, MissingShardReadsAsNan) {
  const TempDir dir;
  const Manifest manifest = write_sample_shards(dir.path());
  write_sample_index(dir.path(), manifest);
  std::filesystem::remove(dir / "shards/w00001.h5");
  const auto reader = hdf5::Reader::open(dir / "index.h5");
  const std::vector<float> values = *reader->read_f32("/optimizer/exp_avg/transformer.wte.weight");
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(std::isnan(values[i]), i / 16 % 2 == 1) << i;
}

TEST(CheckpointIndex, PiecesApartAreCorrupt) {
  const TempDir dir;
  const Manifest good = write_sample_shards(dir.path());
  for (const std::int64_t distance : {-4, 4, 4096}) {
    Manifest manifest = good;
    manifest.files[1].pieces[1].offset_bytes += distance;
    expect_error(make_index(manifest), Code::corrupt);
  }
  Manifest lost = good;
  lost.files[1].pieces.erase(lost.files[1].pieces.begin() + 1);
  expect_error(make_index(lost), Code::corrupt);
}

}  // namespace
}  // namespace elaswave::checkpoint
