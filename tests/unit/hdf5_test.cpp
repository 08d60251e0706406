// io/hdf5: what is written is read back by HDF5 itself, and failures are Results.
#include "io/hdf5/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/support/temp_dir.h"

namespace elaswave::hdf5 {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

std::vector<float> ramp(std::int64_t count, float first) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

TEST(Hdf5, RoundTrip) {
  const TempDir dir;
  const std::vector<std::int64_t> dims{3, 5, 7};
  {
    auto writer = Writer::create(dir / "f.h5");
    ASSERT_TRUE(writer) << writer.error().text();
    ASSERT_TRUE(writer->create_group("/model/layers"));
    ASSERT_TRUE(writer->create_group("/model/layers"));  // again is fine
    ASSERT_TRUE(writer->create_group("/"));
    ASSERT_TRUE(writer->write_f32("/model/wte", dims, ramp(105, 0.5f)));
    ASSERT_TRUE(writer->write_f32("/deep/er/bias", std::vector<std::int64_t>{4}, ramp(4, -2)));
    ASSERT_TRUE(writer->write_f32("/scalar", {}, ramp(1, 9)));
    ASSERT_TRUE(writer->set_text("/", "format", "elaswave \xc3\xbc"));
    ASSERT_TRUE(writer->set_text("/", "empty", ""));
    ASSERT_TRUE(writer->set_i64("/model", "step", -5));
    ASSERT_TRUE(writer->set_u64("/model/wte", "digest", 0xFEDCBA9876543210u));
    ASSERT_TRUE(writer->set_f64("/", "lr", 0.1));
    EXPECT_FALSE(std::filesystem::exists(dir / "f.h5"));
    const auto closed = writer->close();
    ASSERT_TRUE(closed) << closed.error().text();
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"f.h5"});
  EXPECT_LT(std::filesystem::file_size(dir / "f.h5"), 100'000u);  // reserved space was given back
  const auto reader = Reader::open(dir / "f.h5");
  ASSERT_TRUE(reader) << reader.error().text();
  EXPECT_EQ(*reader->dims("/model/wte"), dims);
  EXPECT_EQ(*reader->read_f32("/model/wte"), ramp(105, 0.5f));
  EXPECT_EQ(*reader->read_f32("/deep/er/bias"), ramp(4, -2));
  EXPECT_TRUE(reader->dims("/scalar")->empty());
  EXPECT_EQ(*reader->read_f32("/scalar"), ramp(1, 9));
  EXPECT_EQ(*reader->text("/", "format"), "elaswave \xc3\xbc");
  EXPECT_EQ(*reader->text("/", "empty"), "");
  EXPECT_EQ(*reader->i64("/model", "step"), -5);
  EXPECT_EQ(*reader->u64("/model/wte", "digest"), 0xFEDCBA9876543210u);
  EXPECT_EQ(*reader->f64("/", "lr"), 0.1);
}

TEST(Hdf5, KeepsEveryBit) {
  const TempDir dir;
  std::vector<float> values{-0.0f, std::numeric_limits<float>::denorm_min(),
                            std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
  auto writer = Writer::create(dir / "f.h5");
  ASSERT_TRUE(writer->write_f32("/x", std::vector<std::int64_t>{2, 2}, values));
  ASSERT_TRUE(writer->close());
  const auto back = Reader::open(dir / "f.h5")->read_f32("/x");
  ASSERT_TRUE(back);
  EXPECT_EQ(std::memcmp(back->data(), values.data(), 16), 0);
}

// Pieces in any order, of several datasets interleaved, as owners deliver their blocks.
TEST(Hdf5, RangesInAnyOrder) {
  const TempDir dir;
  auto writer = Writer::create(dir / "f.h5");
  auto a = writer->create_f32("/a", std::vector<std::int64_t>{10, 100});
  auto b = writer->create_f32("/g/b", std::vector<std::int64_t>{30'000});
  ASSERT_TRUE(a);
  ASSERT_TRUE(b);
  EXPECT_EQ(a->elems(), 1000);
  const auto values_a = ramp(1000, 1), values_b = ramp(30'000, 5000);
  for (const std::int64_t first : {700, 0, 350}) {
    ASSERT_TRUE(a->write(first, std::span(values_a).subspan(static_cast<std::size_t>(first),
                                                            first == 700 ? 300 : 350)));
    ASSERT_TRUE(
        b->write(first * 30, std::span(values_b).subspan(static_cast<std::size_t>(first) * 30,
                                                         first == 700 ? 9000 : 10500)));
    ASSERT_TRUE(writer->set_i64("/", "step" + std::to_string(first), first));
  }
  ASSERT_TRUE(a->write(1000, {}));
  ASSERT_TRUE(writer->close());
  const auto reader = Reader::open(dir / "f.h5");
  EXPECT_EQ(*reader->read_f32("/a"), values_a);
  EXPECT_EQ(*reader->read_f32("/g/b"), values_b);
}

TEST(Hdf5, ManyDatasets) {
  const TempDir dir;
  auto writer = Writer::create(dir / "f.h5");
  for (int i = 0; i < 300; ++i) {
    const std::string name = "/layer" + std::to_string(i) + "/weight";
    ASSERT_TRUE(writer->write_f32(name, std::vector<std::int64_t>{3, i + 1},
                                  ramp(3 * (i + 1), static_cast<float>(i))));
    ASSERT_TRUE(writer->set_text(name, "rule", "shard by rows"));
  }
  ASSERT_TRUE(writer->close());
  const auto reader = Reader::open(dir / "f.h5");
  for (int i = 0; i < 300; ++i)
    ASSERT_EQ(*reader->read_f32("/layer" + std::to_string(i) + "/weight"),
              ramp(3 * (i + 1), static_cast<float>(i)));
}

TEST(Hdf5, SameContentSameBytes) {
  const TempDir dir;
  for (const char* name : {"a.h5", "b.h5"}) {
    auto writer = Writer::create(dir / name);
    ASSERT_TRUE(writer->write_f32("/x/y", std::vector<std::int64_t>{50}, ramp(50, 1)));
    ASSERT_TRUE(writer->set_text("/", "note", "same"));
    ASSERT_TRUE(writer->close());
  }
  EXPECT_EQ(read_file(dir / "a.h5"), read_file(dir / "b.h5"));
}

TEST(Hdf5, WithoutCloseNothingIsLeft) {
  const TempDir dir;
  write_file(dir / "f.h5", "old");
  {
    auto writer = Writer::create(dir / "f.h5");
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->write_f32("/x", std::vector<std::int64_t>{3}, ramp(3, 1)));
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"f.h5"});
  EXPECT_EQ(read_file(dir / "f.h5"), "old");
}

TEST(Hdf5, Errors) {
  const TempDir dir;
  expect_error(Writer::create(dir / "no/dir/f.h5"), Code::data);
  expect_error(Reader::open(dir / "none"), Code::data);
  write_file(dir / "t.h5", "this is text");
  expect_error(Reader::open(dir / "t.h5"), Code::data);
  auto writer = Writer::create(dir / "f.h5");
  ASSERT_TRUE(writer->write_f32("/x", std::vector<std::int64_t>{3}, ramp(3, 1)));
  const std::string text =
      expect_error(writer->create_f32("/x", std::vector<std::int64_t>{3}), Code::io);
  EXPECT_NE(text.find("exists"), std::string::npos) << text;
  expect_error(writer->create_group("/x"), Code::io);
  expect_error(writer->create_f32("/x/inside", std::vector<std::int64_t>{3}), Code::io);
  ASSERT_TRUE(writer->set_i64("/x", "n", 1));
  expect_error(writer->set_i64("/x", "n", 1), Code::io);
  expect_error(writer->set_i64("/none", "n", 1), Code::io);
  ASSERT_TRUE(writer->close());
  const auto reader = Reader::open(dir / "f.h5");
  expect_error(reader->dims("/y"), Code::data);
  expect_error(reader->read_f32("/y"), Code::data);
  expect_error(reader->text("/x", "n"), Code::data);
  expect_error(reader->i64("/x", "m"), Code::data);
  expect_error(reader->f64("/x", "n"), Code::data);
  EXPECT_EQ(*reader->i64("/x", "n"), 1);
}

TEST(Hdf5, TruncatedFilesDoNotOpen) {
  const TempDir dir;
  auto writer = Writer::create(dir / "f.h5");
  ASSERT_TRUE(writer->write_f32("/x", std::vector<std::int64_t>{3000}, ramp(3000, 1)));
  ASSERT_TRUE(writer->close());
  const std::string good = read_file(dir / "f.h5");
  for (std::size_t length = 0; length < good.size(); length += 97) {
    write_file(dir / "t.h5", good.substr(0, length));
    expect_error(Reader::open(dir / "t.h5"), Code::data);
  }
}

// A full disk, played by the file size limit: the error comes from reserving, before HDF5 holds
// unwritten data, and the process ends cleanly (HDF5 alone crashes at exit after a failed flush).
TEST(Hdf5DeathTest, FullDiskIsAResult) {
  const TempDir dir;
  const auto attempt = [&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{8 << 20, 8 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) std::exit(3);
    auto writer = Writer::create(dir / "f.h5");
    if (!writer) std::exit(4);
    if (!writer->write_f32("/small", std::vector<std::int64_t>{100}, ramp(100, 1))) std::exit(5);
    const auto large = writer->create_f32("/large", std::vector<std::int64_t>{64 << 20});
    if (large || large.error().code != Code::io) std::exit(6);
    writer = fail({});
    std::exit(0);
  };
  EXPECT_EXIT(attempt(), ::testing::ExitedWithCode(0), "");
  EXPECT_TRUE(dir.names().empty());
}

}  // namespace
}  // namespace elaswave::hdf5
