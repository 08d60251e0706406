#include "app/checkpointing.h"

#include <exception>
#include <utility>

#include "app/state_ranges.h"
#include "io/base/log.h"
#include "io/checkpoint/reader.h"

namespace elaswave::app {
namespace {

/// How often ranks that wait for each other's disks ask.
constexpr Nanoseconds kPollInterval = 5 * kMillisecond;

/// What work beside training throws (memory, threads) costs its checkpoint, not the run.
template <typename Work>
auto guarded(Work work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::exception& problem) {
    return fail({.code = Code::io,
                 .what = "a checkpoint could not be worked on",
                 .where = "beside training",
                 .why = problem.what(),
                 .fix = "look at the limits of memory and processes"});
  }
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

std::int64_t checkpoint_bytes(const spec::Inventory& inventory, std::int64_t ranks) {
  constexpr auto kKinds = static_cast<std::int64_t>(checkpoint::Kind::count);
  constexpr std::int64_t kFrameShare = 32;  // checksums and rounding: one part in so many
  // 22 to 25 KiB a shard, 2 to 4 KiB a tensor were seen; only of tiny models are they much.
  constexpr std::int64_t kShardFrameBytes = 32 << 10;
  constexpr std::int64_t kIndexBytes = 4 << 10;  // of a tensor, in the index and the manifest
  const auto state = kKinds * static_cast<std::int64_t>(sizeof(float)) * inventory.total_elems();
  return state + state / kFrameShare + ranks * kShardFrameBytes +
         std::ssize(inventory.tensors()) * kIndexBytes;
}

Checkpointer::Checkpointer(const Parts& parts)
    : parts_(parts),
      world_rank_(parts.world.world_rank()),
      sources_(state_sources(parts.shard)),
      copier_(parts.setup.beside),
      writer_(parts.setup.beside) {}

Result<std::unique_ptr<Checkpointer>> Checkpointer::create(const Parts& parts) {
  std::unique_ptr<Checkpointer> made(new Checkpointer(parts));
  const auto ranges = state_ranges(parts.inventory, parts.blocks, parts.shard);
  if (!ranges.empty()) {
    EW_ASSIGN(made->shard_, checkpoint::ShardFile::create(ranges));
    made->counts_.bytes = made->shard_->size_bytes();
  }
  return made;
}

Result<std::unique_ptr<Checkpointer>> Checkpointer::create(const Parts& parts,
                                                           std::unique_ptr<Checkpointer> before,
                                                           Step durable) {
  const Checkpointer& old = *before;
  CheckpointCounts counts = old.counts_;
  const Step wanted = old.wanted_, verified = old.verified_;
  const std::string run = old.run_;
  const std::optional<checkpoint::Attempt> left = old.left_;
  before.reset();  // its buffer makes room
  EW_ASSIGN(std::unique_ptr<Checkpointer> made, create(parts));
  counts.bytes = made->counts_.bytes;
  made->counts_ = counts;
  made->wanted_ = wanted;
  made->verified_ = verified;
  made->durable_ = durable;
  made->run_ = run;
  // Nobody writes there any more: all members have abandoned it before they came here.
  if (left && made->coordinator()) {
    made->attempt_ = *left;
    made->phase_ = Phase::idle;
    made->writer_.start([checkpointer = made.get()] { checkpointer->remove_attempt(); });
  }
  return made;
}

void Checkpointer::abandon() {
  copier_.wait();
  writer_.wait();
  if (phase_ == Phase::idle) return;  // left_ may be there from an earlier call
  phase_ = Phase::idle;
  // A coordinator that died may have published it all the same.
  const auto there = exists(parts_.setup.files, fmt::format("{}/{}", parts_.setup.directory,
                                                            checkpoint::step_name(attempt_.step)));
  if (there && *there) {
    durable_ = attempt_.step;
  } else {
    left_ = attempt_;
    ++counts_.failed;
  }
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
      log_warn("checkpoint of step {} skipped: that of step {} is still being {}",
               raw(state.version.step), raw(attempt_.step),
               phase_ == Phase::removing ? "removed" : "written");
    return;
  }
  wait_captured();
  writer_.wait();
  phase_ = Phase::writing;
  state_ = state;
  wanted_ = state.version.step;
  // Of the view that writes it, not of the one that committed the step: after a failure the same
  // step is tried again while what the first attempt left is being removed.
  attempt_ = {state.version.step, parts_.group.generation, parts_.setup.session};
  entry_.reset();
  published_.reset();
  if (shard_) {
    shard_->rewind();
    parts_.shard.settle();  // the copier reads spans taken long ago
    copier_.start([this] { shard_->capture(sources_); });
  }
  writer_.start([this] { write_shard(); });
}

void Checkpointer::write_shard() {
  auto written = guarded([this] { return written_shard(); });
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
            shard_->write(parts_.setup.files, directory, checkpoint::shard_name(world_rank_)));
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
  } else if (published_) {  // the coordinator's
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
    EW_ASSIGN(std::vector<std::string> reports, collect());
    phase_ = Phase::publishing;
    if (coordinator()) writer_.start([this, reports = std::move(reports)] { publish(reports); });
  } else if (phase_ == Phase::publishing && total.checkpoint_failures > 0) {
    failed();
  } else if (phase_ == Phase::publishing && total.checkpoints_published > 0) {
    phase_ = Phase::idle;
    durable_ = attempt_.step;
    ++counts_.durable;
  } else if (phase_ == Phase::removing &&
             total.checkpoint_failures + total.checkpoints_published > 0) {
    phase_ = Phase::idle;
  }
  return {};
}

