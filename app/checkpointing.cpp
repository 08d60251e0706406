#include "app/checkpointing.h"

#include <utility>

#include "io/base/log.h"
#include "io/checkpoint/reader.h"

namespace elaswave::app {
namespace {

constexpr std::size_t kKinds = static_cast<std::size_t>(checkpoint::Kind::count);

std::vector<checkpoint::StateRange> ranges_of(const zero::Shard& shard,
                                              const layout::BlockTable& blocks) {
  std::vector<checkpoint::StateRange> ranges;
  for (const zero::OwnedBlock& owned : shard.owned()) {
    const layout::Block& block = blocks.block(owned.block);
    ranges.push_back({block.tensor, block.begin, block.elems});
  }
  return ranges;
}

std::vector<checkpoint::StateSource> sources_of(zero::Shard& shard) {
  std::vector<checkpoint::StateSource> sources;
  for (const zero::OwnedBlock& owned : shard.owned())
    sources.push_back({shard.master(owned), shard.moment1(owned), shard.moment2(owned)});
  static_assert(kKinds == 3);
  return sources;
}

}  // namespace

std::vector<checkpoint::Tensor> manifest_tensors(const spec::Inventory& inventory) {
  std::vector<checkpoint::Tensor> tensors;
  for (const spec::TensorSpec& tensor : inventory.tensors()) {
    const auto shape = std::span(tensor.shape).subspan(tensor.dims == 2 ? 0 : 1);
    tensors.push_back({tensor.name, {shape.begin(), shape.end()}});
  }
  return tensors;
}

Checkpointer::Checkpointer(const Parts& parts)
    : parts_(parts),
      sources_(sources_of(parts.shard)),
      copier_(parts.setup.beside),
      writer_(parts.setup.beside) {}

Result<std::unique_ptr<Checkpointer>> Checkpointer::create(const Parts& parts) {
  std::unique_ptr<Checkpointer> made(new Checkpointer(parts));
  const auto ranges = ranges_of(parts.shard, parts.blocks);
  if (!ranges.empty()) {
    EW_ASSIGN(made->shard_, checkpoint::ShardFile::create(ranges));
    made->counts_.bytes = made->shard_->size_bytes();
  }
  return made;
}

bool Checkpointer::due(Step step) const {
  return parts_.setup.every > 0 && raw(step) % parts_.setup.every == 0;
}

std::string Checkpointer::attempt_directory() const {
  return checkpoint::attempt_path(parts_.setup.directory, attempt_);
}

void Checkpointer::begin(const TrainerState& state) {
  if (phase_ != Phase::idle) {
    ++counts_.skipped;
    if (coordinator())
      log_warn("checkpoint of step {} skipped: that of step {} is still being written",
               raw(state.version.step), raw(attempt_.step));
    return;
  }
  wait_captured();
  writer_.wait();  // it may still be removing what a failed attempt left
  phase_ = Phase::writing;
  state_ = state;
  wanted_ = state.version.step;
  attempt_ = {state.version.step, state.version.generation, parts_.setup.session};
  entry_.reset();
  published_.reset();
  if (shard_) {
    shard_->rewind();
    copier_.start([this] { shard_->capture(sources_); });
  }
  writer_.start([this] { write_shard(); });
}

void Checkpointer::write_shard() {
  auto written = written_shard();
  // The copy goes on regardless; the image must not be reused before it has ended.
  if (!written)
    log_error("checkpoint of step {} failed on this rank: {}", raw(attempt_.step),
              written.error().text());
  entry_ = std::move(written);
}

Result<checkpoint::FileEntry> Checkpointer::written_shard() {
  const std::string directory = attempt_directory();
  EW_TRY(checkpoint::begin_attempt(parts_.setup.files, parts_.setup.directory, attempt_));
  if (!shard_) return checkpoint::FileEntry{};
  EW_ASSIGN(checkpoint::FileEntry entry,
            shard_->write(parts_.setup.files, directory,
                          checkpoint::shard_name(parts_.world.world_rank())));
  if (!parts_.setup.verify) return entry;
  const auto damages = checkpoint::verify_file(parts_.setup.files, directory, entry);
  if (damages.empty()) return entry;
  return fail({.code = Code::io,
               .what = "a file does not read back as it was written",
               .where = directory + "/" + entry.name,
               .why = damages.front().what,
               .fix = "check the disk and the file system"});
}

void Checkpointer::wait_captured() {
  if (!copier_.running()) return;
  const Nanoseconds begin = parts_.world.clock().now();
  copier_.wait();
  counts_.blocked += parts_.world.clock().now() - begin;
}

void Checkpointer::vote(optim::CommitVote& vote) const {
  if (phase_ == Phase::idle || writer_.running()) return;
  if (phase_ == Phase::writing) {
    (*entry_ ? vote.shards_written : vote.checkpoint_failures) = 1;
  } else if (published_) {
    (*published_ ? vote.checkpoints_published : vote.checkpoint_failures) = 1;
  }
}

Result<void> Checkpointer::advance(const optim::CommitVote& total) {
  if (phase_ == Phase::writing) {
    // Wait for all, also after a failure: a file could still be written into the attempt's folder.
    if (total.shards_written + total.checkpoint_failures < parts_.group.size()) return {};
    if (total.checkpoint_failures > 0) {
      failed();
      return {};
    }
    EW_ASSIGN(std::vector<checkpoint::FileEntry> shards, collect());
    phase_ = Phase::publishing;
    if (coordinator())
      writer_.start([this, shards = std::move(shards)]() mutable { publish(std::move(shards)); });
  } else if (phase_ == Phase::publishing) {
    if (total.checkpoint_failures > 0) {
      failed();
    } else if (total.checkpoints_published > 0) {
      phase_ = Phase::idle;
      durable_ = attempt_.step;
      ++counts_.durable;
    }
  }
  return {};
}

void Checkpointer::failed() {
  phase_ = Phase::idle;
  ++counts_.failed;
  if (!coordinator()) return;
  log_error("checkpoint of step {} failed; training goes on", raw(attempt_.step));
  writer_.start([this] { remove_attempt(); });
}

void Checkpointer::remove_attempt() {
  const auto removed = remove_tree(parts_.setup.files, attempt_directory());
  if (!removed) log_warn("cannot remove {}: {}", attempt_directory(), removed.error().why);
}

Result<std::vector<checkpoint::FileEntry>> Checkpointer::collect() {
  const checkpoint::FileEntry& mine = **entry_;
  const std::string text = shard_ ? checkpoint::entry_text(mine) : std::string();
  const auto length = static_cast<std::int64_t>(text.size());
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(parts_.group.size()));
  EW_TRY(comm::all_gather(parts_.world, parts_.group, std::as_bytes(std::span(&length, 1)),
                          std::as_writable_bytes(std::span(lengths)), "shard reports", deadline()));
  std::vector<checkpoint::FileEntry> shards;
  if (!coordinator()) {
    if (text.empty()) return shards;
    const comm::Work work = parts_.world.send(
        parts_.group.world_ranks.front(), comm::Channel::state, {std::as_bytes(std::span(text))});
    EW_TRY(parts_.world.wait(work, "send a shard report", deadline()));
    return shards;
  }
  for (int i = 0; i < parts_.group.size(); ++i) {
    std::string report(static_cast<std::size_t>(lengths[static_cast<std::size_t>(i)]), '\0');
    if (report.empty()) continue;
    if (i == 0) {
      shards.push_back(mine);
      continue;
    }
    const comm::Work work =
        parts_.world.receive(parts_.group.world_ranks[static_cast<std::size_t>(i)],
                             comm::Channel::state, {std::as_writable_bytes(std::span(report))});
    EW_TRY(parts_.world.wait(work, "receive a shard report", deadline()));
    EW_ASSIGN(checkpoint::FileEntry entry, checkpoint::parse_entry(report));
    shards.push_back(std::move(entry));
  }
  return shards;
}

