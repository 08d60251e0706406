#include "elastic/recover/move.h"

#include <map>
#include <vector>

namespace elaswave::recover {
namespace {

void append(comm::Pieces& pieces, zero::Shard& shard, std::int64_t block) {
  const zero::HeldBlock* held = shard.find(block);
  EW_CHECK(held != nullptr, "block {} is to be moved and has no memory", block);
  for (const std::span<float> state :
       {shard.master(*held), shard.moment1(*held), shard.moment2(*held)})
    pieces.push_back(std::as_writable_bytes(state));
}

}  // namespace

Result<std::int64_t> move_state(comm::World& world, zero::Shard& shard,
                                std::span<const plan::Move> moves, Nanoseconds timeout) {
  const int self = world.world_rank();
  // One message for each pair, its blocks in the order of the list: both ends read the same list.
  std::map<int, comm::Pieces> in;
  std::map<int, comm::Pieces> out;
  for (const plan::Move& move : moves) {
    if (move.to == self) append(in[move.from], shard, move.block);
    if (move.from != self) continue;
    EW_CHECK(shard.whole(move.block), "block {} is to be sent and is not whole", move.block);
    append(out[move.to], shard, move.block);
  }
  std::vector<comm::Work> receives, sends;
  std::int64_t bytes = 0;
  for (auto& [from, pieces] : in) {
    for (const auto& piece : pieces) bytes += std::ssize(piece);
    receives.push_back(world.receive(from, comm::Channel::state, std::move(pieces)));
  }
  for (auto& [to, pieces] : out)
    sends.push_back(world.send(to, comm::Channel::state, {pieces.begin(), pieces.end()}));
  const auto deadline = [&] { return Deadline::after(world.clock(), timeout); };
  for (const comm::Work& work : receives) EW_TRY(world.wait(work, "receive state", deadline()));
  for (const comm::Work& work : sends) EW_TRY(world.wait(work, "send state", deadline()));
  for (const plan::Move& move : moves)
    if (move.to == self) shard.set_whole(move.block, true);
  return bytes;
}

}  // namespace elaswave::recover