void Checkpointer::failed() {
  phase_ = Phase::removing;
  published_.reset();
  ++counts_.failed;
  if (!coordinator()) return;
  log_error("checkpoint of step {} failed; training goes on", raw(attempt_.step));
  writer_.start([this] {
    published_ = guarded([this]() -> Result<void> {
      remove_attempt();
      make_room();
      return {};
    });
  });
}

void Checkpointer::remove_attempt() {
  const auto removed = remove_tree(parts_.setup.files, attempt_directory());
  if (!removed) log_warn("cannot remove {}: {}", attempt_directory(), removed.error().why);
}

/// On a disk too full for another checkpoint the older ones go, but for those kept for ever and the
/// newest that was read: or a long run would end with its oldest ones.
void Checkpointer::make_room() {
  const CheckpointSetup& setup = parts_.setup;
  const auto free = setup.files.free_bytes(setup.directory);
  if (!free || *free >= checkpoint_bytes(parts_.inventory, parts_.group.size())) return;
  log_warn("{} has {} bytes left, too few for a checkpoint: older ones are deleted",
           setup.directory, *free);
  const auto deleted =
      checkpoint::apply_retention(setup.files, setup.directory,
                                  {.keep = 1, .keep_every = setup.retention.keep_every}, verified_);
  if (!deleted) log_warn("cannot delete checkpoints: {}", deleted.error().text());
}

/// COLLECTIVE. The texts of all ranks' entries, on the coordinator; those of ranks that own nothing
/// are empty.
Result<std::vector<std::string>> Checkpointer::collect() {
  const std::string text = shard_ ? checkpoint::entry_text(**entry_) : std::string();
  const auto length = static_cast<std::int64_t>(text.size());
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(parts_.group.size()));
  EW_TRY(comm::all_gather(parts_.world, parts_.group, std::as_bytes(std::span(&length, 1)),
                          std::as_writable_bytes(std::span(lengths)), "shard reports", deadline()));
  std::vector<std::string> reports;
  if (!coordinator()) {
    if (text.empty()) return reports;
    const comm::Work work = parts_.world.send(
        parts_.group.world_ranks.front(), comm::Channel::state, {std::as_bytes(std::span(text))});
    EW_TRY(parts_.world.wait(work, "send a shard report", deadline()));
    return reports;
  }
  reports.push_back(text);
  for (std::size_t i = 1; i < lengths.size(); ++i) {
    std::string& report = reports.emplace_back(static_cast<std::size_t>(lengths[i]), '\0');
    if (report.empty()) continue;
    const comm::Work work = parts_.world.receive(parts_.group.world_ranks[i], comm::Channel::state,
                                                 {std::as_writable_bytes(std::span(report))});
    EW_TRY(parts_.world.wait(work, "receive a shard report", deadline()));
  }
  return reports;
}

