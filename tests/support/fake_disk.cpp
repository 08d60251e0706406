#include "tests/support/fake_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "io/base/hash.h"

namespace elaswave::testing {
namespace {

constexpr FakeDisk::NodeId kRoot = 0;

std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, slash);
    EW_CHECK(part != "..", "the fake disk knows no ..: {}", path);
    if (!part.empty() && part != ".") parts.push_back(part);
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return parts;
}

void grow(std::vector<std::byte>& data, std::int64_t size_bytes) {
  if (static_cast<std::int64_t>(data.size()) < size_bytes)
    data.resize(static_cast<std::size_t>(size_bytes));
}

}  // namespace

/// Decides, for one crash, what of the pending changes is left.
class FakeDisk::Survival {
 public:
  explicit Survival(const CrashPolicy& policy) : keep_(policy.keep), state_(policy.seed) {
    // Nearly all, half or nearly none: uniform coins alone would hardly ever draw the first or
    // last.
    constexpr int kEighths[] = {1, 4, 7};
    names_eighths_ = kEighths[draw(3)];
    data_eighths_ = kEighths[draw(3)];
  }

  bool keeps_name_change() {
    if (keep_ != CrashPolicy::Keep::random)
      return keep_ == CrashPolicy::Keep::everything || keep_ == CrashPolicy::Keep::directories;
    return coin(names_eighths_);
  }

  void apply_to(const Write& write, std::vector<std::byte>& data) {
    if (keep_ != CrashPolicy::Keep::random) {
      if (keep_ == CrashPolicy::Keep::everything || keep_ == CrashPolicy::Keep::data)
        FakeDisk::apply(write, data);
      return;
    }
    if (coin(data_eighths_)) return FakeDisk::apply(write, data);
    switch (draw(3)) {
      case 0:  // lost
        return;
      case 1:  // only the new size
        return grow(data, write.end_bytes);
      default:
        return apply_blocks(write, data);
    }
  }

 private:
  std::uint64_t draw(std::uint64_t below) { return mix64(state_ += kGolden64) % below; }
  bool coin(int eighths) { return draw(8) < static_cast<std::uint64_t>(eighths); }

  void apply_blocks(const Write& write, std::vector<std::byte>& data) {
    if (coin(4)) grow(data, write.end_bytes);
    const std::int64_t end = write.offset_bytes + static_cast<std::int64_t>(write.bytes.size());
    for (std::int64_t at = write.offset_bytes; at < end;) {
      const std::int64_t next = std::min(end, (at / kBlockBytes + 1) * kBlockBytes);
      if (coin(4)) {
        grow(data, next);
        std::copy(write.bytes.begin() + (at - write.offset_bytes),
                  write.bytes.begin() + (next - write.offset_bytes), data.begin() + at);
      }
      at = next;
    }
  }

  CrashPolicy::Keep keep_;
  std::uint64_t state_;
  int names_eighths_ = 4;
  int data_eighths_ = 4;
};

FakeDisk::FakeDisk() {
  Node& root = nodes_[kRoot];
  root.is_directory = true;
  root.link_count = 1;
}

FakeDisk::Place FakeDisk::find(std::string_view path) const {
  const std::vector<std::string_view> parts = split(path);
  if (parts.empty()) return {kRoot, "", kRoot, 0};
  Place place{kRoot, std::string(parts.back()), kNone, 0};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Node& directory = nodes_.at(place.directory);
    const auto found = directory.entries.find(std::string(parts[i]));
    const NodeId next = found == directory.entries.end() ? kNone : found->second;
    if (i + 1 == parts.size()) {
      place.node = next;
    } else if (next == kNone || !is_directory(next)) {
      place.directory = kNone;
      place.error_number = next == kNone ? ENOENT : ENOTDIR;
      break;
    } else {
      place.directory = next;
    }
  }
  return place;
}

std::vector<DirectoryEntry> FakeDisk::list(NodeId directory) const {
  std::vector<DirectoryEntry> found;
  for (const auto& [name, node] : nodes_.at(directory).entries)
    found.push_back(
        {name, is_directory(node) ? DirectoryEntry::Type::directory : DirectoryEntry::Type::file});
  return found;
}

