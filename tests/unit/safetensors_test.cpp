// The safetensors writer: its bytes against the format's rules (judged by
// scripts/check_safetensors.py too), what it refuses, and that a failure at any file operation
// leaves the old file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "io/checkpoint/safetensors.h"
#include "tests/support/fake_file_system.h"
#include "tests/support/temp_dir.h"

namespace elaswave::checkpoint {
namespace {

using elaswave::testing::expect_error;
using elaswave::testing::read_file;
using elaswave::testing::TempDir;
using elaswave::testing::write_file;
using Json = nlohmann::json;

struct File {
  Json header;
  std::string data;
};

/// Length, JSON, numbers.
File parse(const std::string& text) {
  std::uint64_t length = 0;
  EXPECT_GE(text.size(), sizeof(length));
  std::memcpy(&length, text.data(), sizeof(length));
  EXPECT_EQ(length % 8, 0U);
  EXPECT_LE(8 + length, text.size());
  return {Json::parse(text.substr(8, length)), text.substr(8 + length)};
}

std::vector<float> numbers(std::int64_t count, float first) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(first + static_cast<float>(i));
  return values;
}

/// Tensor t of the file holds 1000 * t, 1000 * t + 1, ...; written in parts of `part_elems`.
Result<void> write_all(SafetensorsWriter& writer, std::int64_t part_elems) {
  for (std::int64_t t = 0; t < std::ssize(writer.tensors()); ++t) {
    const std::vector<float> values =
        numbers(writer.tensors()[static_cast<std::size_t>(t)].elems(), 1000.0F * t);
    std::span<const float> rest = values;
    while (!rest.empty()) {
      const auto part = rest.first(std::min<std::size_t>(part_elems, rest.size()));
      EW_TRY(writer.write(t, part));
      rest = rest.subspan(part.size());
    }
  }
  return writer.close();
}

Result<void> write_file_of(FileSystem& files, const std::string& path, std::vector<Tensor> tensors,
                           const Facts& metadata = {}, std::int64_t part_elems = 7) {
  EW_ASSIGN(auto writer, SafetensorsWriter::create(files, path, std::move(tensors), metadata));
  return write_all(writer, part_elems);
}

int checker(const std::string& arguments) {
  const std::string command =
      std::string(ELASWAVE_PYTHON " -B " ELASWAVE_SOURCE_DIR "/scripts/check_safetensors.py ") +
      arguments + " >/dev/null";
  return std::system(command.c_str());
}

TEST(Safetensors, KnownBytes) {
  const TempDir dir;
  const auto files = make_file_system();
  const std::string path = dir / "one.safetensors";
  ASSERT_TRUE(write_file_of(*files, path, {{"w", {2}}}).has_value());
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string padding(7 - (json.size() + 7) % 8, ' ');
  const auto length = static_cast<char>(json.size() + padding.size());
  EXPECT_EQ(read_file(path), std::string{length} + std::string(7, '\0') + json + padding +
                                 elaswave::testing::bytes_of<float>({0, 1}));
}

TEST(Safetensors, LiesByNameWithoutGaps) {
  const TempDir dir;
  const auto files = make_file_system();
  const std::string path = dir / "model.safetensors";
  const std::vector<Tensor> given = {{"h.2.b", {3}},     {"h.10.b", {2, 5}}, {"zero", {0, 4}},
                                     {"wte", {4, 3, 2}}, {"scalar", {}},     {"h.1.b", {1}}};
  const Facts metadata = {{"run", "r \"1\"\n"}, {"step", "12"}};
  ASSERT_TRUE(write_file_of(*files, path, given, metadata).has_value());
  const File file = parse(read_file(path));
  EXPECT_EQ(file.header.at("__metadata__"),
            (Json{{"format", "pt"}, {"run", "r \"1\"\n"}, {"step", "12"}}));
  const std::vector<std::string> order = {"h.1.b", "h.10.b", "h.2.b", "scalar", "wte", "zero"};
  ASSERT_EQ(file.header.size(), order.size() + 1);
  std::int64_t end = 0;
  for (std::size_t t = 0; t < order.size(); ++t) {
    const Json& entry = file.header.at(order[t]);
    const auto source = std::find_if(given.begin(), given.end(),
                                     [&](const Tensor& tensor) { return tensor.name == order[t]; });
    EXPECT_EQ(entry.at("dtype"), "F32");
    EXPECT_EQ(entry.at("shape"), Json(source->shape));
    const std::vector<float> values = numbers(source->elems(), 1000.0F * static_cast<float>(t));
    const std::int64_t begin = end;
    end += 4 * source->elems();
    EXPECT_EQ(entry.at("data_offsets"), (Json{begin, end}));
    EXPECT_EQ(file.data.substr(begin, end - begin), elaswave::testing::bytes_of(values));
  }
  EXPECT_EQ(std::ssize(file.data), end);
  EXPECT_EQ(dir.names(), std::vector<std::string>{"model.safetensors"});
  EXPECT_EQ(checker(path), 0);
}

TEST(Safetensors, HeaderIsAlignedWhateverItsLength) {
  const TempDir dir;
  const auto files = make_file_system();
  std::string paths;
  for (std::size_t length = 1; length <= 16; ++length) {
    const std::string path = dir / std::to_string(length);
    ASSERT_TRUE(write_file_of(*files, path, {{std::string(length, 'n'), {5}}}).has_value());
    const File file = parse(read_file(path));
    EXPECT_EQ(file.data, elaswave::testing::bytes_of(numbers(5, 0)));
    paths += path + " ";
  }
  EXPECT_EQ(checker(paths), 0);
}

TEST(Safetensors, PartsOfAnySizeGiveTheSameFile) {
  const TempDir dir;
  const auto files = make_file_system();
  std::set<std::string> contents;
  for (const std::int64_t part : {1, 2, 7, 30, 1000}) {
    const std::string path = dir / std::to_string(part);
    ASSERT_TRUE(write_file_of(*files, path, {{"a", {5, 6}}, {"b", {31}}}, {}, part).has_value());
    contents.insert(read_file(path));
  }
  EXPECT_EQ(contents.size(), 1U);
}

TEST(Safetensors, NoTensorsIsAFile) {
  const TempDir dir;
  const auto files = make_file_system();
  ASSERT_TRUE(write_file_of(*files, dir / "none", {}).has_value());
  EXPECT_EQ(parse(read_file(dir / "none")).data, "");
  EXPECT_EQ(checker(dir / "none"), 0);
}

TEST(Safetensors, BitsAreKept) {
  const TempDir dir;
  const auto files = make_file_system();
  std::vector<float> values = {-0.0F, std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::denorm_min(), 0};
  const std::uint32_t odd_nan = 0x7fa12345;
  std::memcpy(&values[3], &odd_nan, sizeof(odd_nan));
  auto writer = SafetensorsWriter::create(*files, dir / "bits", {{"x", {4}}}, {});
  ASSERT_TRUE(writer.has_value());
  ASSERT_TRUE(writer->write(0, values).has_value());
  ASSERT_TRUE(writer->close().has_value());
  EXPECT_EQ(parse(read_file(dir / "bits")).data, elaswave::testing::bytes_of(values));
}

TEST(Safetensors, RefusesWhatTheFormatCannotHold) {
  const TempDir dir;
  const auto files = make_file_system();
  const std::int64_t huge = std::int64_t{1} << 60;
  const std::vector<std::vector<Tensor>> unfit = {{{"a", {1}}, {"a", {1}}},
                                                  {{"__metadata__", {1}}},
                                                  {{"a", {-1}}},
                                                  {{"a", {huge, huge}}},
                                                  {{"a", {huge}}, {"b", {huge}}}};
  for (const auto& tensors : unfit)
    expect_error(SafetensorsWriter::create(*files, dir / "x", tensors, {}), Code::data);
  const std::string long_name(static_cast<std::size_t>(kSafetensorsHeaderLimitBytes), 'n');
  expect_error(SafetensorsWriter::create(*files, dir / "x", {{long_name, {1}}}, {}), Code::data);
  expect_error(SafetensorsWriter::create(*files, dir / "no/x", {{"a", {1}}}, {}), Code::data);
  EXPECT_TRUE(dir.names().empty());
}

TEST(Safetensors, UnfinishedLeavesTheOldFile) {
  const TempDir dir;
  const auto files = make_file_system();
  write_file(dir / "x", "old");
  {
    auto writer = SafetensorsWriter::create(*files, dir / "x", {{"a", {3}}}, {});
    ASSERT_TRUE(writer.has_value());
    SafetensorsWriter moved = std::move(*writer);
    ASSERT_TRUE(moved.write(0, std::vector<float>{1, 2}).has_value());
  }
  EXPECT_EQ(read_file(dir / "x"), "old");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"x"});
}