void Checkpointer::publish(const std::vector<std::string>& reports) {
  published_ = guarded([&] { return published(reports); });
  if (*published_) return tidy();
  log_error("checkpoint of step {} was not published: {}", raw(attempt_.step),
            published_->error().text());
}

Result<void> Checkpointer::published(const std::vector<std::string>& reports) {
  const CheckpointSetup& setup = parts_.setup;
  // A coordinator that was voted out in the middle may have been faster: a step has one content,
  // and its name appears only when all of it is there.
  const auto there = exists(
      setup.files, fmt::format("{}/{}", setup.directory, checkpoint::step_name(attempt_.step)));
  if (there && *there) {
    remove_attempt();
    return {};
  }
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
                                .files = {}};
  for (const std::string& report : reports) {
    if (report.empty()) continue;
    EW_ASSIGN(checkpoint::FileEntry entry, checkpoint::parse_entry(report));
    manifest.files.push_back(std::move(entry));
  }
  EW_TRY(checkpoint::publish(setup.files, setup.directory, attempt_, std::move(manifest)));
  if (setup.verify) verified_ = attempt_.step;
  return {};
}

/// The checkpoint is there; this is housekeeping and can be done next time.
void Checkpointer::tidy() {
  const CheckpointSetup& setup = parts_.setup;
  const auto warn = [&](const Result<void>& done) {
    if (!done) log_warn("after checkpoint {}: {}", raw(attempt_.step), done.error().text());
  };
  // A process that slept while the others went on without it must not turn LATEST back.
  const auto steps = checkpoint::list_steps(setup.files, setup.directory);
  if (steps && !steps->empty() && steps->front() > attempt_.step) return;
  warn(guarded(
      [&] { return checkpoint::write_latest(setup.files, setup.directory, attempt_.step); }));
  warn(guarded([&] {
    return checkpoint::apply_retention(setup.files, setup.directory, setup.retention, verified_);
  }));
}

/// COLLECTIVE. Ends the attempt under way. Ranks ask each other again and again, so that a slow
/// disk of one is no deadline missed for another.
Result<void> Checkpointer::drain() {
  copier_.wait();  // nothing is computed meanwhile: no time that training lost
  while (phase_ != Phase::idle) {
    optim::CommitVote mine;
    vote(mine);
    std::int64_t words[] = {mine.shards_written, mine.checkpoint_failures,
                            mine.checkpoints_published};
    EW_TRY(comm::all_reduce_sum(parts_.world, parts_.group, words, "checkpoint", deadline()));
    const Phase before = phase_;
    EW_TRY(advance({.shards_written = words[0],
                    .checkpoint_failures = words[1],
                    .checkpoints_published = words[2]}));
    if (phase_ == before) parts_.world.clock().sleep(kPollInterval);
  }
  return {};
}

Result<bool> Checkpointer::finish(const std::optional<TrainerState>& last) {
  EW_TRY(drain());
  if (last && durable_ != last->version.step) {
    begin(*last);
    EW_TRY(drain());
  }
  return durable_ == wanted_;
}

void Checkpointer::resumed_from(const checkpoint::Manifest& manifest) {
  run_ = manifest.run;
  wanted_ = durable_ = verified_ = manifest.step;
}

}  // namespace elaswave::app
