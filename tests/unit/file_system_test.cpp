// io/base/file_system: the operating system's files behind the seam.
#include "io/base/file_system.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <new>
#include <random>

#include "tests/support/temp_dir.h"

namespace elaswave {
namespace {

using testing::expect_error;
using testing::read_file;
using testing::TempDir;
using testing::write_file;
using Type = DirectoryEntry::Type;

struct AlignedDelete {
  void operator()(std::byte* memory) const {
    ::operator delete[](memory, std::align_val_t{kDirectAlignment});
  }
};
/// Memory that direct transfers accept.
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;
AlignedBytes aligned_bytes(std::int64_t size_bytes) {
  return AlignedBytes(new (std::align_val_t{kDirectAlignment})
                          std::byte[static_cast<std::size_t>(size_bytes)]());
}

class FileSystemTest : public ::testing::Test {
 protected:
  std::unique_ptr<FileHandle> create(const std::string& path, Caching caching) {
    auto file = files_->create(path, caching);
    EXPECT_TRUE(file) << file.error().text();
    return file ? std::move(*file) : nullptr;
  }

  TempDir dir_;
  std::unique_ptr<FileSystem> files_ = make_file_system();
};

/// Random writes at any offset and size, from memory of any alignment, then reads of the same kind.
void round_trips(FileSystem& files, const std::string& path, Caching caching) {
  constexpr std::int64_t kSizeBytes = 200000;
  std::mt19937_64 random(11);
  const auto memory = aligned_bytes(2 * kSizeBytes);
  std::vector<std::byte> expected;
  {
    auto file = files.create(path, caching);
    ASSERT_TRUE(file) << file.error().text();
    for (int i = 0; i < 60; ++i) {
      const bool is_aligned = i % 3 != 2;
      const auto unit = is_aligned ? kDirectAlignment : std::int64_t{1};
      const auto offset = static_cast<std::int64_t>(random() % (kSizeBytes / 2)) / unit * unit;
      const auto size = static_cast<std::size_t>(random() % (kSizeBytes / 2) + 1);
      const auto bytes = std::span(memory.get() + (is_aligned ? 0 : random() % 5000), size);
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
      const auto written = (*file)->write_at(offset, bytes);
      ASSERT_TRUE(written) << written.error().text();
      expected.resize(std::max(expected.size(), static_cast<std::size_t>(offset) + size));
      std::copy(bytes.begin(), bytes.end(), expected.begin() + offset);
    }
    ASSERT_TRUE((*file)->sync());
    EXPECT_EQ(*(*file)->size_bytes(), std::ssize(expected));
  }
  const auto* text = reinterpret_cast<const char*>(expected.data());
  EXPECT_TRUE(read_file(path) == std::string_view(text, expected.size()));
  for (int i = 0; i < 60; ++i) {
    auto file = files.open(path, caching);
    ASSERT_TRUE(file) << file.error().text();
    const bool is_aligned = i % 2 == 0;
    const auto unit = is_aligned ? kDirectAlignment : std::int64_t{1};
    const auto offset = static_cast<std::int64_t>(random() % expected.size()) / unit * unit;
    const auto rest = std::ssize(expected) - offset;
    const auto size = i < 4 ? rest : static_cast<std::int64_t>(random() % rest);
    const auto out = std::span(memory.get() + (is_aligned ? 0 : random() % 5000),
                               static_cast<std::size_t>(size));
    const auto got = (*file)->read_at(offset, out);
    ASSERT_TRUE(got) << got.error().text();
    ASSERT_TRUE(std::equal(out.begin(), out.end(), expected.begin() + offset)) << offset;
  }
}

TEST_F(FileSystemTest, RoundTripsBuffered) {
  round_trips(*files_, dir_ / "a", Caching::buffered);
}

TEST_F(FileSystemTest, RoundTripsDirect) {
  round_trips(*files_, dir_ / "a", Caching::direct);
}

/// Whether the process' only descriptor of this file is direct, from outside of the object.
bool is_direct(const std::string& path) {
  for (int descriptor = 3; descriptor < 64; ++descriptor) {
    char target[PATH_MAX] = {};
    const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
    if (::readlink(link.c_str(), target, sizeof target - 1) > 0 && path == target)
      return (::fcntl(descriptor, F_GETFL) & O_DIRECT) != 0;
  }
  ADD_FAILURE() << "not open: " << path;
  return false;
}

bool takes_direct(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
  if (descriptor >= 0) ::close(descriptor);
  ::unlink(path.c_str());
  return descriptor >= 0;
}

TEST_F(FileSystemTest, StaysDirectUntilATransferCannotBe) {
  if (!takes_direct(dir_ / "probe")) GTEST_SKIP() << "no O_DIRECT in " << dir_.path();
  const auto memory = aligned_bytes(3 * kDirectAlignment);
  const auto all = std::span(memory.get(), 3 * kDirectAlignment);
  {
    const auto file = create(dir_ / "a", Caching::direct);
    EXPECT_TRUE(is_direct(dir_ / "a"));
    ASSERT_TRUE(file->reserve(3 * kDirectAlignment));
    ASSERT_TRUE(file->write_at(0, all));
    EXPECT_TRUE(is_direct(dir_ / "a"));
    ASSERT_TRUE(file->write_at(3 * kDirectAlignment, all.first(kDirectAlignment + 5)));
    EXPECT_FALSE(is_direct(dir_ / "a"));
    EXPECT_EQ(*file->size_bytes(), 4 * kDirectAlignment + 5);
  }
  const auto file = files_->open(dir_ / "a", Caching::direct);
  ASSERT_TRUE(file);
  ASSERT_TRUE((*file)->read_at(kDirectAlignment, all));
  EXPECT_TRUE(is_direct(dir_ / "a"));
  ASSERT_TRUE((*file)->read_at(1, all.first(kDirectAlignment)));
  EXPECT_FALSE(is_direct(dir_ / "a"));
  const auto buffered = create(dir_ / "b", Caching::buffered);
  EXPECT_FALSE(is_direct(dir_ / "b"));
}

TEST_F(FileSystemTest, ReadsEndWhereTheFileEnds) {
  for (const Caching caching : {Caching::buffered, Caching::direct}) {
    for (const std::int64_t size : {0l, 1l, 4095l, 4096l, 4097l, 8192l}) {
      write_file(dir_ / "a", std::string(static_cast<std::size_t>(size), 'x'));
      const auto file = files_->open(dir_ / "a", caching);
      ASSERT_TRUE(file);
      EXPECT_EQ((*file)->path(), dir_ / "a");
      EXPECT_EQ(*(*file)->size_bytes(), size);
      const auto memory = aligned_bytes(4 * kDirectAlignment);
      const auto out = std::span(memory.get(), static_cast<std::size_t>(size));
      EXPECT_TRUE((*file)->read_at(0, out));
      EXPECT_TRUE((*file)->read_at(0, {}));
      expect_error((*file)->read_at(0, std::span(memory.get(), out.size() + 1)), Code::data);
      expect_error((*file)->read_at(0, std::span(memory.get(), 4 * kDirectAlignment)), Code::data);
      expect_error((*file)->read_at(size + 1, std::span(memory.get(), 1)), Code::data);
    }
  }
}

TEST_F(FileSystemTest, CreateIsExclusiveAndOpenDoesNotWrite) {
  write_file(dir_ / "a", "old");
  for (const Caching caching : {Caching::buffered, Caching::direct}) {
    EXPECT_NE(expect_error(files_->create(dir_ / "a", caching), Code::io).find(dir_ / "a"),
              std::string::npos);
    expect_error(files_->create(dir_.path(), caching), Code::io);
    expect_error(files_->create(dir_ / "no/such", caching), Code::data);
    expect_error(files_->open(dir_ / "none", caching), Code::data);
    expect_error(files_->open(dir_.path(), caching), Code::data);
  }
  EXPECT_EQ(read_file(dir_ / "a"), "old");
  const auto file = files_->open(dir_ / "a", Caching::buffered);
  ASSERT_TRUE(file);
  expect_error((*file)->write_at(0, std::as_bytes(std::span("x", 1))), Code::io);
  ASSERT_EQ(::symlink((dir_ / "target").c_str(), (dir_ / "link").c_str()), 0);
  expect_error(files_->create(dir_ / "link", Caching::buffered), Code::io);
  EXPECT_EQ(dir_.names(), (std::vector<std::string>{"a", "link"}));
}

TEST_F(FileSystemTest, RenameReplacesFilesAndEmptyDirectories) {
  write_file(dir_ / "a", "new");
  write_file(dir_ / "b", "old");
  ASSERT_TRUE(files_->rename(dir_ / "a", dir_ / "b"));
  EXPECT_EQ(read_file(dir_ / "b"), "new");
  for (const char* name : {"full", "empty", "other"})
    ASSERT_TRUE(files_->make_directory(dir_ / name));
  write_file(dir_ / "full/x", "1");
  write_file(dir_ / "other/y", "2");
  expect_error(files_->rename(dir_ / "full", dir_ / "other"), Code::io);
  EXPECT_EQ(read_file(dir_ / "other/y"), "2");
  ASSERT_TRUE(files_->rename(dir_ / "full", dir_ / "empty"));
  EXPECT_EQ(read_file(dir_ / "empty/x"), "1");
  expect_error(files_->rename(dir_ / "b", dir_ / "other"), Code::data);
  expect_error(files_->rename(dir_ / "other", dir_ / "b"), Code::data);
  expect_error(files_->rename(dir_ / "none", dir_ / "c"), Code::data);
  EXPECT_EQ(dir_.names(), (std::vector<std::string>{"b", "empty", "other"}));
}

TEST_F(FileSystemTest, ListsByNameAndType) {
  EXPECT_TRUE(files_->list(dir_.path())->empty());
  for (const char* name : {"b", "a10", "a9", ".hidden"}) write_file(dir_ / name, "");
  ASSERT_TRUE(files_->make_directory(dir_ / "d"));
  ASSERT_TRUE(files_->make_directory(dir_ / "d"));  // is there already
  ASSERT_EQ(::symlink((dir_ / "d").c_str(), (dir_ / "link").c_str()), 0);
  EXPECT_EQ(*files_->list(dir_.path()), (std::vector<DirectoryEntry>{{".hidden", Type::file},
                                                                     {"a10", Type::file},
                                                                     {"a9", Type::file},
                                                                     {"b", Type::file},
                                                                     {"d", Type::directory},
                                                                     {"link", Type::other}}));
  expect_error(files_->list(dir_ / "none"), Code::data);
  expect_error(files_->list(dir_ / "b"), Code::data);
  expect_error(files_->make_directory(dir_ / "b"), Code::io);
  expect_error(files_->make_directory(dir_ / "none/x"), Code::data);
  expect_error(files_->sync_directory(dir_ / "none"), Code::data);
  EXPECT_TRUE(files_->sync_directory(dir_.path()));
}

TEST_F(FileSystemTest, ExistsSeesNamesNotTargets) {
  write_file(dir_ / "a", "");
  ASSERT_EQ(::symlink((dir_ / "nowhere").c_str(), (dir_ / "dangling").c_str()), 0);
  for (const std::string& path : {dir_ / "a", dir_ / "dangling", dir_.path(), dir_.path() + "/",
                                  std::string("/"), std::string(".")})
    EXPECT_TRUE(*exists(*files_, path)) << path;
  for (const std::string& path : {dir_ / "b", dir_ / "a/b", dir_ / "no/such", dir_ / "nowhere"})
    EXPECT_FALSE(*exists(*files_, path)) << path;
}

TEST_F(FileSystemTest, MakesDirectoriesWithTheirParents) {
  ASSERT_TRUE(make_directories(*files_, dir_ / "a/b/c"));
  ASSERT_TRUE(make_directories(*files_, dir_ / "a/b/c"));
  ASSERT_TRUE(make_directories(*files_, dir_ / "a/b/d/"));
  EXPECT_EQ(*files_->list(dir_ / "a/b"),
            (std::vector<DirectoryEntry>{{"c", Type::directory}, {"d", Type::directory}}));
  ASSERT_TRUE(make_directories(*files_, "/"));
  ASSERT_TRUE(make_directories(*files_, "."));
  write_file(dir_ / "file", "");
  expect_error(make_directories(*files_, dir_ / "file"), Code::io);
  EXPECT_FALSE(make_directories(*files_, dir_ / "file/x"));
}

TEST_F(FileSystemTest, RemoveTreeStaysInTheTree) {
  ASSERT_TRUE(make_directories(*files_, dir_ / "kept/deep"));
  write_file(dir_ / "kept/deep/x", "x");
  write_file(dir_ / "kept/y", "y");
  ASSERT_TRUE(make_directories(*files_, dir_ / "tree/a/b"));
  ASSERT_TRUE(make_directories(*files_, dir_ / "tree/c"));
  write_file(dir_ / "tree/a/b/z", "z");
  ASSERT_EQ(::symlink((dir_ / "kept").c_str(), (dir_ / "tree/a/link").c_str()), 0);
  ASSERT_EQ(::symlink((dir_ / "kept/y").c_str(), (dir_ / "tree/file_link").c_str()), 0);
  ASSERT_TRUE(remove_tree(*files_, dir_ / "tree"));
  ASSERT_TRUE(remove_tree(*files_, dir_ / "tree"));  // is gone already
  ASSERT_EQ(::symlink((dir_ / "kept").c_str(), (dir_ / "link").c_str()), 0);
  ASSERT_TRUE(remove_tree(*files_, dir_ / "link"));
  EXPECT_EQ(dir_.names(), std::vector<std::string>{"kept"});
  EXPECT_EQ(read_file(dir_ / "kept/deep/x") + read_file(dir_ / "kept/y"), "xy");
  expect_error(files_->remove_directory(dir_ / "kept"), Code::io);
  expect_error(files_->remove_file(dir_ / "kept"), Code::data);
  expect_error(files_->remove_directory(dir_ / "kept/y"), Code::data);
  expect_error(files_->remove_file(dir_ / "none"), Code::data);
  ASSERT_TRUE(remove_tree(*files_, dir_ / "kept/y"));
  ASSERT_TRUE(remove_tree(*files_, dir_ / "kept/"));
  EXPECT_TRUE(dir_.names().empty());
}

TEST_F(FileSystemTest, TextsRoundTrip) {
  const std::string text = std::string("one\0two\n", 8) + std::string(100000, 'x');
  ASSERT_TRUE(write_text(*files_, dir_ / "a", text));
  EXPECT_TRUE(*read_text(*files_, dir_ / "a") == text);
  expect_error(write_text(*files_, dir_ / "a", "other"), Code::io);
  EXPECT_TRUE(*read_text(*files_, dir_ / "a") == text);
  ASSERT_TRUE(write_text(*files_, dir_ / "empty", ""));
  EXPECT_EQ(*read_text(*files_, dir_ / "empty"), "");
  expect_error(read_text(*files_, dir_ / "none"), Code::data);
}

TEST_F(FileSystemTest, ReserveGivesTheSizeAndReadsZeros) {
  for (const Caching caching : {Caching::buffered, Caching::direct}) {
    const std::string path = dir_ / (caching == Caching::direct ? "d" : "b");
    const auto file = create(path, caching);
    ASSERT_TRUE(file->reserve(0));
    EXPECT_EQ(*file->size_bytes(), 0);
    ASSERT_TRUE(file->write_at(0, std::as_bytes(std::span("abc", 3))));
    ASSERT_TRUE(file->reserve(10000));
    ASSERT_TRUE(file->reserve(500));  // never cuts
    EXPECT_EQ(read_file(path), "abc" + std::string(9997, '\0'));
  }
  EXPECT_GT(*files_->free_bytes(dir_.path()), 0);
  expect_error(files_->free_bytes(dir_ / "none"), Code::data);
}

/// Largest file of this process, for the life of the object.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_ = {};
  sighandler_t handler_ = SIG_DFL;
};

TEST_F(FileSystemTest, AFileSizeLimitIsAnError) {
  for (const Caching caching : {Caching::buffered, Caching::direct}) {
    const auto file = create(dir_ / (caching == Caching::direct ? "d" : "b"), caching);
    const auto memory = aligned_bytes(16 * kDirectAlignment);
    const FileSizeLimit limit(8 * kDirectAlignment);
    expect_error(file->reserve(8 * kDirectAlignment + 1), Code::io);
    // The part below the limit lands as a short write, the next one is refused.
    expect_error(file->write_at(0, std::span(memory.get(), 16 * kDirectAlignment)), Code::io);
    EXPECT_EQ(*file->size_bytes(), 8 * kDirectAlignment);
    EXPECT_TRUE(file->write_at(0, std::span(memory.get(), 8 * kDirectAlignment)));
  }
}

/// A small disk of its own, where this process may mount one.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& path)
      : path_(path),
        is_mounted_(::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=64k,mode=0700") == 0) {}
  ~SmallDisk() {
    if (is_mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool is_mounted() const { return is_mounted_; }

 private:
  std::string path_;
  bool is_mounted_;
};

TEST_F(FileSystemTest, AFullDiskIsAnError) {
  const std::string disk = dir_ / "disk";
  ASSERT_TRUE(files_->make_directory(disk));
  const SmallDisk small(disk);
  if (!small.is_mounted()) GTEST_SKIP() << "cannot mount a small tmpfs";
  for (const Caching caching : {Caching::buffered, Caching::direct}) {
    const auto file = create(disk + "/a", caching);
    const auto memory = aligned_bytes(128 << 10);
    EXPECT_EQ(*files_->free_bytes(disk), 64 << 10);
    EXPECT_NE(expect_error(file->reserve(100 << 10), Code::io).find("free some space"),
              std::string::npos);
    expect_error(file->write_at(0, std::span(memory.get(), 128 << 10)), Code::io);
    EXPECT_EQ(*file->size_bytes(), 64 << 10);
    EXPECT_EQ(*files_->free_bytes(disk), 0);
    expect_error(write_text(*files_, disk + "/b", "x"), Code::io);
    ASSERT_TRUE(remove_tree(*files_, disk + "/b"));
    ASSERT_TRUE(files_->remove_file(disk + "/a"));
  }
}

}  // namespace
}  // namespace elaswave
