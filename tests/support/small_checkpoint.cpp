#include "tests/support/small_checkpoint.h"

#include <algorithm>
#include <cstring>

#include "io/base/crc32c.h"
#include "io/checkpoint/publish.h"
#include "io/checkpoint/shard.h"
#include "io/checkpoint/store.h"

namespace elaswave::testing {
namespace {

using checkpoint::ElementRun;
using checkpoint::FileEntry;
using checkpoint::Kind;
using checkpoint::kUnitElems;
using checkpoint::Manifest;
using checkpoint::Piece;
using checkpoint::StateRange;
using checkpoint::Tensor;

constexpr std::int64_t kFrameBytes = 4096;

Result<std::string> checkpoints_of(FileSystem& files, const std::string& directory) {
  const std::string path = directory + "/" + std::string(checkpoint::kFolder);
  EW_TRY(make_directories(files, path));
  return path;
}

Result<std::string> commit(FileSystem& files, const std::string& directory,
                           const checkpoint::Attempt& attempt, const Manifest& manifest) {
  EW_TRY(checkpoint::publish(files, directory, attempt, manifest));
  return directory + "/" + checkpoint::step_name(attempt.step);
}

/// A file under construction: bytes and their description.
struct HandMade {
  FileEntry entry;
  std::vector<std::byte> bytes = std::vector<std::byte>(kFrameBytes, std::byte{0x5a});

  void add(std::int32_t tensor, Kind kind, const ElementRun& run,
           const std::vector<float>& source) {
    Piece piece{.tensor = tensor,
                .kind = kind,
                .offset_bytes = std::ssize(bytes),
                .runs = {run},
                .unit_crcs = {}};
    std::vector<float> stored;
    for (std::int64_t i = 0; i < run.count; ++i) {
      const auto first = source.begin() + run.begin + i * run.stride;
      stored.insert(stored.end(), first, first + run.elems);
    }
    for (std::int64_t at = 0; at < std::ssize(stored); at += kUnitElems) {
      const auto count = std::min<std::size_t>(kUnitElems, stored.size() - at);
      piece.unit_crcs.push_back(crc32c(std::as_bytes(std::span(stored).subspan(at, count))));
    }
    const auto raw_bytes = std::as_bytes(std::span(stored));
    bytes.insert(bytes.end(), raw_bytes.begin(), raw_bytes.end());
    entry.pieces.push_back(std::move(piece));
  }

  Result<FileEntry> write(FileSystem& files, const std::string& attempt, const std::string& name) {
    FileEntry done = checkpoint::plain_entry(name, bytes);
    done.frame_crc = crc32c(std::span(bytes).first(kFrameBytes));
    done.pieces = std::move(entry.pieces);
    EW_TRY(write_text(files, attempt + "/" + name,
                      {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    return done;
  }
};

}  // namespace

SmallState small_state(std::vector<Tensor> tensors) {
  SmallState state{.tensors = std::move(tensors), .values = {}};
  float next = 1;
  for (auto& kind : state.values)
    for (const Tensor& tensor : state.tensors) {
      std::vector<float>& values = kind.emplace_back();
      for (std::int64_t i = 0; i < tensor.elems(); ++i) values.push_back(next++ / 1024);
    }
  return state;
}

Manifest small_manifest(const SmallState& state, Step step) {
  Manifest manifest;
  manifest.run = "0123456789abcdef";
  manifest.writer = "elaswave test";
  manifest.created = "2026-11-21T10:00:00Z";
  manifest.step = step;
  manifest.updates = raw(step) - 1;
  manifest.samples = 8 * raw(step);
  manifest.tokens = 256 * raw(step);
  manifest.loss = 2.5;
  manifest.config = {{"train.seed", "1337"}, {"device.threads", "2"}};
  manifest.facts = {{"tokenizer", "bytes"}, {"numeric_class", "cpu"}};
  manifest.tensors = state.tensors;
  return manifest;
}

Result<std::string> save(FileSystem& files, const std::string& directory, const Manifest& manifest,
                         const SmallState& state, int shards) {
  std::vector<std::vector<StateRange>> ranges(static_cast<std::size_t>(shards));
  std::size_t turn = 0;
  for (std::int32_t t = 0; t < std::ssize(state.tensors); ++t) {
    const std::int64_t elems = state.tensors[static_cast<std::size_t>(t)].elems();
    for (std::int64_t begin = 0; begin < elems; begin += kUnitElems)
      ranges[turn++ % ranges.size()].push_back(
          {t, {{.begin = begin, .elems = std::min(kUnitElems, elems - begin)}}});
  }
  EW_ASSIGN(const std::string folder, checkpoints_of(files, directory));
  const checkpoint::Attempt attempt{manifest.step, manifest.generation, 7};
  EW_TRY(checkpoint::begin_attempt(files, folder, attempt));
  Manifest full = manifest;
  for (int writer = 0; writer < shards; ++writer) {
    const auto& mine = ranges[static_cast<std::size_t>(writer)];
    std::vector<checkpoint::StateSource> sources;
    for (const StateRange& range : mine) {
      checkpoint::StateSource& source = sources.emplace_back();
      for (std::size_t kind = 0; kind < source.size(); ++kind)
        source[kind] = std::span(state.values[kind][static_cast<std::size_t>(range.tensor)])
                           .subspan(static_cast<std::size_t>(range.runs[0].begin),
                                    static_cast<std::size_t>(range.elems()));
    }
    EW_ASSIGN(const auto shard, checkpoint::ShardFile::create(mine));
    shard->rewind();
    shard->capture(sources);
    const std::string name = checkpoint::shard_name(writer);
    EW_ASSIGN(FileEntry entry,
              shard->write(files, checkpoint::attempt_path(folder, attempt), name));
    full.files.push_back(std::move(entry));
  }
  return commit(files, folder, attempt, full);
}

Result<std::string> save_halves(FileSystem& files, const std::string& directory,
                                const Manifest& manifest, const SmallState& state) {
  std::array<HandMade, 2> made;
  for (std::size_t kind = 0; kind < state.values.size(); ++kind)
    for (std::int32_t t = 0; t < std::ssize(state.tensors); ++t) {
      const Tensor& tensor = state.tensors[static_cast<std::size_t>(t)];
      const std::vector<float>& values = state.values[kind][static_cast<std::size_t>(t)];
      const std::int64_t cols = tensor.shape.back(), rows = tensor.elems() / cols;
      const std::int64_t left = cols / 2;
      if (left > 0) made[0].add(t, static_cast<Kind>(kind), {0, left, cols, rows}, values);
      made[1].add(t, static_cast<Kind>(kind), {left, cols - left, cols, rows}, values);
    }
  EW_ASSIGN(const std::string folder, checkpoints_of(files, directory));
  const checkpoint::Attempt attempt{manifest.step, manifest.generation, 8};
  EW_TRY(checkpoint::begin_attempt(files, folder, attempt));
  Manifest full = manifest;
  for (int writer = 0; writer < std::ssize(made); ++writer) {
    EW_ASSIGN(FileEntry entry, made[static_cast<std::size_t>(writer)].write(
                                   files, checkpoint::attempt_path(folder, attempt),
                                   checkpoint::shard_name(writer)));
    full.files.push_back(std::move(entry));
  }
  return commit(files, folder, attempt, full);
}

}  // namespace elaswave::testing
