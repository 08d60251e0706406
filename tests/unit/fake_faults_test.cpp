// tests/support/fake_file_system: kills, errors, full disks, damage.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "tests/support/temp_dir.h"
#include "tests/unit/fake_files_testing.h"

namespace elaswave::testing {
namespace {

TEST(FakeFileSystem, AfterTheKillNothingWorks) {
  FakeFileSystem files;
  files.kill_after(2);
  const auto file = create(files, "/a");
  std::string back(3, '?');
  ASSERT_TRUE(file->write_at(0, as_bytes("new")));
  for (const auto& result :
       {file->write_at(3, as_bytes("x")), file->sync(), file->reserve(10),
        file->read_at(0, std::as_writable_bytes(std::span(back))), files.make_directory("/d"),
        files.rename("/a", "/b"), files.remove_file("/a"), files.sync_directory("/")})
    EXPECT_NE(expect_error(result, Code::io).find("killed"), std::string::npos);
  expect_error(files.list("/"), Code::io);
  expect_error(files.open("/a", Caching::buffered), Code::io);
  expect_error(files.create("/b", Caching::buffered), Code::io);
  expect_error(files.free_bytes("/"), Code::io);
  expect_error(exists(files, "/a"), Code::io);
  EXPECT_EQ(files.trace(), (Names{"create /a", "write /a 0+3"}));
  FakeFileSystem next = files.clone();
  EXPECT_EQ(*read_text(next, "/a"), "new");
  EXPECT_EQ(next.operation_count(), 0);
  EXPECT_EQ(after(next, Keep::nothing), "");  // a kill makes nothing durable
}

TEST(FakeFileSystem, AKillMayTearAWrite) {
  for (const std::int64_t kept : {0, 1, 3, 9}) {
    FakeFileSystem files;
    files.kill_within(1, kept);
    const auto file = create(files, "/a");
    expect_error(file->write_at(0, as_bytes("12345")), Code::io);
    expect_error(file->write_at(0, as_bytes("12345")), Code::io);
    EXPECT_EQ(shown(files.clone()),
              "/a=" + std::string("12345").substr(0, std::min<std::size_t>(5, kept)));
  }
  FakeFileSystem files;
  files.kill_within(0, 3);
  expect_error(files.make_directory("/d"), Code::io);
  EXPECT_TRUE(files.clone().list("/")->empty());
}

TEST(FakeFileSystem, OperationsFailWhereTold) {
  FakeFileSystem files;
  files.fail_operation(0, EIO);
  files.fail_operation(2, ENOSPC);
  files.fail_operation(4, EIO);
  EXPECT_FALSE(files.create("/a", Caching::direct));
  EXPECT_FALSE(*exists(files, "/a"));
  const auto file = create(files, "/a");
  EXPECT_NE(expect_error(file->write_at(0, as_bytes("x")), Code::io).find("free some space"),
            std::string::npos);
  ASSERT_TRUE(file->write_at(0, as_bytes("1")));
  expect_error(file->sync(), Code::io);
  ASSERT_TRUE(file->write_at(1, as_bytes("2")));
  ASSERT_TRUE(file->sync());
  ASSERT_TRUE(files.sync_directory("/"));
  EXPECT_EQ(shown(files), "/a=12");
  // What the failed sync was for is lost, whatever the later one said.
  EXPECT_EQ(after(files, Keep::nothing), std::string("/a=\0", 4) + "2");
  EXPECT_EQ(files.trace(), (Names{"create /a ! error 5", "create /a", "write /a 0+1 ! error 28",
                                  "write /a 0+1", "sync /a (1 pending) ! error 5", "write /a 1+1",
                                  "sync /a (1 pending)", "sync_directory / (1 pending)"}));
}

TEST(FakeFileSystem, AFullDiskWritesShortThenNothing) {
  FakeFileSystem files;
  files.set_capacity_bytes(10);
  const auto file = create(files, "/a");
  EXPECT_EQ(*files.free_bytes("/"), 10);
  expect_error(file->reserve(11), Code::io);
  expect_error(file->write_at(0, as_bytes("0123456789AB")), Code::io);
  EXPECT_EQ(files.contents("/a"), "0123456789");
  EXPECT_EQ(*files.free_bytes("/"), 0);
  ASSERT_TRUE(file->write_at(4, as_bytes("xx")));  // has its space already
  ASSERT_TRUE(file->reserve(10));
  expect_error(write_text(files, "/b", "x"), Code::io);
  // A name that is gone frees its space when the last handle is.
  {
    const auto other = files.open("/a", Caching::buffered);
    ASSERT_TRUE(files.remove_file("/a"));
    EXPECT_EQ(*files.free_bytes("/"), 0);
    std::string back(2, '?');
    ASSERT_TRUE((*other)->read_at(4, std::as_writable_bytes(std::span(back))));
    EXPECT_EQ(back, "xx");
  }
  EXPECT_EQ(*files.free_bytes("/"), 0);
  FakeFileSystem next = files.clone();
  EXPECT_EQ(*next.free_bytes("/"), 10);
  EXPECT_EQ(shown(next), "/b=");
}

TEST(FakeFileSystem, ShortWritesAreContinued) {
  FakeFileSystem files;
  files.set_largest_write_bytes(4);
  ASSERT_TRUE(write_text(files, "/a", "0123456789"));
  EXPECT_EQ(files.contents("/a"), "0123456789");
  EXPECT_EQ(files.trace(),
            (Names{"create /a", "write /a 0+10 ! short, 4", "write /a 4+6 ! short, 4",
                   "write /a 8+2", "sync /a (3 pending)"}));
  FakeFileSystem stuck;
  stuck.set_largest_write_bytes(0);
  EXPECT_NE(expect_error(write_text(stuck, "/a", "x"), Code::io).find("moved nothing"),
            std::string::npos);
}

TEST(FakeFileSystem, DamageIsDurable) {
  FakeFileSystem files = with_old_file();
  ASSERT_TRUE(write_text(files, "/b", "second"));
  ASSERT_TRUE(files.sync_directory("/"));
  files.flip("/a", 1, 0x01);
  EXPECT_EQ(files.contents("/a"), "omd");
  files.truncate("/b", 3);
  files.swap_contents("/a", "/b");
  EXPECT_EQ(after(files, Keep::nothing), "/a=sec /b=omd");
  files.truncate("/a", 4);
  files.set_contents("/b", "");
  EXPECT_EQ(shown(files), std::string("/a=sec\0 /b=", 11));
}

TEST(FakeFileSystem, ClonesAndCrashesAreIndependent) {
  FakeFileSystem files = with_old_file();
  FakeFileSystem copy = files.clone();
  ASSERT_TRUE(copy.remove_file("/a"));
  ASSERT_TRUE(copy.sync_directory("/"));
  EXPECT_EQ(shown(files), "/a=old");
  EXPECT_EQ(shown(copy), "");
  std::unique_ptr<FileHandle> handle;
  {
    FakeFileSystem gone;
    handle = create(gone, "/x");
  }
  EXPECT_TRUE(handle->write_at(0, as_bytes("still there")));
}

TEST(FakeFileSystem, HandlesOfTwoThreads) {
  FakeFileSystem files;
  const auto work = [&](const std::string& path, char letter) {
    const auto file = create(files, path);
    for (int i = 0; i < 500; ++i)
      EXPECT_TRUE(file->write_at(i, std::as_bytes(std::span(&letter, 1))));
    EXPECT_TRUE(file->sync());
  };
  std::thread other(work, "/a", 'a');
  work("/b", 'b');
  other.join();
  EXPECT_EQ(files.contents("/a"), std::string(500, 'a'));
  EXPECT_EQ(files.contents("/b"), std::string(500, 'b'));
  EXPECT_EQ(files.operation_count(), 1004);
}

}  // namespace
}  // namespace elaswave::testing
