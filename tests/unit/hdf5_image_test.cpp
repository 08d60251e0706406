// io/hdf5: files laid out in memory are read back by HDF5 itself; virtual datasets hold what their
// sources hold, however the elements were dealt out.
#include "io/hdf5/image.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>

#include "io/hdf5/file.h"
#include "io/hdf5/memory_driver.h"
#include "io/hdf5/virtual_layout.h"
#include "tests/support/temp_dir.h"

namespace elaswave::hdf5 {
namespace {

using testing::expect_error;
using testing::TempDir;
using testing::write_file;

/// Raw data by offset.
using RawData = std::map<std::int64_t, std::vector<float>>;

std::string flat(const Image& image, const RawData& data = {}) {
  std::string bytes(static_cast<std::size_t>(image.size_bytes), '\0');
  for (const ImageExtent& extent : image.extents)
    std::memcpy(bytes.data() + extent.offset_bytes, extent.bytes.data(), extent.bytes.size());
  for (const auto& [offset_bytes, values] : data)
    std::memcpy(bytes.data() + offset_bytes, values.data(), values.size() * 4);
  return bytes;
}

std::vector<float> ramp(std::int64_t count, float first) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

ImageWriter new_image() {
  auto writer = ImageWriter::create();
  EXPECT_TRUE(writer) << writer.error().text();
  return *std::move(writer);
}

Image closed(ImageWriter& writer) {
  auto image = writer.close();
  EXPECT_TRUE(image) << image.error().text();
  return *std::move(image);
}

Reader reader_of(const std::string& path) {
  auto reader = Reader::open(path);
  EXPECT_TRUE(reader) << reader.error().text();
  return *std::move(reader);
}

/// A shard file: one dataset "/data".
void write_shard(const std::string& path, const std::vector<float>& values) {
  ImageWriter writer = new_image();
  const auto offset = writer.reserve_f32("/data", std::ssize(values));
  ASSERT_TRUE(offset) << offset.error().text();
  write_file(path, flat(closed(writer), {{*offset, values}}));
}

std::vector<std::string> links_in_order(hid_t file, const char* group) {
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* found) -> herr_t {
    static_cast<std::vector<std::string>*>(found)->emplace_back(name);
    return 0;
  };
  EXPECT_GE(H5Literate_by_name(file, group, H5_INDEX_CRT_ORDER, H5_ITER_INC, nullptr, add, &names,
                               H5P_DEFAULT),
            0);
  return names;
}

TEST(Hdf5Image, RoundTrip) {
  const TempDir dir;
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.set_text("/", "format", "elaswave \xc3\xbc"));
  const auto small = writer.reserve_f32("/small", 3);
  const auto one = writer.reserve_f32("/deep/er/one", 1);
  const auto page = writer.reserve_f32("/page", 1024);
  const auto large = writer.reserve_f32("/large", 100'001);
  const std::string text(70'000, 'x');
  ASSERT_TRUE(writer.write_bytes("/texts/long", std::as_bytes(std::span(text))));
  ASSERT_TRUE(writer.write_bytes("/texts/none", {}));
  ASSERT_TRUE(writer.set_text("/small", "empty", ""));
  ASSERT_TRUE(writer.set_text("/small", "long", text));
  ASSERT_TRUE(writer.set_i64("/texts", "step", -5));
  ASSERT_TRUE(writer.set_f64("/deep", "loss", 0.1));
  const Image image = closed(writer);
  write_file(dir / "f.h5", flat(image, {{*small, ramp(3, 1)},
                                        {*one, ramp(1, 9)},
                                        {*page, ramp(1024, -7)},
                                        {*large, ramp(100'001, 0.5f)}}));
  const Reader reader = reader_of(dir / "f.h5");
  EXPECT_EQ(*reader.read_f32("/small"), ramp(3, 1));
  EXPECT_EQ(*reader.read_f32("/deep/er/one"), ramp(1, 9));
  EXPECT_EQ(*reader.read_f32("/page"), ramp(1024, -7));
  EXPECT_EQ(*reader.read_f32("/large"), ramp(100'001, 0.5f));
  EXPECT_EQ(*reader.read_f32("/texts/long"), std::vector<float>(70'000, 'x'));
  EXPECT_EQ(*reader.dims("/texts/none"), std::vector<std::int64_t>{0});
  EXPECT_EQ(*reader.text("/", "format"), "elaswave \xc3\xbc");
  EXPECT_EQ(*reader.text("/small", "empty"), "");
  EXPECT_EQ(*reader.text("/small", "long"), text);
  EXPECT_EQ(*reader.i64("/texts", "step"), -5);
  EXPECT_EQ(*reader.f64("/deep", "loss"), 0.1);
}

// What a writer of the file relies on: places aligned, apart and free of HDF5's own bytes.
TEST(Hdf5Image, PlacesOfReservedData) {
  ImageWriter writer = new_image();
  std::map<std::int64_t, std::int64_t> places;  // begin -> end
  for (const std::int64_t elems : {1, 3, 1023, 1024, 1025, 2, 500'000, 7}) {
    const auto offset = writer.reserve_f32(fmt::format("/g{}/x", elems), elems);
    ASSERT_TRUE(offset) << offset.error().text();
    EXPECT_EQ(*offset % 4096, 0);
    EXPECT_TRUE(places.emplace(*offset, *offset + 4 * elems).second);
    ASSERT_TRUE(writer.set_text(fmt::format("/g{}/x", elems), "note", std::string(5000, 'n')));
  }
  const Image image = closed(writer);
  std::int64_t end = -1;
  for (const ImageExtent& extent : image.extents) {
    EXPECT_GT(extent.offset_bytes, end) << "ascending and apart";
    EXPECT_FALSE(extent.bytes.empty());
    end = extent.offset_bytes + std::ssize(extent.bytes);
    for (const auto& [data_begin, data_end] : places)
      EXPECT_TRUE(end <= data_begin || extent.offset_bytes >= data_end);
  }
  EXPECT_LE(end, image.size_bytes);
  end = 0;
  for (const auto& [data_begin, data_end] : places) {
    EXPECT_GE(data_begin, end);
    end = data_end;
  }
  EXPECT_GE(image.size_bytes, end);
}

// A shard's: one extent in front of the numbers, nothing behind them.
TEST(Hdf5Image, MetadataInFront) {
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.set_text("/", "format", "elaswave-shard"));
  ASSERT_TRUE(writer.reserve_f32("/master", 1000));
  ASSERT_TRUE(writer.reserve_f32("/exp_avg", 1000));
  const auto last = writer.reserve_f32("/exp_avg_sq", 1000);
  const Image image = closed(writer);
  EXPECT_EQ(image.size_bytes, *last + 4000);
  ASSERT_FALSE(image.extents.empty());
  const ImageExtent& end = image.extents.back();
  EXPECT_LT(end.offset_bytes + std::ssize(end.bytes), *last - 8191);
  EXPECT_LE(*last, 65536);
}

TEST(Hdf5Image, ReservedSpaceCostsNoMemory) {
  ImageWriter writer = new_image();
  const std::int64_t elems = std::int64_t{1} << 40;  // 4 TiB
  const auto first = writer.reserve_f32("/a", elems);
  const auto second = writer.reserve_f32("/b", elems);
  ASSERT_TRUE(second) << second.error().text();
  EXPECT_GE(*second, *first + 4 * elems);
  const Image image = closed(writer);
  EXPECT_EQ(image.size_bytes, *second + 4 * elems);
  std::int64_t held_bytes = 0;
  for (const ImageExtent& extent : image.extents) held_bytes += std::ssize(extent.bytes);
  EXPECT_LT(held_bytes, 65536);
}

// HDF5 File Format Specification 3.0, II.A, superblock version 3: flags at byte 11, end of file at
// byte 28.
TEST(Hdf5Image, IsClosedProperly) {
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.reserve_f32("/x", 5000));
  const Image image = closed(writer);
  const std::string bytes = flat(image);
  EXPECT_EQ(bytes.substr(1, 3), "HDF");
  EXPECT_EQ(bytes[8], 3);
  EXPECT_EQ(bytes[11], 0) << "marked as open for writing";
  std::int64_t end = 0;
  std::memcpy(&end, bytes.data() + 28, 8);
  EXPECT_EQ(end, image.size_bytes);
  EXPECT_EQ(end, std::ssize(bytes));
}

TEST(Hdf5Image, TruncatedOnesDoNotOpen) {
  const TempDir dir;
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.reserve_f32("/x", 3000));
  const std::string good = flat(closed(writer));
  for (std::size_t length = 0; length < good.size(); length += 97) {
    write_file(dir / "t.h5", good.substr(0, length));
    expect_error(Reader::open(dir / "t.h5"), Code::data);
  }
}

TEST(Hdf5Image, ListsInOrderOfCreation) {
  const TempDir dir;
  std::vector<std::string> names;
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.create_group("/z/y"));
  ASSERT_TRUE(writer.create_group("/z/y"));  // again is fine
  ASSERT_TRUE(writer.create_group("/"));
  for (int i = 40; i > 0; --i) {  // more than fit into an object header
    names.push_back(fmt::format("n{}", i));
    ASSERT_TRUE(writer.reserve_f32("/z/y/" + names.back(), 1));
    ASSERT_TRUE(writer.set_i64("/z", names.back(), i));
  }
  ASSERT_TRUE(writer.create_group("/a"));
  write_file(dir / "f.h5", flat(closed(writer)));
  const hid_t file = H5Fopen((dir / "f.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  EXPECT_EQ(links_in_order(file, "/"), (std::vector<std::string>{"z", "a"}));
  EXPECT_EQ(links_in_order(file, "/z/y"), names);
  std::vector<std::string> attributes;
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* found) -> herr_t {
    static_cast<std::vector<std::string>*>(found)->emplace_back(name);
    return 0;
  };
  EXPECT_GE(H5Aiterate_by_name(file, "/z", H5_INDEX_CRT_ORDER, H5_ITER_INC, nullptr, add,
                               &attributes, H5P_DEFAULT),
            0);
  EXPECT_EQ(attributes, names);
  EXPECT_GE(H5Fclose(file), 0);
}

TEST(Hdf5Image, HoldsNoTimes) {
  const TempDir dir;
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.reserve_f32("/g/x", 3));
  ASSERT_TRUE(writer.write_bytes("/g/b", std::as_bytes(std::span("abc", 3))));
  ASSERT_TRUE(writer.create_virtual_f32("/g/v", std::vector<std::int64_t>{2}, {}));
  write_file(dir / "f.h5", flat(closed(writer)));
  const hid_t file = H5Fopen((dir / "f.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  for (const char* name : {"/", "/g", "/g/x", "/g/b", "/g/v"}) {
    H5O_info_t info{};
    EXPECT_GE(H5Oget_info_by_name2(file, name, &info, H5O_INFO_TIME, H5P_DEFAULT), 0);
    EXPECT_EQ(info.mtime + info.btime + info.ctime + info.atime, 0) << name;
  }
  EXPECT_GE(H5Fclose(file), 0);
}

TEST(Hdf5Image, Errors) {
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.reserve_f32("/x", 3));
  EXPECT_NE(expect_error(writer.reserve_f32("/x", 3), Code::io).find("exists"), std::string::npos);
  expect_error(writer.write_bytes("/x", {}), Code::io);
  expect_error(writer.create_virtual_f32("/x", std::vector<std::int64_t>{3}, {}), Code::io);
  expect_error(writer.create_group("/x"), Code::io);
  expect_error(writer.reserve_f32("/x/inside", 3), Code::io);
  ASSERT_TRUE(writer.set_i64("/x", "n", 1));
  expect_error(writer.set_i64("/x", "n", 1), Code::io);
  expect_error(writer.set_text("/none", "n", "1"), Code::io);
  EXPECT_TRUE(writer.close());
}

// Several at a time, one given up, one moved: each has its own memory.
TEST(Hdf5Image, ManyAtOnce) {
  const TempDir dir;
  std::vector<ImageWriter> writers;
  for (int i = 0; i < 5; ++i) {
    writers.push_back(new_image());
    ASSERT_TRUE(writers.back().set_i64("/", "i", i));
  }
  writers.erase(writers.begin() + 1);
  for (ImageWriter& writer : writers) ASSERT_TRUE(writer.set_i64("/", "j", 1));
  write_file(dir / "f.h5", flat(closed(writers[1])));
  EXPECT_EQ(*reader_of(dir / "f.h5").i64("/", "i"), 2);
}

// ---- virtual datasets

void write_index(const std::string& path, const std::vector<std::int64_t>& dims,
                 const std::vector<VirtualSource>& sources) {
  ImageWriter writer = new_image();
  const auto created = writer.create_virtual_f32("/model/x", dims, sources);
  ASSERT_TRUE(created) << created.error().text();
  write_file(path, flat(closed(writer)));
}

TEST(Hdf5Virtual, RangesThatBeginAndEndWithinRows) {
  const TempDir dir;
  write_shard(dir / "a.h5", ramp(100, 100));
  write_shard(dir / "b.h5", ramp(100, 500));
  const std::vector<std::int64_t> dims{5, 7};
  // 0-2 from b, 3-11 and 20-34 from a (second part first), 12-19 from nobody.
  write_index(dir / "index.h5", dims,
              {{.file = "a.h5",
                .dataset = "/data",
                .source_elems = 100,
                .source_begin = 10,
                .runs = {{20, 15, 0, 1}, {3, 9, 9, 1}}},
               {.file = "b.h5",
                .dataset = "/data",
                .source_elems = 100,
                .source_begin = 97,
                .runs = {{0, 3, 0, 1}}}});
  const Reader reader = reader_of(dir / "index.h5");
  EXPECT_EQ(*reader.dims("/model/x"), dims);
  const std::vector<float> values = *reader.read_f32("/model/x");
  for (std::size_t i = 0; i < 35; ++i) {
    if (i < 3)
      EXPECT_EQ(values[i], static_cast<float>(597 + i));
    else if (i < 12)
      EXPECT_EQ(values[i], static_cast<float>(125 + i - 3));
    else if (i < 20)
      EXPECT_TRUE(std::isnan(values[i])) << i;
    else
      EXPECT_EQ(values[i], static_cast<float>(110 + i - 20));
  }
}

TEST(Hdf5Virtual, MovedAndMissingFiles) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "here/shards");
  write_shard(dir / "here/shards/a.h5", ramp(6, 0));
  write_shard(dir / "here/shards/b.h5", ramp(6, 6));
  std::vector<VirtualSource> sources;
  for (const std::int64_t i : {0, 1})
    sources.push_back({.file = i == 0 ? "shards/a.h5" : "shards/b.h5",
                       .dataset = "/data",
                       .source_elems = 6,
                       .source_begin = 0,
                       .runs = {{6 * i, 6, 6, 1}}});
  write_index(dir / "here/index.h5", {3, 4}, sources);
  EXPECT_EQ(*reader_of(dir / "here/index.h5").read_f32("/model/x"), ramp(12, 0));
  std::filesystem::rename(dir / "here", dir / "there");
  EXPECT_EQ(*reader_of(dir / "there/index.h5").read_f32("/model/x"), ramp(12, 0));
  std::filesystem::remove(dir / "there/shards/a.h5");
  const std::vector<float> values = *reader_of(dir / "there/index.h5").read_f32("/model/x");
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(std::isnan(values[i]), i < 6) << i;
}

// A selection of more than 2^32 elements does not fit HDF5's older form.
TEST(Hdf5Virtual, SourceOfMoreThan32Bits) {
  const TempDir dir;
  const std::int64_t begin = (std::int64_t{1} << 32) + 3;
  ImageWriter writer = new_image();
  const auto offset = writer.reserve_f32("/data", begin + 100);
  const Image image = closed(writer);
  {
    std::ofstream file(dir / "a.h5", std::ios::binary);  // sparse
    const auto put = [&](std::int64_t at, std::span<const std::byte> bytes) {
      file.seekp(at);
      file.write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
    };
    for (const ImageExtent& extent : image.extents) put(extent.offset_bytes, extent.bytes);
    const std::vector<float> values = ramp(6, 1);
    put(*offset + 4 * begin, std::as_bytes(std::span(values)));
    ASSERT_TRUE(file.good());
  }
  std::filesystem::resize_file(dir / "a.h5", static_cast<std::uintmax_t>(image.size_bytes));
  write_index(dir / "index.h5", {3, 2}, {{"a.h5", "/data", begin + 100, begin, {{0, 6, 0, 1}}}});
  EXPECT_EQ(*reader_of(dir / "index.h5").read_f32("/model/x"), ramp(6, 1));
}

TEST(Hdf5VirtualDeathTest, RefusesRunsOutside) {
  ImageWriter writer = new_image();
  const std::vector<std::int64_t> dims{4, 5};
  const auto add = [&](ElementRun run, std::int64_t source_elems) {
    const VirtualSource source{"a.h5", "/data", source_elems, 0, {run}};
    return writer.create_virtual_f32("/x", dims, {&source, 1});
  };
  EXPECT_DEATH((void)add({0, 21, 0, 1}, 100), "");
  EXPECT_DEATH((void)add({16, 5, 0, 1}, 100), "");
  EXPECT_DEATH((void)add({0, 5, 16, 2}, 100), "");
  EXPECT_DEATH((void)add({0, 5, 4, 2}, 100), "");
  EXPECT_DEATH((void)add({0, 5, std::int64_t{1} << 62, 4}, 100), "");
  EXPECT_DEATH((void)add({0, 5, 10, 2}, 9), "");
  EXPECT_TRUE(add({0, 5, 15, 2}, 10));
}

/// Consecutive elements of a tensor that one source gets.
struct Part {
  std::int64_t begin = 0, elems = 0;
};

/// Parts in the order the source keeps them; ranges of one length and distance become one run.
std::vector<ElementRun> runs_of(const std::vector<Part>& parts) {
  std::vector<ElementRun> runs;
  for (const Part& part : parts) {
    if (!runs.empty() && runs.back().elems == part.elems) {
      ElementRun& last = runs.back();
      const std::int64_t distance = part.begin - (last.begin + (last.count - 1) * last.stride);
      if (distance >= part.elems && (last.count == 1 || distance == last.stride)) {
        last.stride = distance;
        ++last.count;
        continue;
      }
    }
    runs.push_back({part.begin, part.elems, part.elems, 1});
  }
  return runs;
}

/// Deals a tensor out in blocks, in turn or at random, in order or shuffled.
std::vector<std::vector<Part>> deal(std::int64_t elems, std::size_t source_count,
                                    std::mt19937_64& random) {
  const bool in_turn = random() % 3 != 0, shuffled = !in_turn && random() % 2 == 0;
  const std::int64_t block = 1 + static_cast<std::int64_t>(random() % 40);
  std::vector<std::vector<Part>> parts(source_count);
  std::size_t turn = 0;
  for (std::int64_t begin = 0; begin < elems;) {
    std::int64_t length = block;
    if (!in_turn) length = 1 + static_cast<std::int64_t>(random() % 50);
    length = std::min(length, elems - begin);
    parts[(in_turn ? turn++ : random()) % source_count].push_back({begin, length});
    begin += length;
  }
  if (shuffled)
    for (auto& own : parts) std::shuffle(own.begin(), own.end(), random);
  return parts;
}

TEST(Hdf5Virtual, Campaign) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "shards");
  std::mt19937_64 random(3);
  std::int64_t tensors = 0, compared = 0, runs = 0;
  for (; tensors < 150; ++tensors) {
    std::vector<std::int64_t> dims;
    for (std::size_t rank = 1 + random() % 3; rank > 0; --rank)
      dims.push_back(1 + static_cast<std::int64_t>(random() % (dims.size() < 2 ? 40 : 5)));
    const std::int64_t elems =
        std::accumulate(dims.begin(), dims.end(), std::int64_t{1}, std::multiplies<>());
    const std::vector<float> truth = ramp(elems, static_cast<float>(tensors * 10'000));
    std::vector<VirtualSource> sources;
    const auto parts = deal(elems, 1 + random() % 4, random);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      // Other numbers before and behind, as other tensors are.
      std::vector<float> stored(random() % 3, -1.0f);
      const auto begin = std::ssize(stored);
      for (const Part& part : parts[i])
        stored.insert(stored.end(), truth.begin() + part.begin,
                      truth.begin() + part.begin + part.elems);
      stored.resize(stored.size() + 1 + random() % 3, -2.0f);
      const std::string file = fmt::format("shards/{}.h5", i);
      write_shard(dir / file, stored);
      sources.push_back({file, "/data", std::ssize(stored), begin, runs_of(parts[i])});
      runs += std::ssize(sources.back().runs);
    }
    write_index(dir / "index.h5", dims, sources);
    const auto values = reader_of(dir / "index.h5").read_f32("/model/x");
    ASSERT_TRUE(values) << values.error().text();
    ASSERT_EQ(*values, truth) << "tensor " << tensors;
    compared += elems;
  }
  fmt::print("campaign: {} virtual datasets from {} runs, {} elements compared\n", tensors, runs,
             compared);
}

// Blocks of 16384 elements dealt in turn, the largest tensor of GPT-2: patterns, not boxes.
TEST(Hdf5Virtual, FewMappingsForDealtBlocks) {
  const std::vector<std::int64_t> dims{50257, 768};
  const std::int64_t elems = dims[0] * dims[1], block = 16384, source_count = 8;
  std::vector<VirtualSource> sources;
  std::size_t mappings = 0;
  for (std::int64_t i = 0; i < source_count; ++i) {
    std::vector<Part> parts;
    for (std::int64_t begin = i * block; begin < elems; begin += source_count * block)
      parts.push_back({begin, std::min(block, elems - begin)});
    sources.push_back({fmt::format("{}.h5", i), "/data", elems, 0, runs_of(parts)});
    mappings += virtual_mappings(dims, sources.back().runs, 0).size();
  }
  EXPECT_LE(mappings, 8u * 9 + 2);
  ImageWriter writer = new_image();
  ASSERT_TRUE(writer.create_virtual_f32("/x", dims, sources));
  EXPECT_LT(closed(writer).size_bytes, 65536);
}

TEST(VirtualLayout, WholeRowsAreOneMapping) {
  const std::vector<std::int64_t> dims{100, 8};
  const std::vector<ElementRun> runs{{16, 24, 80, 9}};
  const auto mappings = virtual_mappings(dims, runs, 5);
  ASSERT_EQ(mappings.size(), 1u);
  EXPECT_EQ(mappings[0].target, (std::vector<Slab>{{2, 10, 9, 3}, {0, 1, 1, 8}}));
  EXPECT_EQ(mappings[0].source, (Slab{5, 1, 1, 216}));
}

TEST(VirtualLayout, AdjacentRangesAreOne) {
  const std::vector<std::int64_t> dims{4, 6};
  const auto mappings = virtual_mappings(dims, std::vector<ElementRun>{{0, 4, 4, 6}}, 0);
  ASSERT_EQ(mappings.size(), 1u);
  EXPECT_EQ(mappings[0].target, (std::vector<Slab>{{0, 1, 1, 4}, {0, 1, 1, 6}}));
}

// Against a plain array.
TEST(SparseBytes, Campaign) {
  std::mt19937_64 random(4);
  std::int64_t writes = 0;
  for (int round = 0; round < 50; ++round) {
    SparseBytes bytes;
    std::vector<std::byte> plain(1000);
    std::vector<bool> written(1001);
    for (int i = 0; i < 60; ++i, ++writes) {
      const std::size_t begin = random() % 960, size = random() % 40;
      std::vector<std::byte> piece(size);
      for (std::byte& byte : piece) byte = static_cast<std::byte>(random() % 255 + 1);
      bytes.write(static_cast<std::int64_t>(begin), piece);
      std::copy(piece.begin(), piece.end(), plain.begin() + static_cast<std::ptrdiff_t>(begin));
      for (std::size_t k = begin; k < begin + size; ++k) written[k] = true;
      if (i == 40) {
        const std::size_t end = random() % 1000;
        bytes.cut(static_cast<std::int64_t>(end));
        for (std::size_t k = end; k < 1000; ++k) {
          plain[k] = std::byte{};
          written[k] = false;
        }
      }
    }
    std::int64_t held = 0, end = -1;
    for (const auto& [begin, extent] : bytes.extents()) {
      EXPECT_GT(begin, end);
      end = begin + std::ssize(extent);
      held += std::ssize(extent);
    }
    EXPECT_EQ(held, std::count(written.begin(), written.end(), true));
    for (int i = 0; i < 20; ++i) {
      const std::size_t begin = random() % 900, size = random() % 100;
      std::vector<std::byte> out(size, std::byte{77});
      bytes.read(static_cast<std::int64_t>(begin), out);
      EXPECT_TRUE(
          std::equal(out.begin(), out.end(), plain.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }
  fmt::print("campaign: {} sparse writes\n", writes);
}

}  // namespace
}  // namespace elaswave::hdf5
