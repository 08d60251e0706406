#include "parallel/comm/lane_world.h"

#include <algorithm>

namespace elaswave::comm {

DeviceLane* LaneWorld::lane_of(int peer, Direction direction, Channel channel) const {
  if (channel != Channel::pipeline) return nullptr;
  const auto link = links_.find({peer, direction});
  return link == links_.end() ? nullptr : link->second;
}

Work LaneWorld::send(int to, Channel channel, ConstPieces pieces) {
  DeviceLane* lane = lane_of(to, Direction::send, channel);
  if (lane == nullptr) return inner_.send(to, channel, std::move(pieces));
  return start(make_send(to, channel, generation(), std::move(pieces)), *lane);
}

Work LaneWorld::receive(int from, Channel channel, Pieces pieces) {
  DeviceLane* lane = lane_of(from, Direction::receive, channel);
  if (lane == nullptr) return inner_.receive(from, channel, std::move(pieces));
  return start(make_receive(from, channel, generation(), std::move(pieces)), *lane);
}

Work LaneWorld::start(TransferPtr transfer, DeviceLane& lane) {
  LaneBatch batch{.channel = transfer->channel};
  for (const auto& piece : transfer->sources) batch.sends.push_back({transfer->peer, piece});
  for (const auto& piece : transfer->targets) batch.receives.push_back({transfer->peer, piece});
  const bool is_send = transfer->direction == Direction::send;
  // An error is told by whoever waits: a send or receive has no result.
  auto mark = lane.start(batch, is_send ? "send to another stage" : "receive from another stage",
                         Deadline::after(clock(), timeout_));
  started_.push_back({.transfer = transfer, .lane = &lane, .mark = std::move(mark)});
  return Work(std::move(transfer));
}

std::list<LaneWorld::Started>::iterator LaneWorld::find(const Work& work) {
  return std::ranges::find(started_, work.state(), &Started::transfer);
}

void LaneWorld::finish(std::list<Started>::iterator started) {
  elaswave::comm::settle(*started->transfer, Phase::done);
  started_.erase(started);
}

Result<void> LaneWorld::wait(const Work& work, std::string_view operation, Deadline deadline) {
  const auto started = work.state() == nullptr ? started_.end() : find(work);
  if (started == started_.end()) return inner_.wait(work, operation, deadline);
  if (!started->mark) return fail(started->mark.error());
  EW_TRY(started->lane->wait(*started->mark, operation, deadline));
  finish(started);
  return {};
}

bool LaneWorld::test(const Work& work) {
  const auto started = work.state() == nullptr ? started_.end() : find(work);
  if (started == started_.end()) return inner_.test(work);
  // After an error wait() tells it, and so does every later use of the lane.
  if (!started->mark) return true;
  const Result<bool> done = started->lane->test(*started->mark);
  if (!done) return true;
  if (*done) finish(started);
  return *done;
}

void LaneWorld::adopt_view(Generation generation, std::span<const int> live) {
  for (Started& started : started_) elaswave::comm::settle(*started.transfer, Phase::abandoned);
  started_.clear();
  links_.clear();
  inner_.adopt_view(generation, live);
}

}  // namespace elaswave::comm
