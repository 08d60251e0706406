// io/base/file: what happens to bytes, names and errors.
#include "io/base/file.h"

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace elaswave {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(File, ReadsAndWritesAtOffsets) {
  const TempDir dir;
  auto file = File::create(dir / "a");
  ASSERT_TRUE(file) << file.error().text();
  ASSERT_TRUE(file->write_all(as_bytes("0123456789")));
  ASSERT_TRUE(file->write_at(3, as_bytes("xy")));
  std::string back(4, '?');
  ASSERT_TRUE(file->read_at(2, std::as_writable_bytes(std::span(back))));
  EXPECT_EQ(back, "2xy5");
  EXPECT_EQ(*file->size_bytes(), 10);
  expect_error(file->read_at(8, std::as_writable_bytes(std::span(back))), Code::data);
  ASSERT_TRUE(file->resize(4));
  EXPECT_EQ(read_file(dir / "a"), "012x");
}

TEST(File, AppendKeepsWhatIsThere) {
  const TempDir dir;
  write_file(dir / "a", "one\n");
  auto file = File::append(dir / "a");
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write_all(as_bytes("two\n")));
  EXPECT_EQ(read_file(dir / "a"), "one\ntwo\n");
}

TEST(File, ErrorsNameThePath) {
  const TempDir dir;
  EXPECT_NE(expect_error(File::open(dir / "none"), Code::data).find(dir / "none"),
            std::string::npos);
  expect_error(File::open(dir.path()), Code::data);
  expect_error(File::create(dir / "no/such/dir"), Code::data);
  expect_error(MappedFile::open(dir / "none"), Code::data);
  expect_error(MappedFile::open(dir.path()), Code::data);
  expect_error(MappedFile::open("/dev/null"), Code::data);
  expect_error(ReplacementFile::create(dir.path()), Code::data);
  auto full = File::create("/dev/full");
  ASSERT_TRUE(full);
  expect_error(full->write_all(as_bytes("x")), Code::io);
}

TEST(ReplacementFile, IsAllOrNothing) {
  const TempDir dir;
  write_file(dir / "a", "old");
  {
    auto replacement = ReplacementFile::create(dir / "a");
    ASSERT_TRUE(replacement);
    ASSERT_TRUE(replacement->file().write_all(as_bytes("half")));
    EXPECT_EQ(dir.names().size(), 2u);
  }
  EXPECT_EQ(dir.names(), std::vector<std::string>{"a"});
  EXPECT_EQ(read_file(dir / "a"), "old");
  auto replacement = ReplacementFile::create(dir / "a");
  ASSERT_TRUE(replacement);
  ASSERT_TRUE(replacement->file().write_all(as_bytes("new")));
  EXPECT_EQ(read_file(dir / "a"), "old");
  ASSERT_TRUE(replacement->publish());
  EXPECT_EQ(read_file(dir / "a"), "new");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"a"});
}

TEST(MappedFile, MovesAndMapsEmptyFiles) {
  const TempDir dir;
  write_file(dir / "empty", "");
  write_file(dir / "a", "abc");
  auto empty = MappedFile::open(dir / "empty");
  ASSERT_TRUE(empty);
  EXPECT_TRUE(empty->bytes().empty());
  auto mapped = MappedFile::open(dir / "a");
  ASSERT_TRUE(mapped);
  MappedFile moved = *std::move(mapped);
  EXPECT_EQ(moved.bytes().size(), 3u);
  EXPECT_EQ(moved.bytes()[1], std::byte{'b'});
  EXPECT_TRUE(mapped->bytes().empty());
}

TEST(FileLock, OneAtATimeAndGoneWithItsOwner) {
  const std::string path = ::testing::TempDir() + "elaswave-lock";
  auto first = FileLock::try_acquire(path);
  ASSERT_TRUE(first && *first);
  // Another open file, as another process would have.
  const auto second = FileLock::try_acquire(path);
  ASSERT_TRUE(second);
  EXPECT_FALSE(*second);
  first->reset();
  const auto third = FileLock::try_acquire(path);
  EXPECT_TRUE(third && *third);
  EXPECT_FALSE(FileLock::try_acquire(path + "/below"));
}

TEST(FileLock, AnHeirLocksTheNameWhateverTheOldOwnerHolds) {
  const TempDir dir;
  const std::string path = dir / ".lock";
  auto old_owner = FileLock::try_acquire(path, "run 0");
  ASSERT_TRUE(old_owner && *old_owner);
  EXPECT_TRUE((*old_owner)->is_named());
  auto heir = FileLock::take_over(path, "run 1");
  ASSERT_TRUE(heir) << heir.error().text();
  EXPECT_FALSE((*old_owner)->is_named());
  EXPECT_TRUE(heir->is_named());
  EXPECT_EQ(read_file(path), "run 1");
  EXPECT_EQ(dir.names(), std::vector<std::string>{".lock"});
  old_owner->reset();  // it dies at last: nothing becomes free
  const auto stranger = FileLock::try_acquire(path, "other 0");
  ASSERT_TRUE(stranger);
  EXPECT_FALSE(*stranger);
  EXPECT_EQ(read_file(path), "run 1");
  heir = FileLock();
  const auto later = FileLock::try_acquire(path, "other 0");
  EXPECT_TRUE(later && *later);
  EXPECT_EQ(read_file(path), "other 0");
  EXPECT_FALSE(FileLock().is_named());
  EXPECT_FALSE(FileLock::take_over(dir / "none/.lock", ""));
}

TEST(ReplacementFile, StaysOpenUnderItsName) {
  const TempDir dir;
  write_file(dir / "a", "old");
  auto replacement = ReplacementFile::create(dir / "a");
  ASSERT_TRUE(replacement);
  ASSERT_TRUE(replacement->file().write_all(std::as_bytes(std::span("new", 3))));
  EXPECT_EQ(read_file(dir / "a"), "old");
  auto file = ReplacementFile::publish_and_keep(*std::move(replacement));
  ASSERT_TRUE(file) << file.error().text();
  EXPECT_EQ(file->path(), dir / "a");
  EXPECT_TRUE(file->is_named());
  ASSERT_TRUE(file->write_all(std::as_bytes(std::span("er", 2))));
  EXPECT_EQ(read_file(dir / "a"), "newer");
  EXPECT_EQ(dir.names(), std::vector<std::string>{"a"});
  write_file(dir / "a", "another");
  EXPECT_FALSE(file->is_named());
  std::filesystem::remove(dir / "a");
  EXPECT_FALSE(file->is_named());
}

}  // namespace
}  // namespace elaswave