TEST(Safetensors, ReaderSeesOldOrNewWheneverTheWriterEnds) {
  elaswave::testing::FakeFileSystem before;
  ASSERT_TRUE(write_file_of(before, "/model", {{"old", {3}}}).has_value());
  ASSERT_TRUE(before.sync_directory("/").has_value());
  const std::string old_file = before.contents("/model");
  elaswave::testing::FakeFileSystem whole = before.clone();
  ASSERT_TRUE(write_file_of(whole, "/model", {{"new", {40}}}).has_value());
  const std::string new_file = whole.contents("/model");
  using Keep = elaswave::testing::CrashPolicy::Keep;
  int cuts = 0, changed = 0;
  for (std::int64_t count = 0; count <= whole.operation_count(); ++count)
    for (const Keep keep : {Keep::nothing, Keep::everything, Keep::directories, Keep::data}) {
      elaswave::testing::FakeFileSystem files = before.clone();
      files.kill_after(count);
      const bool done = write_file_of(files, "/model", {{"new", {40}}}).has_value();
      EXPECT_EQ(done, count == whole.operation_count());
      const std::string found = files.crash({.keep = keep}).contents("/model");
      EXPECT_TRUE(found == new_file || (!done && found == old_file)) << count;
      changed += found == new_file ? 1 : 0;
      ++cuts;
    }
  EXPECT_GT(changed, 0);
  std::printf("campaign: %d ends of a safetensors writer, old or new file after each\n", cuts);
}

