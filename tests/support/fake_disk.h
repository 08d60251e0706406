// The disk behind FakeFileSystem: files and directories as the running process sees them, and what
// of them a power loss may leave. Pessimistic POSIX (io/base/file_system.h):
// - a write is durable once its file was synced; until then each 512-byte block of it may be there
//   or not, and so may the new size;
// - a change of names is durable once a directory it touches was synced; until then it may have
//   happened or not, independently of all others. A rename is one change: the old name or the new.
// A value: a copy is an independent disk. No faults, no counting, no lock; errors are errno values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/base/file_system.h"

namespace elaswave::testing {

struct CrashPolicy {
  enum class Keep {
    nothing,      // of what is not synced
    everything,   // as if the disk had been quick
    directories,  // changes of names, no file data
    data,         // file data, no changes of names
    random,       // any subset, drawn from `seed`
  };
  Keep keep = Keep::nothing;
  std::uint64_t seed = 0;
};

class FakeDisk {
 public:
  using NodeId = std::int64_t;
  static constexpr NodeId kNone = -1;
  static constexpr std::int64_t kBlockBytes = 512;  // what a disk writes whole

  FakeDisk();

  struct Place {
    NodeId directory = kNone;  // kNone: there is no way to it
    std::string name;          // empty: the root
    NodeId node = kNone;       // kNone: no such name
    int error_number = 0;      // without a directory: ENOENT, ENOTDIR
  };
  /// Paths are absolute or relative to the root; "." is skipped, ".." is not known.
  Place find(std::string_view path) const;
  bool is_directory(NodeId node) const { return nodes_.at(node).is_directory; }
  std::vector<DirectoryEntry> list(NodeId directory) const;

  /// "/a/b", sorted.
  std::vector<std::string> all_files() const;

  /// Without a name when the place has no directory.
  NodeId create(const Place& place, bool is_directory);
  /// 0, or why not: ENOTEMPTY, EISDIR, ENOTDIR, EINVAL (into itself).
  int may_rename(const Place& from, const Place& to) const;
  void rename(const Place& from, const Place& to);
  void remove(const Place& place);
  bool is_empty(NodeId directory) const { return nodes_.at(directory).entries.empty(); }

  const std::vector<std::byte>& data(NodeId file) const { return nodes_.at(file).data; }
  void write(NodeId file, std::int64_t offset_bytes, std::span<const std::byte> bytes);
  /// Zeros up to a size; nothing when the file is as long already.
  void extend(NodeId file, std::int64_t size_bytes);
  /// Damage: becomes the content at once, and durable.
  void set_data(NodeId file, std::vector<std::byte> data);

  /// Changes that a sync would make durable.
  std::int64_t pending_count(NodeId node) const;
  void sync(NodeId node);
  /// What a failed sync leaves: the system may have forgotten that the data was never written.
  void forget_pending(NodeId file);

  /// Bytes of all files that have a name or are open.
  std::int64_t used_bytes() const;
  void opened(NodeId file) { ++nodes_.at(file).open_count; }
  void closed(NodeId file) { --nodes_.at(file).open_count; }

  /// The disk after power came back: all of it is durable.
  FakeDisk after_crash(const CrashPolicy& policy) const;
  /// The same content and pending changes, nothing open.
  FakeDisk after_kill() const;

 private:
  struct Write {
    std::int64_t offset_bytes = 0;
    std::vector<std::byte> bytes;
    std::int64_t end_bytes = 0;  // the file is at least so long afterwards
  };
  struct Node {
    bool is_directory = false;
    std::map<std::string, NodeId> entries, durable_entries;
    std::vector<std::byte> data, durable_data;
    std::vector<Write> pending;
    std::int64_t link_count = 0;  // 0 or 1: there are no hard links
    std::int64_t open_count = 0;
  };
  /// `node` leaves a name, gets one, or both. kNone: does not.
  struct NameChange {
    NodeId from_directory = kNone;
    std::string from;
    NodeId to_directory = kNone;
    std::string to;
    NodeId node = kNone;
    bool touches(NodeId directory) const {
      return from_directory == directory || to_directory == directory;
    }
  };
  class Survival;

  static void apply(const Write& write, std::vector<std::byte>& data);
  void make_durable(const NameChange& change);
  void sync_names(NodeId directory);
  void settle(NodeId node, Survival& survival);

  std::map<NodeId, Node> nodes_;
  std::vector<NameChange> name_changes_;  // pending, oldest first
};

}  // namespace elaswave::testing
