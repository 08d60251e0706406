#include "parallel/pipeline/executor.h"

#include <algorithm>
#include <map>

#include "parallel/device/named_range.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;

bool needs_gradient(Op op) {
  return op == Op::backward || op == Op::input_gradient;
}

}  // namespace

Executor::Executor(const ExecutorParts& parts, std::int32_t boundaries)
    : parts_(parts),
      memory_(parts.stream.device(), boundaries * parts.shape.size_bytes()),
      boundaries_(boundaries),
      stopwatch_(parts.stream.stopwatch(parts.world.clock())) {
  for (std::int32_t index = boundaries; index-- > 0;) free_.push_back(index);
}

Result<void> Executor::run(const Program& program, Step step, bool evaluate) {
  step_ = step;
  evaluate_ = evaluate;
  begin(program);
  for (const Instruction& instruction : program.instructions) {
    const device::NamedRange range(to_text(instruction.action).c_str(), raw(step));
    EW_TRY(execute(instruction));
  }
  EW_TRY(finish_sends());
  EW_CHECK(static_cast<std::int32_t>(free_.size()) == boundaries_,
           "{} of {} boundary matrices are free after a step", free_.size(), boundaries_);
  return {};
}

Result<void> Executor::rehearse(const Program& program, bool evaluate) {
  // Of one micro-batch of each chunk, so that slots are used as in a step.
  std::map<std::int32_t, std::int32_t> chosen;  // by chunk
  for (const Instruction& instruction : program.instructions) {
    const Action& action = instruction.action;
    if (chosen.try_emplace(action.chunk, action.micro_batch).first->second != action.micro_batch)
      continue;
    const bool forward = action.op == Op::forward;
    const bool last_chunk = action.chunk == parts_.plan.chunks() - 1;
    EW_TRY(parts_.ops.run({.action = action,
                           .input = matrix(0),
                           .output = forward && !last_chunk ? matrix(1) : device::Mat{},
                           .gradient = needs_gradient(action.op) ? matrix(1) : device::Mat{},
                           .stash = instruction.stash,
                           .keep = instruction.keep,
                           .weight_stash = instruction.weight_stash,
                           .evaluate = evaluate}));
  }
  return {};
}

std::vector<comm::Expected> Executor::messages(const Program& program) const {
  UnderWay most = most_under_way(program);
  // Validation on the same routes may post more ahead than a step, which alternates.
  const auto activations = static_cast<std::int32_t>(
      std::ranges::count(program.receives, Direction::activation, &Message::direction));
  most.receives = std::max(most.receives, std::min(kPostAhead + 1, activations));
  const std::int64_t bytes = parts_.shape.size_bytes();
  return {{comm::Channel::pipeline, comm::Direction::send, bytes, most.sends},
          {comm::Channel::pipeline, comm::Direction::receive, bytes, most.receives}};
}

void Executor::begin(const Program& program) {
  EW_CHECK(program.boundaries <= boundaries_, "a program of {} boundary matrices, {} allocated",
           program.boundaries, boundaries_);
  program_ = &program;
  began_ = parts_.world.clock().now();
  stopwatch_->clear();
  stopwatch_->stamp();
  issued_.clear();
  posted_ = 0;
  receives_.assign(program.receives.size(), {});
  cells_.assign(static_cast<std::size_t>(parts_.plan.chunks()) *
                    static_cast<std::size_t>(parts_.plan.micro_batches),
                {});
}

Result<void> Executor::execute(const Instruction& instruction) {
  const Action& action = instruction.action;
  const bool forward = action.op == Op::forward;
  parts_.world.set_activity({step_, to_text(action)});
  post_receives(instruction.post_until);
  if (instruction.send >= 0)
    EW_TRY(
        wait_for_send_slot(peer_rank(program_->sends[static_cast<std::size_t>(instruction.send)])));
  if (instruction.receive >= 0)
    EW_TRY(parts_.world.wait(receives_[static_cast<std::size_t>(instruction.receive)],
                             forward ? "receive activation" : "receive gradient", deadline()));

  Cell& mine = cell(action.chunk, action.micro_batch);
  const bool last_chunk = action.chunk == parts_.plan.chunks() - 1;
  if (forward && action.chunk == 0) mine.input = acquire();
  const std::int32_t output = forward && !last_chunk ? acquire() : kNone;
  if (needs_gradient(action.op) && last_chunk) mine.gradient = acquire();

  EW_TRY(perform({.action = action,
                  .input = matrix(mine.input),
                  .output = matrix(output),
                  .gradient = needs_gradient(action.op) ? matrix(mine.gradient) : device::Mat{},
                  .stash = instruction.stash,
                  .keep = instruction.keep,
                  .weight_stash = instruction.weight_stash,
                  .final = instruction.final,
                  .final_tied = instruction.final_tied,
                  .evaluate = evaluate_}));

  const std::int32_t made = forward ? output : needs_gradient(action.op) ? mine.gradient : kNone;
  if (instruction.send >= 0) {
    start_send(program_->sends[static_cast<std::size_t>(instruction.send)], made);
  } else if (instruction.local_output) {
    if (forward)
      cell(action.chunk + 1, action.micro_batch).input = made;
    else
      cell(action.chunk - 1, action.micro_batch).gradient = made;
  } else if (made != kNone) {
    release(made);  // the gradient of the embedding's input, which nobody needs
  }
  if (forward && !evaluate_) parts_.world.probe(Point::after_forward);
  if (needs_gradient(action.op)) mine.gradient = kNone;
  if (instruction.last_use) {
    release(mine.input);
    mine.input = kNone;
  }
  return parts_.between ? parts_.between() : Result<void>{};
}