TEST(Safetensors, EverySyncAndRenameIsNeeded) {
  elaswave::testing::FakeFileSystem before;
  elaswave::testing::FakeFileSystem whole = before.clone();
  ASSERT_TRUE(write_file_of(whole, "/model", {{"new", {40}}}).has_value());
  const std::string new_file = whole.contents("/model");
  using Keep = elaswave::testing::CrashPolicy::Keep;
  int mutants = 0;
  const std::vector<std::string> trace = whole.trace();
  for (std::int64_t at = 0; at < std::ssize(trace); ++at) {
    const std::string& operation = trace[static_cast<std::size_t>(at)];
    if (!operation.starts_with("sync") && !operation.starts_with("rename")) continue;
    elaswave::testing::FakeFileSystem files = before.clone();
    files.ignore_operation(at);
    ASSERT_TRUE(write_file_of(files, "/model", {{"new", {40}}}).has_value()) << operation;
    bool caught = false;
    for (const Keep keep : {Keep::nothing, Keep::directories}) {
      const auto after = files.crash({.keep = keep});
      const std::vector<std::string> names = after.all_files();
      const bool there = std::find(names.begin(), names.end(), "/model") != names.end();
      caught = caught || !there || after.contents("/model") != new_file;
    }
    EXPECT_TRUE(caught) << operation;
    ++mutants;
  }
  EXPECT_EQ(mutants, 3);
}

TEST(Safetensors, FailuresLeaveTheOldFileAlone) {
  elaswave::testing::FakeFileSystem before;
  ASSERT_TRUE(write_file_of(before, "/model", {{"old", {3}}}).has_value());
  const std::string old_file = before.contents("/model");
  elaswave::testing::FakeFileSystem whole = before.clone();
  ASSERT_TRUE(write_file_of(whole, "/model", {{"new", {40}}}).has_value());
  // The last operation is the sync of the directory: the file has its name by then.
  for (std::int64_t at = 0; at < whole.operation_count(); ++at) {
    elaswave::testing::FakeFileSystem files = before.clone();
    files.fail_operation(at, ENOSPC);
    expect_error(write_file_of(files, "/model", {{"new", {40}}}), Code::io);
    if (at + 1 < whole.operation_count()) {
      EXPECT_EQ(files.contents("/model"), old_file) << at;
    }
    EXPECT_EQ(files.all_files(), std::vector<std::string>{"/model"}) << at;
  }
}

TEST(SafetensorsDeathTest, WrongOrderOrCountIsABug) {
  const TempDir dir;
  const auto files = make_file_system();
  auto writer = SafetensorsWriter::create(*files, dir / "x", {{"a", {3}}, {"b", {1}}}, {});
  ASSERT_TRUE(writer.has_value());
  const std::vector<float> values(4);
  EXPECT_DEATH(static_cast<void>(writer->write(0, values)), "elements of a");
  EXPECT_DEATH(static_cast<void>(writer->write(1, std::span(values).first(1))), "elements of a");
  EXPECT_DEATH(static_cast<void>(writer->write(2, values)), "tensor 2 of 2");
  EXPECT_DEATH(static_cast<void>(writer->close()), "elements of a");
}

TEST(Safetensors, CheckerSeesEveryHeaderByte) {
  const TempDir dir;
  const auto files = make_file_system();
  ASSERT_TRUE(write_file_of(*files, dir / "good", {{"a", {2, 3}}, {"b", {4}}}).has_value());
  const std::string good = read_file(dir / "good");
  const std::size_t header_bytes = good.size() - 4 * (6 + 4);
  // The checker reads many files in one call; each must be named as an offender.
  std::string paths;
  int count = 0;
  for (std::size_t at = 0; at < header_bytes; ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x80);  // no byte of the JSON is a lead byte then
    write_file(dir / std::to_string(at), bad);
    paths += dir / std::to_string(at) + " ";
    ++count;
  }
  const std::string listing = dir / "said";
  const std::string command =
      std::string(ELASWAVE_PYTHON " -B " ELASWAVE_SOURCE_DIR "/scripts/check_safetensors.py ") +
      paths + " >" + listing;
  EXPECT_NE(std::system(command.c_str()), 0);
  const std::string said = read_file(listing);
  EXPECT_EQ(said.find(" tensors, "), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), count);
  std::printf("campaign: %d damaged safetensors headers, all refused by the checker\n", count);
}

}  // namespace
}  // namespace elaswave::checkpoint