std::vector<std::string> FakeDisk::all_files() const {
  std::vector<std::string> found;
  std::vector<std::pair<std::string, NodeId>> open = {{"", kRoot}};
  while (!open.empty()) {
    const auto [path, id] = std::move(open.back());
    open.pop_back();
    for (const auto& [name, child] : nodes_.at(id).entries) {
      std::string full = fmt::format("{}/{}", path, name);
      if (is_directory(child))
        open.emplace_back(std::move(full), child);
      else
        found.push_back(std::move(full));
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

FakeDisk::NodeId FakeDisk::create(const Place& place, bool is_directory) {
  const NodeId id = nodes_.rbegin()->first + 1;
  Node& node = nodes_[id];
  node.is_directory = is_directory;
  if (place.directory == kNone) return id;
  node.link_count = 1;
  nodes_.at(place.directory).entries[place.name] = id;
  name_changes_.push_back({kNone, "", place.directory, place.name, id});
  return id;
}

int FakeDisk::may_rename(const Place& from, const Place& to) const {
  for (NodeId at = to.directory; at != kRoot;) {
    if (at == from.node) return EINVAL;
    at = std::find_if(nodes_.begin(), nodes_.end(), [&](const auto& item) {
           const auto& entries = item.second.entries;
           return std::any_of(entries.begin(), entries.end(),
                              [&](const auto& entry) { return entry.second == at; });
         })->first;
  }
  if (to.node == kNone || to.node == from.node) return 0;
  if (!is_directory(from.node)) return is_directory(to.node) ? EISDIR : 0;
  if (!is_directory(to.node)) return ENOTDIR;
  return is_empty(to.node) ? 0 : ENOTEMPTY;
}

void FakeDisk::rename(const Place& from, const Place& to) {
  if (from.node == to.node) return;
  if (to.node != kNone) nodes_.at(to.node).link_count = 0;
  nodes_.at(from.directory).entries.erase(from.name);
  nodes_.at(to.directory).entries[to.name] = from.node;
  name_changes_.push_back({from.directory, from.name, to.directory, to.name, from.node});
}

void FakeDisk::remove(const Place& place) {
  nodes_.at(place.node).link_count = 0;
  nodes_.at(place.directory).entries.erase(place.name);
  name_changes_.push_back({place.directory, place.name, kNone, "", place.node});
}

void FakeDisk::apply(const Write& write, std::vector<std::byte>& data) {
  grow(data, write.end_bytes);
  std::copy(write.bytes.begin(), write.bytes.end(), data.begin() + write.offset_bytes);
}

void FakeDisk::write(NodeId file, std::int64_t offset_bytes, std::span<const std::byte> bytes) {
  Node& node = nodes_.at(file);
  node.pending.push_back({offset_bytes,
                          {bytes.begin(), bytes.end()},
                          offset_bytes + static_cast<std::int64_t>(bytes.size())});
  apply(node.pending.back(), node.data);
}

void FakeDisk::extend(NodeId file, std::int64_t size_bytes) {
  Node& node = nodes_.at(file);
  if (static_cast<std::int64_t>(node.data.size()) >= size_bytes) return;
  node.pending.push_back({0, {}, size_bytes});
  apply(node.pending.back(), node.data);
}

void FakeDisk::set_data(NodeId file, std::vector<std::byte> data) {
  Node& node = nodes_.at(file);
  node.pending.clear();
  node.durable_data = data;
  node.data = std::move(data);
}

std::int64_t FakeDisk::pending_count(NodeId node) const {
  if (!is_directory(node)) return static_cast<std::int64_t>(nodes_.at(node).pending.size());
  return std::count_if(name_changes_.begin(), name_changes_.end(),
                       [&](const NameChange& change) { return change.touches(node); });
}

void FakeDisk::sync(NodeId node) {
  if (is_directory(node)) return sync_names(node);
  Node& file = nodes_.at(node);
  for (const Write& write : file.pending) apply(write, file.durable_data);
  file.pending.clear();
}

void FakeDisk::forget_pending(NodeId file) {
  nodes_.at(file).pending.clear();
}

/// With every change of this directory go the older ones, of others too, that it builds on: those
/// of the same node or the same name.
void FakeDisk::sync_names(NodeId directory) {
  std::set<NodeId> nodes;
  std::set<std::pair<NodeId, std::string>> names;
  std::vector<NameChange> now;
  std::vector<NameChange> later;
  for (auto change = name_changes_.rbegin(); change != name_changes_.rend(); ++change) {
    const std::pair from(change->from_directory, change->from);
    const std::pair to(change->to_directory, change->to);
    if (change->touches(directory) || nodes.count(change->node) + names.count(from) != 0 ||
        names.count(to) != 0) {
      nodes.insert(change->node);
      if (from.first != kNone) names.insert(from);
      if (to.first != kNone) names.insert(to);
      now.push_back(std::move(*change));
    } else {
      later.push_back(std::move(*change));
    }
  }
  std::for_each(now.rbegin(), now.rend(), [&](const NameChange& change) { make_durable(change); });
  name_changes_.assign(std::make_move_iterator(later.rbegin()),
                       std::make_move_iterator(later.rend()));
}

void FakeDisk::make_durable(const NameChange& change) {
  // Whatever name it has: an older change of it may have been lost, and nothing has two names.
  for (auto& [id, node] : nodes_)
    std::erase_if(node.durable_entries,
                  [&](const auto& entry) { return entry.second == change.node; });
  if (change.to_directory != kNone)
    nodes_.at(change.to_directory).durable_entries[change.to] = change.node;
}

std::int64_t FakeDisk::used_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [id, node] : nodes_)
    if (node.link_count + node.open_count > 0) bytes += static_cast<std::int64_t>(node.data.size());
  return bytes;
}

/// What the durable names reach becomes what is there.
void FakeDisk::settle(NodeId id, Survival& survival) {
  Node& node = nodes_.at(id);
  for (const Write& write : node.pending) survival.apply_to(write, node.durable_data);
  node.pending.clear();
  node.data = node.durable_data;
  node.entries = node.durable_entries;
  node.link_count = 1;
  for (const auto& [name, child] : node.entries) settle(child, survival);
}

FakeDisk FakeDisk::after_kill() const {
  FakeDisk disk = *this;
  for (auto& [id, node] : disk.nodes_) node.open_count = 0;
  return disk;
}

FakeDisk FakeDisk::after_crash(const CrashPolicy& policy) const {
  FakeDisk disk = after_kill();
  Survival survival(policy);
  for (const NameChange& change : std::exchange(disk.name_changes_, {}))
    if (survival.keeps_name_change()) disk.make_durable(change);
  for (auto& [id, node] : disk.nodes_) node.link_count = 0;
  disk.settle(kRoot, survival);
  std::erase_if(disk.nodes_, [](const auto& item) { return item.second.link_count == 0; });
  return disk;
}

}  // namespace elaswave::testing