/// What runs is entered in the flight recorder and timed.
Result<void> Executor::perform(const Task& task) {
  FlightLane& lane = parts_.world.recorder().compute;
  const Action& action = task.action;
  const Nanoseconds begin = parts_.world.clock().now();
  const std::uint64_t flight = lane.start({.begin = begin,
                                           .step = step_,
                                           .kind = FlightKind::action,
                                           .detail = static_cast<std::uint8_t>(action.op),
                                           .chunk = action.chunk,
                                           .micro_batch = action.micro_batch});
  stopwatch_->stamp();
  EW_TRY(parts_.ops.run(task));
  stopwatch_->stamp();
  const Nanoseconds end = parts_.world.clock().now();
  lane.finish(flight, end);
  issued_.push_back({flight, begin, end});
  return {};
}

void Executor::read_times() {
  // No stamp is passed before it is issued; the one that was passed at once tells the stream's time
  // by this rank's clock.
  Nanoseconds origin = began_;
  for (std::size_t i = 0; i < issued_.size(); ++i)
    origin = std::max({origin, issued_[i].begin - stopwatch_->at(2 * i + 1),
                       issued_[i].end - stopwatch_->at(2 * i + 2)});
  time_ = {};
  for (std::size_t i = 0; i < issued_.size(); ++i) {
    const Nanoseconds begin = stopwatch_->at(2 * i + 1), end = stopwatch_->at(2 * i + 2);
    parts_.world.recorder().compute.correct(issued_[i].flight, origin + begin, origin + end);
    time_.actions += end - begin;
    time_.span = end;
  }
}

void Executor::post_receives(std::int32_t until) {
  for (; posted_ < until; ++posted_) {
    const auto index = static_cast<std::size_t>(posted_);
    const Message& message = program_->receives[index];
    Cell& target = cell(message.chunk, message.micro_batch);
    const std::int32_t matrix = acquire();
    (message.direction == Direction::activation ? target.input : target.gradient) = matrix;
    receives_[index] =
        parts_.world.receive(peer_rank(message), comm::Channel::pipeline, {bytes(matrix)});
  }
}

Result<void> Executor::wait_for_send_slot(std::int32_t peer) {
  auto under_way = std::ranges::count(sending_, peer, &Sending::peer);
  while (under_way-- >= kSendsInFlight) {
    const auto oldest = std::ranges::find(sending_, peer, &Sending::peer);
    EW_TRY(parts_.world.wait(oldest->work, "send to the next stage", deadline()));
    release(oldest->matrix);
    sending_.erase(oldest);
  }
  return {};
}

Result<void> Executor::finish_sends() {
  for (; !sending_.empty(); sending_.pop_front()) {
    EW_TRY(parts_.world.wait(sending_.front().work, "send at the end of a step", deadline()));
    release(sending_.front().matrix);
  }
  return {};
}

void Executor::start_send(const Message& message, std::int32_t matrix) {
  const std::int32_t peer = peer_rank(message);
  sending_.push_back(
      {peer, matrix, parts_.world.send(peer, comm::Channel::pipeline, {bytes(matrix)})});
}

void Executor::retire_sends() {
  std::erase_if(sending_, [this](const Sending& sending) {
    if (!parts_.world.test(sending.work)) return false;
    release(sending.matrix);
    return true;
  });
}

std::int32_t Executor::acquire() {
  if (free_.empty()) retire_sends();
  EW_CHECK(!free_.empty(), "{} boundary matrices are too few", boundaries_);
  const std::int32_t index = free_.back();
  free_.pop_back();
  return index;
}

device::Mat Executor::matrix(std::int32_t index) {
  if (index == kNone) return {};
  const BoundaryShape& shape = parts_.shape;
  return {bytes(index).data(), shape.dtype, shape.rows, shape.cols, shape.cols};
}

std::span<std::byte> Executor::bytes(std::int32_t index) {
  const std::int64_t size = parts_.shape.size_bytes();
  return {memory_.data() + index * size, static_cast<std::size_t>(size)};
}

Executor::Cell& Executor::cell(std::int32_t chunk, std::int32_t micro_batch) {
  return cells_[static_cast<std::size_t>(chunk) *
                    static_cast<std::size_t>(parts_.plan.micro_batches) +
                static_cast<std::size_t>(micro_batch)];
}

std::int32_t Executor::peer_rank(const Message& message) const {
  return parts_.plan.rank_of({message.stage, message.replica, parts_.slice});
}

}  // namespace elaswave::pipeline
