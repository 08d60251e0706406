#include "elastic/replica/backups.h"

#include <algorithm>
#include <map>
#include <utility>

#include "io/base/error.h"
#include "io/base/mutant.h"

namespace elaswave::replica {

Backups::Backups(comm::World& world, zero::Shard& shard, Followers followers, Nanoseconds timeout)
    : world_(world), shard_(shard), followers_(std::move(followers)), timeout_(timeout) {
  for (const zero::HeldBlock& owned : shard.owned())
    EW_CHECK(shard.whole(owned.block), "block {} is owned here and not whole", owned.block);
  lay_out();
  for (const zero::SharedBlock& shared : shared_)
    EW_CHECK(shard.whole(shared.held.block), "the copy of block {} follows and is not whole",
             shared.held.block);
}

/// What this step sends, receives and updates.
void Backups::lay_out() {
  log_pairs_ = pairs_of(followers_.following());
  fill_pairs_ = pairs_of(followers_.filling());
  mine_.clear();
  shared_.clear();
  const int self = world_.world_rank();
  auto filling = followers_.filling().begin();
  for (const Copy& copy : followers_.following()) {
    const bool filled_now = filling != followers_.filling().end() && *filling == copy;
    if (filled_now) ++filling;
    if (copy.owner != self && copy.backup != self) continue;
    const zero::HeldBlock& held = *shard_.find(copy.block);
    if (copy.backup == self) mine_.push_back(held);
    if (filled_now) continue;
    if (copy.backup == self)
      shared_.push_back({held, -1});
    else if (!shared_.empty() && shared_.back().held.block == copy.block)
      ++shared_.back().weight;
    else
      shared_.push_back({held, 1});
  }
}

Backups::Pairs Backups::pairs_of(const std::vector<Copy>& copies) const {
  const int self = world_.world_rank();
  std::map<std::int32_t, std::vector<zero::HeldBlock>> to, from;
  for (const Copy& copy : copies) {
    if (copy.owner != self && copy.backup != self) continue;
    const zero::HeldBlock* held = shard_.find(copy.block);
    EW_CHECK(held != nullptr, "block {} has no memory on rank {}", copy.block, self);
    if (copy.owner == self)
      to[copy.backup].push_back(*held);
    else
      from[copy.owner].push_back(*held);
  }
  Pairs pairs;
  for (auto& [rank, blocks] : to) pairs.to.push_back({rank, std::move(blocks)});
  for (auto& [rank, blocks] : from) pairs.from.push_back({rank, std::move(blocks)});
  return pairs;
}

std::vector<std::span<float>> Backups::ranges(const Peer& peer, Cargo cargo) {
  std::vector<std::span<float>> ranges;
  for (const zero::HeldBlock& held : peer.blocks) {
    if (cargo == Cargo::log) {
      ranges.push_back(shard_.log(held));
      continue;
    }
    ranges.push_back(shard_.master(held));
    ranges.push_back(shard_.moment1(held));
    ranges.push_back(shard_.moment2(held));
  }
  return ranges;
}

void Backups::post(const Pairs& pairs, Cargo cargo, std::vector<comm::Work>& receives) {
  for (const Peer& peer : pairs.from) {
    comm::Pieces pieces;
    for (const std::span<float> range : ranges(peer, cargo))
      pieces.push_back(std::as_writable_bytes(range));
    receives.push_back(world_.receive(peer.world_rank, comm::Channel::state, std::move(pieces)));
  }
  for (const Peer& peer : pairs.to) {
    comm::ConstPieces pieces;
    for (const std::span<float> range : ranges(peer, cargo)) {
      pieces.push_back(std::as_bytes(range));
      sent_bytes_ += std::ssize(pieces.back());
    }
    sends_.push_back(world_.send(peer.world_rank, comm::Channel::state, std::move(pieces)));
  }
}

Result<void> Backups::wait(std::vector<comm::Work>& works, std::string_view operation) {
  const Deadline deadline = Deadline::after(world_.clock(), timeout_);
  for (const comm::Work& work : works) EW_TRY(world_.wait(work, operation, deadline));
  works.clear();
  return {};
}

void Backups::begin_step() {
  EW_CHECK(sends_.empty() && fills_.empty(), "the step before still has {} sends under way",
           sends_.size());
  logged_ = 0;
  if (!followers_.filling().empty()) world_.probe(Point::fill);
  post(fill_pairs_, Cargo::state, fills_);
}

Result<void> Backups::log() {
  std::vector<comm::Work> receives;
  post(log_pairs_, Cargo::log, mutant(Mutant::acknowledge_before_arrival) ? fills_ : receives);
  EW_TRY(wait(receives, "log at backups"));
  logged_ = std::ssize(mine_);
  return {};
}

Result<void> Backups::before_apply() {
  EW_TRY(wait(fills_, "fill backups"));
  return wait(sends_, "send to backups");
}

void Backups::committed() {
  if (followers_.filling().empty()) return;
  for (const Peer& peer : fill_pairs_.from)
    for (const zero::HeldBlock& held : peer.blocks) shard_.set_whole(held.block, true);
  followers_.advance();
  lay_out();
}

}  // namespace elaswave::replica
