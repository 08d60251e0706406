#include "io/checkpoint/store.h"

#include <algorithm>
#include <charconv>

#include "io/base/log.h"

namespace elaswave::checkpoint {
namespace {

constexpr std::string_view kStepPrefix = "step-";
// No file system holds so many names of one kind; bounds the search for a free one.
constexpr int kMostSetAside = 1'000'000;

tl::unexpected<Error> corrupt(std::string where, std::string why) {
  return fail({.code = Code::corrupt,
               .what = "a checkpoint is damaged",
               .where = std::move(where),
               .why = std::move(why),
               .fix = "use another checkpoint"});
}

bool is_checkpoint(FileSystem& files, const std::string& path) {
  return exists(files, path + "/" + std::string(kManifestName)).value_or(false);
}

}  // namespace

std::string step_name(Step step) {
  return fmt::format("{}{:012d}", kStepPrefix, raw(step));
}

std::int64_t parse_step_name(std::string_view name) {
  if (!name.starts_with(kStepPrefix)) return -1;
  name.remove_prefix(kStepPrefix.size());
  std::int64_t step = -1;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), step);
  const bool whole = problem == std::errc{} && end == name.data() + name.size();
  return whole && step >= 0 && name == step_name(Step{step}).substr(kStepPrefix.size()) ? step : -1;
}

std::string shard_name(int writer) {
  return fmt::format("{}/w{:05d}.h5", kShardFolder, writer);
}

Result<std::vector<Step>> list_steps(FileSystem& files, const std::string& directory) {
  EW_ASSIGN(const bool there, exists(files, directory));
  std::vector<Step> steps;
  if (!there) return steps;
  EW_ASSIGN(const std::vector<DirectoryEntry> entries, files.list(directory));
  for (const DirectoryEntry& entry : entries)
    if (const std::int64_t step = parse_step_name(entry.name);
        // A link to a directory elsewhere is as good.
        step >= 0 && entry.type != DirectoryEntry::Type::file)
      steps.push_back(Step{step});
  std::sort(steps.begin(), steps.end(), std::greater<>());
  return steps;
}

Result<Manifest> read_manifest_alone(FileSystem& files, const std::string& checkpoint) {
  const std::string path = checkpoint + "/" + std::string(kManifestName);
  const auto text = read_text(files, path);
  if (!text) {
    if (text.error().code != Code::data) return fail(text.error());
    return corrupt(path, text.error().why);
  }
  return parse_manifest(*text, path);
}

Result<Manifest> read_manifest(FileSystem& files, const std::string& checkpoint) {
  EW_ASSIGN(Manifest manifest, read_manifest_alone(files, checkpoint));
  for (const FileEntry& entry : manifest.files) {
    if (entry.pieces.empty()) continue;  // the index: the state is whole without it
    const std::string shard = checkpoint + "/" + entry.name;
    const auto file = files.open(shard, Caching::buffered);
    if (!file) {
      if (file.error().code != Code::data) return fail(file.error());
      return corrupt(shard, file.error().why);
    }
    EW_ASSIGN(const std::int64_t size, (*file)->size_bytes());
    if (size != entry.size_bytes)
      return corrupt(shard,
                     fmt::format("it has {} bytes, {} were written", size, entry.size_bytes));
  }
  return manifest;
}

Result<std::string> checkpoints_directory(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const bool run_directory, exists(files, path + "/" + std::string(kFolder)));
  return run_directory ? path + "/" + std::string(kFolder) : path;
}

Result<std::string> find_checkpoint(FileSystem& files, const std::string& path) {
  if (is_checkpoint(files, path)) return path;
  EW_ASSIGN(const std::string directory, checkpoints_directory(files, path));
  EW_ASSIGN(const std::vector<Step> steps, list_steps(files, directory));
  for (const Step step : steps) {
    const std::string checkpoint = directory + "/" + step_name(step);
    const auto manifest = read_manifest(files, checkpoint);
    if (manifest) return checkpoint;
    log_warn("{} is left out: {} ({})", checkpoint, manifest.error().why, manifest.error().where);
  }
  if (!steps.empty())
    return corrupt(directory, fmt::format("none of its {} checkpoints is sound", steps.size()));
  return fail({.code = Code::data,
               .what = "there is no checkpoint",
               .where = path,
               .why = fmt::format("neither {} nor a folder named {}... is there", kManifestName,
                                  kStepPrefix),
               .fix = "name a run's log.dir, its checkpoints folder, or one checkpoint"});
}

Result<std::string> set_aside(FileSystem& files, const std::string& directory, Step step) {
  for (int number = 1; number < kMostSetAside; ++number) {
    const std::string path =
        fmt::format("{}/{}{}-{}", directory, kBadPrefix, step_name(step), number);
    EW_ASSIGN(const bool taken, exists(files, path));
    if (taken) continue;
    // Not synced: after a crash the damage is merely found again.
    EW_TRY(files.rename(directory + "/" + step_name(step), path));
    return path;
  }
  return corrupt(directory, "there is no name left to set a checkpoint aside");
}

Result<std::string> trace_of_checkpoints(FileSystem& files, const std::string& directory) {
  EW_ASSIGN(const bool there, exists(files, directory));
  if (!there) return std::string();
  EW_ASSIGN(const std::vector<DirectoryEntry> entries, files.list(directory));
  for (const DirectoryEntry& entry : entries)
    if (entry.name.starts_with(kBadPrefix) || entry.name.starts_with(kStepPrefix) ||
        entry.name == kLatestName)
      return entry.name;
  return std::string();
}

Result<void> sweep(FileSystem& files, const std::string& directory) {
  EW_ASSIGN(const bool there, exists(files, directory));
  if (!there) return {};
  EW_ASSIGN(const std::vector<DirectoryEntry> entries, files.list(directory));
  for (const DirectoryEntry& entry : entries) {
    if (!entry.name.starts_with(kTemporaryPrefix) && !entry.name.starts_with(kTrashPrefix))
      continue;
    const std::string path = fmt::format("{}/{}", directory, entry.name);
    if (const auto removed = remove_tree(files, path); !removed)
      log_warn("cannot remove {}: {}", path, removed.error().why);
  }
  return {};
}

std::vector<Step> to_delete(const std::vector<Step>& steps, const Retention& retention,
                            Step verified) {
  std::vector<Step> doomed;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const bool newest = static_cast<std::int64_t>(i) < std::max<std::int64_t>(retention.keep, 1);
    const bool pinned = retention.keep_every > 0 && raw(steps[i]) % retention.keep_every == 0;
    if (!newest && !pinned && steps[i] != verified) doomed.push_back(steps[i]);
  }
  return doomed;
}

Result<void> apply_retention(FileSystem& files, const std::string& directory,
                             const Retention& retention, Step verified) {
  EW_ASSIGN(const std::vector<Step> steps, list_steps(files, directory));
  const std::vector<Step> doomed = to_delete(steps, retention, verified);
  std::vector<std::string> trash;
  for (const Step step : doomed) {
    trash.push_back(fmt::format("{}/{}{}", directory, kTrashPrefix, step_name(step)));
    EW_TRY(files.rename(directory + "/" + step_name(step), trash.back()));
  }
  // Before anything of them goes: or a power loss could leave half a checkpoint under a good name.
  if (!trash.empty()) EW_TRY(files.sync_directory(directory));
  for (const std::string& path : trash) EW_TRY(remove_tree(files, path));
  return {};
}

}  // namespace elaswave::checkpoint