void Checkpointer::publish(std::vector<checkpoint::FileEntry> shards) {
  published_ = published(std::move(shards));
  if (!*published_)
    log_error("checkpoint of step {} was not published: {}", raw(attempt_.step),
              published_->error().text());
}

Result<void> Checkpointer::published(std::vector<checkpoint::FileEntry> shards) {
  const CheckpointSetup& setup = parts_.setup;
  checkpoint::Manifest manifest{.run = run_.empty() ? setup.run : run_,
                                .writer = setup.writer,
                                .created = setup.created != nullptr ? setup.created() : "",
                                .step = state_.version.step,
                                .generation = state_.version.generation,
                                .updates = state_.updates,
                                .samples = state_.samples,
                                .tokens = state_.tokens,
                                .loss = state_.loss,
                                .digest = state_.digest,
                                .config = setup.config,
                                .facts = setup.facts,
                                .tensors = manifest_tensors(parts_.inventory),
                                .files = std::move(shards)};
  EW_TRY(checkpoint::publish(setup.files, setup.directory, attempt_, std::move(manifest)));
  // The checkpoint is there; what follows is housekeeping and can be done next time.
  auto tidied = checkpoint::write_latest(setup.files, setup.directory, attempt_.step);
  const Step verified = setup.verify ? attempt_.step : durable_;
  if (tidied)
    tidied = checkpoint::apply_retention(setup.files, setup.directory, setup.retention, verified);
  if (!tidied) log_warn("after checkpoint {}: {}", raw(attempt_.step), tidied.error().text());
  return {};
}

Result<bool> Checkpointer::finish(const std::optional<TrainerState>& last) {
  const auto drain = [&]() -> Result<void> {
    while (phase_ != Phase::idle) {
      wait_captured();
      writer_.wait();
      optim::CommitVote mine;
      vote(mine);
      std::int64_t words[] = {mine.shards_written, mine.checkpoint_failures,
                              mine.checkpoints_published};
      EW_TRY(comm::all_reduce_sum(parts_.world, parts_.group, words, "checkpoint", deadline()));
      EW_TRY(advance({.shards_written = words[0],
                      .checkpoint_failures = words[1],
                      .checkpoints_published = words[2]}));
    }
    writer_.wait();
    return {};
  };
  EW_TRY(drain());
  if (last && durable_ != last->version.step) {
    begin(*last);
    EW_TRY(drain());
  }
  return durable_ == wanted_;
}

void Checkpointer::resumed_from(const checkpoint::Manifest& manifest) {
  run_ = manifest.run;
  wanted_ = durable_ = manifest.step;
}

}  // namespace elaswave::app
