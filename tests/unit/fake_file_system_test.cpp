// tests/support/fake_file_system: what a power loss leaves, the model that crash tests stand on.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <map>
#include <set>

#include "tests/support/temp_dir.h"
#include "tests/unit/fake_files_testing.h"

namespace elaswave::testing {
namespace {

TEST(FakeFileSystem, BehavesLikeTheRealOne) {
  const TempDir dir;
  const std::unique_ptr<FileSystem> real = make_file_system();
  FakeFileSystem fake;
  ASSERT_TRUE(make_directories(fake, dir.path()));
  // The same calls on both: the same answers and the same content.
  const auto both = [&](const char* what, const std::function<Result<void>(FileSystem&)>& call) {
    const Result<void> there = call(*real);
    const Result<void> here = call(fake);
    ASSERT_EQ(here.has_value(), there.has_value()) << what;
    if (!here) {
      expect_error(here, there.error().code);
      EXPECT_EQ(here.error().where, there.error().where) << what;
      EXPECT_EQ(here.error().why, there.error().why) << what;
    }
  };
  const auto path = [&](const char* name) { return dir / name; };
  const auto write = [&](const char* name) {
    both(name, [&](FileSystem& files) { return write_text(files, path(name), name); });
  };
  const auto rename = [&](const char* from, const char* to) {
    both(from, [&](FileSystem& files) { return files.rename(path(from), path(to)); });
  };
  const auto make = [&](const char* name) {
    both(name, [&](FileSystem& files) { return files.make_directory(path(name)); });
  };
  for (const char* name : {"d", "e", "d/f", "d", "no/such"}) make(name);
  for (const char* name : {"a", "b", "d/x", "d/f/y", "a", "e", "no/such", "a/b"}) write(name);
  make("a");
  rename("a", "b");
  rename("a", "c");
  rename("d", "b");
  rename("b", "d");
  rename("d", "d/f/g");
  rename("e", "d");
  rename("d", "e");
  rename("e", "e");
  rename("e/x", "no/such");
  rename("e/x", "z");
  const auto remove = [&](const char* name) {
    both(name, [&](FileSystem& files) { return files.remove_file(path(name)); });
    both(name, [&](FileSystem& files) { return files.remove_directory(path(name)); });
  };
  for (const char* name : {"none", "e", "z", "e/f", "b/none"}) remove(name);
  for (const char* name : {"", "e", "none", "b"}) {
    both(name, [&](FileSystem& files) { return files.sync_directory(path(name)); });
    both(name, [&](FileSystem& files) -> Result<void> {
      EW_TRY(files.list(path(name)));
      return {};
    });
    both(name, [&](FileSystem& files) -> Result<void> {
      EW_TRY(read_text(files, path(name)));
      return {};
    });
  }
  for (const char* name : {"", "e", "e/f"})
    EXPECT_EQ(*fake.list(path(name)), *real->list(path(name))) << name;
  EXPECT_EQ(fake.contents(path("b")), read_file(path("b")));
  EXPECT_EQ(fake.contents(path("e/f/y")), read_file(path("e/f/y")));
  ASSERT_TRUE(remove_tree(fake, path("e")));
  EXPECT_EQ(fake.all_files(), Names{path("b")});
}

TEST(FakeFileSystem, WriteAndRenameWithoutSyncIsAnEmptyFile) {
  FakeFileSystem files = with_old_file();
  ASSERT_TRUE(create(files, "/t")->write_at(0, as_bytes("new")));
  ASSERT_TRUE(files.rename("/t", "/a"));
  ASSERT_TRUE(files.sync_directory("/"));
  EXPECT_EQ(shown(files), "/a=new");
  EXPECT_EQ(after(files, Keep::nothing), "/a=");
  EXPECT_EQ(after(files, Keep::directories), "/a=");
  EXPECT_EQ(after(files, Keep::data), "/a=new");
  EXPECT_EQ(after(files, Keep::everything), "/a=new");
}

TEST(FakeFileSystem, WithoutDirectorySyncTheOldNameMayRemain) {
  FakeFileSystem files = with_old_file();
  ASSERT_TRUE(write_text(files, "/t", "new"));
  ASSERT_TRUE(files.rename("/t", "/a"));
  EXPECT_EQ(after(files, Keep::nothing), "/a=old");
  EXPECT_EQ(after(files, Keep::data), "/a=old");
  EXPECT_EQ(after(files, Keep::directories), "/a=new");
  // Old, old beside the new one's first name, new: a rename is never seen half.
  EXPECT_EQ(random_outcomes(files, 200),
            (std::set<std::string>{"/a=old", "/a=old /t=new", "/a=new"}));
}

TEST(FakeFileSystem, TheFullProtocolIsOldOrNewAtEveryPoint) {
  // Replace a file: the protocol, and with each operation left out.
  const auto protocol = [](FakeFileSystem& files) {
    const auto ignored = [](const auto&) {};
    ignored(write_text(files, "/t", "new"));
    ignored(files.rename("/t", "/a"));
    ignored(files.sync_directory("/"));
  };
  const auto is_whole = [](const FakeFileSystem& files) {
    for (const std::string& path : files.all_files())
      if (path == "/a") return files.contents(path) == "old" || files.contents(path) == "new";
    return false;
  };
  const auto crashes = [&](const FakeFileSystem& files) {
    int broken = 0;
    for (const Keep keep : kFixedPolicies) broken += is_whole(files.crash({keep, 0})) ? 0 : 1;
    for (std::uint64_t seed = 0; seed < 50; ++seed)
      broken += is_whole(files.crash({Keep::random, seed})) ? 0 : 1;
    return broken;
  };
  FakeFileSystem whole = with_old_file();
  const std::int64_t before = whole.operation_count();
  protocol(whole);
  const std::int64_t after_all = whole.operation_count();
  ASSERT_EQ(after_all - before, 5);  // create, write, sync, rename, sync_directory
  for (std::int64_t kill = before; kill <= after_all; ++kill) {
    FakeFileSystem files = with_old_file();
    files.kill_after(kill);
    protocol(files);
    EXPECT_EQ(crashes(files), 0) << "killed after " << kill;
    EXPECT_TRUE(is_whole(files.clone()));
  }
  std::map<std::string, bool> caught;
  for (std::int64_t operation = before; operation < after_all; ++operation) {
    FakeFileSystem files = with_old_file();
    files.ignore_operation(operation);
    protocol(files);
    const std::string line = files.trace()[static_cast<std::size_t>(operation)];
    caught[line] = crashes(files) > 0 || after(files, Keep::nothing) != "/a=new";
  }
  EXPECT_EQ(caught,
            (std::map<std::string, bool>{{"create /t ! ignored", true},
                                         {"write /t 0+3 ! ignored", true},
                                         {"sync /t (1 pending) ! ignored", true},
                                         {"rename /t /a ! ignored", true},
                                         {"sync_directory / (2 pending) ! ignored", true}}));
  std::printf("campaign: %d kill points, %zu mutants\n", static_cast<int>(after_all - before + 1),
              caught.size());
}

TEST(FakeFileSystem, AMissingSyncOfTheParentLosesTheTree) {
  FakeFileSystem files;
  ASSERT_TRUE(files.make_directory("/d"));
  ASSERT_TRUE(write_text(files, "/d/x", "x"));
  ASSERT_TRUE(files.sync_directory("/d"));
  EXPECT_EQ(after(files, Keep::nothing), "");
  EXPECT_EQ(after(files, Keep::directories), "/d/x=x");
  EXPECT_EQ(random_outcomes(files, 50), (std::set<std::string>{"", "/d/x=x"}));
  ASSERT_TRUE(files.sync_directory("/"));
  EXPECT_EQ(after(files, Keep::nothing), "/d/x=x");
}

TEST(FakeFileSystem, MakeDirectoriesMendsADeadProcess) {
  for (std::int64_t kill = 0; kill < 6; ++kill) {
    FakeFileSystem first;
    first.kill_after(kill);
    (void)make_directories(first, "/r/c/s");
    FakeFileSystem second = first.clone();
    ASSERT_TRUE(make_directories(second, "/r/c/s"));
    ASSERT_TRUE(write_text(second, "/r/c/s/x", "x"));
    ASSERT_TRUE(second.sync_directory("/r/c/s"));
    EXPECT_EQ(after(second, Keep::nothing), "/r/c/s/x=x") << kill;
  }
}

TEST(FakeFileSystem, RenamesBetweenDirectoriesAreAtomic) {
  for (const char* synced : {"/from", "/to"}) {
    FakeFileSystem files;
    ASSERT_TRUE(make_directories(files, "/from"));
    ASSERT_TRUE(make_directories(files, "/to"));
    ASSERT_TRUE(write_text(files, "/from/x", "x"));  // this name is not durable yet
    ASSERT_TRUE(files.rename("/from/x", "/to/y"));
    EXPECT_EQ(random_outcomes(files, 100), (std::set<std::string>{"", "/from/x=x", "/to/y=x"}));
    ASSERT_TRUE(files.sync_directory(synced));
    EXPECT_EQ(after(files, Keep::nothing), "/to/y=x") << synced;
    EXPECT_EQ(random_outcomes(files, 20), std::set<std::string>{"/to/y=x"});
  }
}

TEST(FakeFileSystem, SyncOfOneDirectoryIsNotSyncOfAnother) {
  FakeFileSystem files;
  ASSERT_TRUE(make_directories(files, "/p"));
  ASSERT_TRUE(make_directories(files, "/q"));
  ASSERT_TRUE(write_text(files, "/p/x", "x"));
  ASSERT_TRUE(write_text(files, "/q/y", "y"));
  ASSERT_TRUE(files.sync_directory("/q"));
  ASSERT_TRUE(files.remove_file("/q/y"));
  EXPECT_EQ(after(files, Keep::nothing), "/q/y=y");
  EXPECT_EQ(after(files, Keep::directories), "/p/x=x");
  EXPECT_EQ(random_outcomes(files, 100),
            (std::set<std::string>{"", "/p/x=x", "/q/y=y", "/p/x=x /q/y=y"}));
}

TEST(FakeFileSystem, ADirectoryIsReplacedWhole) {
  FakeFileSystem files;
  ASSERT_TRUE(make_directories(files, "/.tmp"));
  ASSERT_TRUE(write_text(files, "/.tmp/x", "x"));
  ASSERT_TRUE(files.sync_directory("/.tmp"));
  ASSERT_TRUE(files.rename("/.tmp", "/step"));
  EXPECT_EQ(random_outcomes(files, 50), (std::set<std::string>{"/.tmp/x=x", "/step/x=x"}));
  ASSERT_TRUE(remove_tree(files, "/step"));
  // The unlink of the tree may overtake that of its parts, and the rename.
  for (const std::string& outcome : random_outcomes(files, 100))
    EXPECT_TRUE(outcome.empty() || outcome == "/.tmp/x=x" || outcome == "/step/x=x") << outcome;
}

TEST(FakeFileSystem, RandomCrashesTearWritesAtBlocks) {
  FakeFileSystem files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(files.sync_directory("/"));
  ASSERT_TRUE(file->write_at(0, as_bytes(std::string(2000, 'o'))));
  ASSERT_TRUE(file->sync());
  ASSERT_TRUE(file->write_at(100, as_bytes(std::string(2900, 'n'))));
  std::set<std::size_t> sizes;
  int torn = 0;
  int zeros = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const FakeFileSystem crashed = files.crash({Keep::random, seed});
    const std::string text = crashed.contents("/a");
    sizes.insert(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      const bool is_old = text[i] == (i < 2000 ? 'o' : '\0');
      ASSERT_TRUE(is_old || (i >= 100 && text[i] == 'n')) << i;
      // Blocks come whole, apart from where the write began.
      const bool may_change = i % 512 == 0 || i == 100 || i == 2000;
      ASSERT_TRUE(may_change || (text[i] == 'n') == (text[i - 1] == 'n')) << i;
      zeros += text[i] == '\0' ? 1 : 0;
    }
    const bool has_new = text.find('n') != std::string::npos;
    torn += has_new && text.substr(100) != std::string(2900, 'n') ? 1 : 0;
    ASSERT_EQ(text, files.crash({Keep::random, seed}).contents("/a")) << "not deterministic";
  }
  EXPECT_GT(torn, 20);
  EXPECT_GT(zeros, 1000);
  EXPECT_EQ(sizes, (std::set<std::size_t>{2000, 2048, 2560, 3000}));
  std::printf("campaign: 300 crashes, %d torn\n", torn);
}

TEST(FakeFileSystem, AReserveIsPendingToo) {
  FakeFileSystem files;
  const auto file = create(files, "/a");
  ASSERT_TRUE(file->reserve(4));
  ASSERT_TRUE(files.sync_directory("/"));
  EXPECT_EQ(after(files, Keep::nothing), "/a=");
  EXPECT_EQ(after(files, Keep::data), "/a=" + std::string(4, '\0'));
  ASSERT_TRUE(file->sync());
  ASSERT_TRUE(file->write_at(1, as_bytes("xy")));
  EXPECT_EQ(after(files, Keep::nothing), "/a=" + std::string(4, '\0'));
  EXPECT_EQ(shown(files), std::string("/a=\0xy\0", 7));
  ASSERT_TRUE(file->reserve(2));
  EXPECT_EQ(*file->size_bytes(), 4);
}

}  // namespace
}  // namespace elaswave::testing
