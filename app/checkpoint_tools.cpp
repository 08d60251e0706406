#include "app/checkpoint_tools.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "app/memory.h"
#include "io/checkpoint/store.h"

namespace elaswave::app {
namespace {

using checkpoint::FileEntry;
using checkpoint::Manifest;

using checkpoint::kManifestName;

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

/// What a path names: one checkpoint (`directory` holds it) or all of a directory.
struct Place {
  std::string directory;
  std::string only;  // name of the one; empty: all
};

Result<Place> find_place(FileSystem& files, const std::string& given) {
  const std::string path = without_trailing_slash(given);
  const std::filesystem::path parts(path);
  const std::string name = parts.filename().string();
  EW_ASSIGN(const bool has_manifest, exists(files, fmt::format("{}/{}", path, kManifestName)));
  EW_ASSIGN(const bool there, exists(files, path));
  if (has_manifest || (there && checkpoint::parse_step_name(name) >= 0))
    return Place{parts.has_parent_path() ? parts.parent_path().string() : ".", name};
  EW_ASSIGN(std::string directory, checkpoint::checkpoints_directory(files, path));
  return Place{std::move(directory), ""};
}

Result<std::vector<std::string>> names_at(FileSystem& files, const Place& place) {
  if (!place.only.empty()) return std::vector{place.only};
  EW_ASSIGN(const std::vector<Step> steps, checkpoint::list_steps(files, place.directory));
  std::vector<std::string> names;
  names.reserve(steps.size());
  for (const Step step : steps) names.push_back(checkpoint::step_name(step));
  return names;
}

std::int64_t total_bytes(const Manifest& manifest) {
  std::int64_t bytes = 0;
  for (const FileEntry& file : manifest.files) bytes += file.size_bytes;
  return bytes;
}

std::int64_t shard_count(const Manifest& manifest) {
  return std::count_if(manifest.files.begin(), manifest.files.end(),
                       [](const FileEntry& file) { return !file.pieces.empty(); });
}

std::string one_line(const Error& error) {
  return fmt::format("{}: {} ({})", error.what, error.why, error.where);
}

ListedCheckpoint examine(FileSystem& files, const std::string& directory, const std::string& name) {
  ListedCheckpoint listed{.name = name};
  const Result<Manifest> manifest = checkpoint::read_manifest(files, directory + "/" + name);
  if (!manifest) {
    listed.damage = one_line(manifest.error());
    return listed;
  }
  listed.created = manifest->created;
  listed.size_bytes = total_bytes(*manifest);
  listed.shards = shard_count(*manifest);
  listed.loss = manifest->loss;
  return listed;
}

std::string loss_text(double loss) {
  return std::isfinite(loss) ? fmt::format("{:.6f}", loss) : "-";
}

std::string size_text(std::int64_t bytes) {
  return bytes_text(static_cast<double>(bytes));
}

void add_facts(std::vector<std::string>& lines, std::string_view title,
               const checkpoint::Facts& facts) {
  if (facts.empty()) return;
  lines.push_back(fmt::format("{}:", title));
  for (const auto& [key, value] : facts) lines.push_back(fmt::format("  {:<28} {}", key, value));
}

void add_names(std::vector<std::string>& lines, std::string_view title,
               const std::vector<std::string>& names) {
  for (const std::string& name : names) lines.push_back(fmt::format("{}: {}", title, name));
}

std::string piece_line(const checkpoint::Piece& piece, const Manifest& manifest) {
  const checkpoint::ElementRun& first = piece.runs.front();
  const std::string& tensor = manifest.tensors[static_cast<std::size_t>(piece.tensor)].name;
  const std::string more =
      piece.runs.size() > 1 ? fmt::format(", {} more runs", piece.runs.size() - 1) : "";
  const std::string times =
      first.count > 1 ? fmt::format(" x {} by {}", first.count, first.stride) : "";
  return fmt::format("    byte {:<12} {:<10} {} elements of {}: {} + {}{}{}", piece.offset_bytes,
                     name(piece.kind), piece.elems(), tensor, first.begin, first.elems, times,
                     more);
}

}  // namespace

Result<Listing> list_checkpoints(FileSystem& files, const std::string& path) {
  EW_ASSIGN(const Place place, find_place(files, path));
  Listing listing{.directory = place.directory};
  EW_ASSIGN(const std::vector<DirectoryEntry> entries, files.list(place.directory));
  for (const auto& [name, type] : entries) {
    if (name.starts_with(checkpoint::kTemporaryPrefix)) listing.unfinished.push_back(name);
    if (name.starts_with(checkpoint::kTrashPrefix)) listing.being_deleted.push_back(name);
    if (name.starts_with(checkpoint::kBadPrefix)) listing.set_aside.push_back(name);
    if (name != checkpoint::kLatestName) continue;
    EW_ASSIGN(listing.latest, read_text(files, place.directory + "/" + name));
    while (!listing.latest.empty() && listing.latest.back() == '\n') listing.latest.pop_back();
  }
  EW_ASSIGN(const std::vector<std::string> names, names_at(files, place));
  for (const std::string& name : names)
    listing.checkpoints.push_back(examine(files, place.directory, name));
  return listing;
}

std::vector<std::string> lines(const Listing& listing) {
  constexpr std::string_view kRow = "  {:<18} {:<20} {:>12} {:>6} {:>10}  {}";
  std::vector<std::string> lines = {
      fmt::format("checkpoints in {}: {}", listing.directory, listing.checkpoints.size())};
  if (!listing.checkpoints.empty())
    lines.push_back(fmt::format(kRow, "checkpoint", "written", "size", "shards", "loss", "state"));
  for (const ListedCheckpoint& one : listing.checkpoints) {
    if (one.damage.empty()) {
      lines.push_back(fmt::format(kRow, one.name, one.created, size_text(one.size_bytes),
                                  one.shards, loss_text(one.loss), "looks whole"));
    } else {
      lines.push_back(fmt::format(kRow, one.name, "-", "-", "-", "-", "damaged: " + one.damage));
    }
  }
  lines.push_back(fmt::format("LATEST: {}", listing.latest.empty() ? "none" : listing.latest));
  add_names(lines, "found damaged and set aside", listing.set_aside);
  add_names(lines, "being written, or left by a process that died", listing.unfinished);
  add_names(lines, "being deleted", listing.being_deleted);
  return lines;
}

std::vector<std::string> describe(const Manifest& manifest, Pieces pieces) {
  std::vector<std::string> lines = {
      fmt::format("run         {}", manifest.run),
      fmt::format("written     {} by {}", manifest.created, manifest.writer),
      fmt::format("step        {} (generation {})", raw(manifest.step), raw(manifest.generation)),
      fmt::format("updates     {}", manifest.updates),
      fmt::format("consumed    {} samples, {} tokens", manifest.samples, manifest.tokens),
      fmt::format("loss        {}", loss_text(manifest.loss)),
      fmt::format("digest      {}",
                  manifest.digest ? fmt::format("{:016x}", *manifest.digest) : "not computed")};
  add_facts(lines, "config", manifest.config);
  add_facts(lines, "facts", manifest.facts);
  std::int64_t elems = 0;
  for (const checkpoint::Tensor& tensor : manifest.tensors) elems += tensor.elems();
  lines.push_back(fmt::format("tensors: {}, {} elements, each as {}", manifest.tensors.size(),
                              elems, fmt::join(checkpoint::kKindNames, ", ")));
  for (const checkpoint::Tensor& tensor : manifest.tensors)
    lines.push_back(fmt::format("  {:<28} [{}]", tensor.name, fmt::join(tensor.shape, ", ")));
  lines.push_back(
      fmt::format("files: {}, {}", manifest.files.size(), size_text(total_bytes(manifest))));
  for (const FileEntry& file : manifest.files) {
    lines.push_back(fmt::format("  {:<28} {} bytes, {} pieces", file.name, file.size_bytes,
                                file.pieces.size()));
    if (pieces == Pieces::shown)
      for (const checkpoint::Piece& piece : file.pieces)
        lines.push_back(piece_line(piece, manifest));
  }
  return lines;
}

Result<std::vector<std::string>> select_checkpoints(FileSystem& files, const std::string& path,
                                                    Selection selection) {
  EW_ASSIGN(const Place place, find_place(files, path));
  EW_ASSIGN(std::vector<std::string> selected, names_at(files, place));
  if (selected.empty())
    return fail({.code = Code::data,
                 .what = "there is no checkpoint",
                 .where = path,
                 .why = fmt::format("no step-* lies in {}", place.directory),
                 .fix = "name a run directory (log.dir), its checkpoints/ or one checkpoint"});
  if (selection == Selection::newest) selected.resize(1);
  for (std::string& name : selected) name = fmt::format("{}/{}", place.directory, name);
  return selected;
}

Verification verify_checkpoint(FileSystem& files, const Clock& clock,
                               const std::string& checkpoint) {
  const Nanoseconds start = clock.now();
  Verification verification{.damages = checkpoint::verify(files, checkpoint)};
  verification.seconds = static_cast<double>(clock.now() - start) / kSecond;
  const Result<Manifest> manifest = checkpoint::read_manifest(files, checkpoint);
  if (manifest) verification.read_bytes = total_bytes(*manifest);
  return verification;
}

std::vector<std::string> lines(const Verification& verification, const std::string& checkpoint) {
  if (verification.damages.empty()) {
    const double gigabytes = static_cast<double>(verification.read_bytes) / 1e9;
    return {fmt::format("{}: whole, {:.3f} GB read at {:.2f} GB/s", checkpoint, gigabytes,
                        gigabytes / std::max(verification.seconds, 1e-9))};
  }
  std::vector<std::string> lines = {
      fmt::format("{}: damaged in {} places", checkpoint, verification.damages.size())};
  for (const checkpoint::Damage& damage : verification.damages)
    lines.push_back(fmt::format("  {}: {}", damage.file, damage.what));
  return lines;
}

}  // namespace elaswave::app
