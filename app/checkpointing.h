// The trainer's side of checkpoints: when one is taken, how the ranks agree on its progress, and
// what keeps it from getting in the way of training.
//
// One attempt at a time goes idle -> writing -> publishing -> idle, or -> removing -> idle. Ranks
// never wait for each other because of it: each says in its commit vote how far its own files are,
// and the sums of the vote move all ranks to the next phase at the same step. A rank's state is
// copied on a thread of its own while the next step computes (master weights and moments change
// only in apply); apply waits for the copy, nothing else does.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/base/file_system.h"
#include "io/checkpoint/background_writer.h"
#include "io/checkpoint/publish.h"
#include "io/checkpoint/shard.h"
#include "io/checkpoint/store.h"
#include "model/optim/commit.h"
#include "model/spec/inventory.h"
#include "parallel/comm/group.h"
#include "parallel/zero/shard.h"

namespace elaswave::app {

/// Equal on all ranks except where noted. References must outlive the trainer.
struct CheckpointSetup {
  FileSystem& files;
  std::string directory;   // where step-* go; made when missing
  std::int64_t every = 0;  // steps; 0: never
  bool last = true;        // also after the last step
  bool verify = true;      // read back what was written before it counts
  checkpoint::Retention retention;
  checkpoint::Beside beside = checkpoint::Beside::thread;
  std::uint64_t session = 0;           // drawn by the reporter at start
  std::string run;                     // identity of a run that begins at step 0
  std::string writer;                  // program and version
  std::string (*created)() = nullptr;  // the time as text; null: none
  checkpoint::Facts config, facts;     // into the manifest
};

/// What belongs to a step besides the tensors.
struct TrainerState {
  Version version;
  std::int64_t updates = 0, samples = 0, tokens = 0;
  double loss = 0;
  std::optional<std::uint64_t> digest;
};

struct CheckpointCounts {
  std::int64_t durable = 0, failed = 0;
  std::int64_t skipped = 0;  // the one before was still being written
  Nanoseconds blocked = 0;   // training waited so long for copies
  std::int64_t bytes = 0;    // of this rank's shard
};

/// The tensors of a model as a manifest names them.
std::vector<checkpoint::Tensor> manifest_tensors(const spec::Inventory& inventory);

/// About what a checkpoint takes on the disk, the shards of all `ranks` together: how they are laid
/// out hardly matters.
std::int64_t checkpoint_bytes(const spec::Inventory& inventory, std::int64_t ranks);

class Checkpointer {
 public:
  struct Parts {
    const CheckpointSetup& setup;
    comm::World& world;
    const comm::Group& group;
    const spec::Inventory& inventory;
    const layout::BlockTable& blocks;
    zero::Shard& shard;
    Nanoseconds timeout = 0;
  };
  /// Allocates this rank's buffer, as large as its share of the state.
  static Result<std::unique_ptr<Checkpointer>> create(const Parts& parts);
  /// After a change of members: what `before` knew stays, its attempt is gone. `durable` is the
  /// newest step that any member knows to be on disk. REQUIRES: before->abandon() on all members.
  static Result<std::unique_ptr<Checkpointer>> create(const Parts& parts,
                                                      std::unique_ptr<Checkpointer> before,
                                                      Step durable);

  /// True when a checkpoint is wanted after `step`.
  bool due(Step step) const;
  /// Starts an attempt at the state as it stands, or counts a skipped one.
  void begin(const TrainerState& state);
  /// Before the state changes: waits until it is copied.
  void wait_captured();

  /// This rank's part of the vote.
  void vote(optim::CommitVote& vote) const;
  /// COLLECTIVE, after every vote: moves the attempt on.
  Result<void> advance(const optim::CommitVote& total);

  /// COLLECTIVE. Ends the attempt under way and, with `last`, takes another one now unless that
  /// step is durable already. False: the last checkpoint that was wanted is not durable.
  Result<bool> finish(const std::optional<TrainerState>& last);

  /// Local: the members change, the attempt under way ends. Waits for this rank's own threads: the
  /// copy, and the file being written.
  void abandon();
  /// Newest step this rank knows to be on disk; 0: none.
  Step durable() const { return durable_; }

  /// The run continues that of a checkpoint, which was verified while it was loaded.
  void resumed_from(const checkpoint::Manifest& manifest);

  const CheckpointCounts& counts() const { return counts_; }

 private:
  enum class Phase { idle, writing, publishing, removing };

  explicit Checkpointer(const Parts& parts);
  bool coordinator() const { return world_rank_ == parts_.group.world_ranks.front(); }
  std::string attempt_directory() const;
  void write_shard();
  Result<checkpoint::FileEntry> written_shard();
  Result<std::vector<std::string>> collect();
  void publish(const std::vector<std::string>& reports);
  Result<void> published(const std::vector<std::string>& reports);
  void tidy();
  void remove_attempt();
  void make_room();
  void failed();
  Result<void> drain();
  Deadline deadline() const { return Deadline::after(parts_.world.clock(), parts_.timeout); }

  Parts parts_;
  int world_rank_;  // a copy: the thread beside training may outlive the world after a failure
  std::unique_ptr<checkpoint::ShardFile> shard_;  // null: this rank owns nothing
  std::vector<checkpoint::StateSource> sources_;
  std::string run_;  // of the checkpoint gone on from; empty: none

  Phase phase_ = Phase::idle;
  checkpoint::Attempt attempt_;
  std::optional<checkpoint::Attempt> left_;  // abandoned, to be removed
  TrainerState state_;
  // Written by the thread beside training, read when it is no longer running.
  std::optional<Result<checkpoint::FileEntry>> entry_;
  std::optional<Result<void>> published_;

  Step wanted_{};    // newest step a checkpoint was begun for
  Step durable_{};   // newest durable one
  Step verified_{};  // newest one that was read, back or at the start
  CheckpointCounts counts_;
  checkpoint::BackgroundWriter copier_, writer_;  // last: they use everything above
};

}  // namespace elaswave::app
