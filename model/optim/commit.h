// The commit point C(v): what all ranks sum exactly, and the record decided from it. The record is
// all that the update depends on; whoever holds it can apply the step from the log.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/base/exact_sum.h"
#include "io/base/types.h"
#include "model/kernels/ops.h"
#include "model/optim/schedule.h"

namespace elaswave::optim {

/// One rank's addend to C(v). All integers: any order of addition gives the same sum.
struct CommitVote {
  std::int64_t bad_ranks = 0;      // 1 when this rank saw a non-finite or out-of-range addend
  std::int64_t data_failures = 0;  // 1 when this rank could not read its samples
  std::int64_t stop_requests = 0;  // 1 when this rank was asked to stop (signal)
  // How far the checkpoint under way is: ranks whose shard is on disk, ranks that failed, and 1
  // when the coordinator has published it.
  std::int64_t shards_written = 0, checkpoint_failures = 0, checkpoints_published = 0;
  std::int64_t tokens = 0;
  std::int64_t micro_batches = 0;  // computed by this rank for this step
  std::int64_t blocks_logged = 0;  // blocks whose mean gradient this rank holds as owner
  std::int64_t copies_logged = 0;  // ... and as a backup that follows
  std::int64_t copy_digest = 0;    // copy_digest.h: 0 in the sum unless a copy is not its owner's
  ExactSum loss;                   // sum of token losses
  ExactSum gradient_squares;       // over owned blocks of the mean gradient

  std::vector<std::int64_t> words() const;
  static CommitVote from_words(std::span<const std::int64_t> words);
};

struct AdamWConfig {
  LrConfig lr;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  double clip = 1.0;  // on the global norm of the mean gradient; 0 = off
};

struct CommitRecord {
  Version version;
  double loss = 0;       // mean over the tokens of the global batch, nats
  double grad_norm = 0;  // of the mean gradient, before clipping
  double lr = 0;
  std::int64_t updates = 0;  // AdamW's t after this step; a skipped step does not count
  bool skip = false;         // a non-finite step: data advance, state does not
  std::uint64_t sample_hash = 0;
  kernels::AdamWScalars scalars;  // weight_decay is the matrices' value; vectors use 0

  /// All of it, bit for bit: records travel in inventories.
  static constexpr std::size_t kWords = 16;
  std::vector<std::int64_t> words() const;
  static CommitRecord from_words(std::span<const std::int64_t> words);
};

/// Pure. `updates_before` is t before this step. Loss and norm of a skipped step may be non-finite.
CommitRecord decide(const CommitVote& total, Version version, std::int64_t updates_before,
                    std::uint64_t sample_hash, const AdamWConfig& config);

}  // namespace elaswave::optim
