// The log at the backups: owners send each step's mean gradients to whoever keeps copies of their
// blocks, and the state itself to copies that are being filled. Log before apply: the commit point
// passes only when every copy that follows has its gradient.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "elastic/replica/followers.h"
#include "parallel/comm/world.h"
#include "parallel/zero/shard.h"

namespace elaswave::replica {

/// A step: begin_step(), log() once the shard's own log is written, then the commit point, then
/// before_apply() and, after the update of owned blocks and of following(), committed(). THREADS:
/// the rank's compute thread. After StepAborted or an error the object is of no more use.
class Backups {
 public:
  /// REQUIRES: the shard has adopted the plan that the followers are from, and what it owns and the
  /// copies here that follow already are whole.
  Backups(comm::World& world, zero::Shard& shard, Followers followers, Nanoseconds timeout);

  /// Starts sending and receiving the state of the copies that are filled in this step: neither end
  /// changes it before before_apply(). Never blocks.
  void begin_step();
  /// Sends the log of owned blocks to their copies and receives that of the copies kept here.
  /// Returns when all of the latter are here, checked: what the vote tells as logged.
  Result<void> log();
  /// True when log() sends the log of blocks owned here, which then has to be in the shard.
  bool sends() const { return !log_pairs_.to.empty(); }
  /// Copies kept here whose gradient of this step is here: this rank's addend to
  /// CommitVote::copies_logged. 0 before log().
  std::int64_t logged() const { return logged_; }
  /// Copies that follow in this step, on all ranks together: what the sum must be.
  std::int64_t expected() const { return std::ssize(followers_.following()); }
  /// Waits until the state being filled has arrived and nothing here is being sent any more.
  Result<void> before_apply();
  /// Blocks kept here as copies that follow in this step, ascending: apply updates them with the
  /// owned ones.
  const std::vector<zero::HeldBlock>& following() const { return mine_; }
  /// Blocks held here with copies that followed before this step already, ascending: what
  /// optim::copy_digest compares.
  const std::vector<zero::SharedBlock>& shared() const { return shared_; }
  /// The update was applied: filled copies are whole, the next step begins.
  void committed();
  /// True when every copy that the plan wants follows: nothing is exposed.
  bool complete() const { return followers_.complete(); }
  std::int64_t missing() const { return followers_.missing(); }

  std::int64_t sent_bytes() const { return sent_bytes_; }  // since the start, log and fills

 private:
  /// Blocks that go to or come from one peer in one message, ascending.
  struct Peer {
    std::int32_t world_rank = 0;
    std::vector<zero::HeldBlock> blocks;
  };
  struct Pairs {
    std::vector<Peer> to, from;  // by rank, ascending
  };
  enum class Cargo : std::uint8_t { log, state };

  void lay_out();
  Pairs pairs_of(const std::vector<Copy>& copies) const;
  std::vector<std::span<float>> ranges(const Peer& peer, Cargo cargo);
  /// Receives go to `receives`, sends to sends_. Never blocks.
  void post(const Pairs& pairs, Cargo cargo, std::vector<comm::Work>& receives);
  Result<void> wait(std::vector<comm::Work>& works, std::string_view operation);

  comm::World& world_;
  zero::Shard& shard_;
  Followers followers_;
  Nanoseconds timeout_;
  Pairs log_pairs_, fill_pairs_;
  std::vector<zero::HeldBlock> mine_;
  std::vector<zero::SharedBlock> shared_;
  std::vector<comm::Work> fills_, sends_;  // under way: receives of state, sends of any kind
  std::int64_t logged_ = 0, sent_bytes_ = 0;
};

}  // namespace elaswave::replica
