#include "parallel/pipeline/program.h"

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <tuple>
#include <utility>

#include "io/base/error.h"
#include "parallel/layout/sums_order.h"
#include "parallel/pipeline/lowering.h"

namespace elaswave::pipeline {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;
using layout::Row;

using ReplicaKey = std::pair<std::int32_t, std::int32_t>;  // stage, replica

ReplicaKey peer_of(const Message& message) {
  return {message.stage, message.replica};
}

bool makes_gradient(Op op) {
  return op == Op::backward || op == Op::input_gradient;
}

/// Where a row handles one (chunk, micro-batch): indices in the row, -1 when absent.
struct Use {
  std::int32_t chunk = 0, micro_batch = 0;
  std::int32_t forward = -1, recompute = -1;
  std::int32_t gradient = -1;  // B or I
  std::int32_t last = -1;
};

/// The uses of a row ordered by (chunk, micro-batch), and the use of every action.
struct RowUses {
  std::vector<Use> uses;
  std::vector<std::int32_t> use_of_action;
};

RowUses uses_of(const Row& row) {
  std::vector<std::tuple<std::int32_t, std::int32_t, std::int32_t>> order;
  order.reserve(row.size());
  for (std::size_t index = 0; index < row.size(); ++index)
    order.emplace_back(row[index].chunk, row[index].micro_batch, static_cast<std::int32_t>(index));
  std::sort(order.begin(), order.end());
  RowUses result;
  result.use_of_action.resize(row.size());
  for (const auto& [chunk, micro_batch, index] : order) {
    auto& uses = result.uses;
    if (uses.empty() || uses.back().chunk != chunk || uses.back().micro_batch != micro_batch)
      uses.push_back({.chunk = chunk, .micro_batch = micro_batch});
    Use& use = uses.back();
    const Op op = row[index_of(index)].op;
    if (op == Op::forward) use.forward = index;
    if (op == Op::recompute) use.recompute = index;
    if (makes_gradient(op)) use.gradient = index;
    use.last = index;
    result.use_of_action[index_of(index)] = static_cast<std::int32_t>(uses.size()) - 1;
  }
  return result;
}

/// Index of the action that needs a message.
std::int32_t consumer_of(const std::vector<Use>& uses, const Message& message) {
  const auto key = std::pair(message.chunk, message.micro_batch);
  const auto found = std::lower_bound(
      uses.begin(), uses.end(), key,
      [](const Use& use, auto value) { return std::pair(use.chunk, use.micro_batch) < value; });
  const bool here = found != uses.end() && std::pair(found->chunk, found->micro_batch) == key;
  const std::int32_t index = !here                                        ? -1
                             : message.direction == Direction::activation ? found->forward
                                                                          : found->gradient;
  EW_CHECK(index >= 0, "nothing needs chunk {}, micro-batch {} from replica {} of stage {}",
           message.chunk, message.micro_batch, message.replica, message.stage);
  return index;
}

/// Adds the messages from row `peer` to (stage, replica) in the order of that row.
void add_messages_from(const Plan& plan, ReplicaKey peer, ReplicaKey receiver,
                       std::vector<Message>& messages) {
  for (const Action& action : plan.row(peer.first, peer.second)) {
    std::optional<Message> message = message_of(plan, action);
    if (!message || peer_of(*message) != receiver) continue;
    std::tie(message->stage, message->replica) = peer;
    messages.push_back(*message);
  }
}

/// Replicas that send to a row, ascending.
std::vector<ReplicaKey> senders_to(const Plan& plan, std::int32_t stage, std::int32_t replica) {
  std::vector<ReplicaKey> peers;
  for (const Action& action : plan.row(stage, replica)) {
    const bool forward = action.op == Op::forward;
    if (!forward && !makes_gradient(action.op)) continue;
    const std::int32_t chunk = forward ? action.chunk - 1 : action.chunk + 1;
    if (chunk < 0 || chunk >= plan.chunks()) continue;
    const std::int32_t from = plan.stage_of_chunk[index_of(chunk)];
    if (from != stage) peers.emplace_back(from, plan.replica_for(action.micro_batch, from));
  }
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

/// Sorts messages by when their receives must be posted and gives each action its own. `incoming`
/// is grouped by peer, each in the order of sending.
void place_receives(const RowUses& uses, const std::vector<Message>& incoming, Program& program) {
  struct Receive {
    std::int32_t consumer,
        need;         // indices in the row; need: of the first action that must wait for
    Message message;  // this message or, as the pair keeps order, for a later one
  };
  std::vector<Receive> receives;
  receives.reserve(incoming.size());
  for (const Message& message : incoming) {
    const std::int32_t consumer = consumer_of(uses.uses, message);
    receives.push_back({consumer, consumer, message});
  }
  for (std::size_t index = receives.size(); index-- > 1;)
    if (peer_of(receives[index].message) == peer_of(receives[index - 1].message))
      receives[index - 1].need = std::min(receives[index - 1].need, receives[index].need);
  std::stable_sort(receives.begin(), receives.end(),
                   [](const Receive& a, const Receive& b) { return a.need < b.need; });
  for (const Receive& receive : receives) {
    program.instructions[index_of(receive.consumer)].receive =
        static_cast<std::int32_t>(program.receives.size());
    program.receives.push_back(receive.message);
  }
  std::size_t posted = 0;
  for (std::size_t index = 0; index < program.instructions.size(); ++index) {
    const std::int64_t horizon = static_cast<std::int64_t>(index) + kPostAhead;
    while (posted < receives.size() && receives[posted].need <= horizon) ++posted;
    program.instructions[index].post_until = static_cast<std::int32_t>(posted);
  }
}

void place_sends(const Plan& plan, Program& program) {
  for (Instruction& instruction : program.instructions) {
    const std::optional<Message> message = message_of(plan, instruction.action);
    if (!message) continue;
    instruction.send = static_cast<std::int32_t>(program.sends.size());
    program.sends.push_back(*message);
  }
}

void mark_hand_overs(const Plan& plan, Program& program) {
  const auto here = [&](std::int32_t chunk) {
    return chunk >= 0 && chunk < plan.chunks() &&
           plan.stage_of_chunk[index_of(chunk)] == program.place.stage;
  };
  for (Instruction& instruction : program.instructions) {
    const auto [op, chunk, micro_batch] = instruction.action;
    if (op != Op::forward && !makes_gradient(op)) continue;
    const std::int32_t step = op == Op::forward ? 1 : -1;
    instruction.local_input = here(chunk - step);
    instruction.local_output = here(chunk + step);
  }
}

/// Numbers from 0; gives the lowest free one.
class SlotPool {
 public:
  std::int32_t take() {
    if (free_.empty()) return peak_++;
    const std::int32_t slot = free_.top();
    free_.pop();
    return slot;
  }
  void put(std::int32_t slot) { free_.push(slot); }
  std::int32_t peak() const { return peak_; }

 private:
  std::priority_queue<std::int32_t, std::vector<std::int32_t>, std::greater<>> free_;
  std::int32_t peak_ = 0;
};

struct ChunkPools {
  SlotPool stash, keep, weight_stash;
};

struct HeldSlots {
  std::int32_t stash = -1, keep = -1, weight_stash = -1;
};

/// Slots of one instruction: those its use holds, taken before it and given back after.
void take_slots(const Use& use, std::int32_t index, bool keeps, Instruction& instruction,
                ChunkPools& pools, HeldSlots& held) {
  const Op op = instruction.action.op;
  const bool forward = op == Op::forward;
  if (forward || op == Op::recompute) held.stash = pools.stash.take();
  if (forward && keeps) held.keep = pools.keep.take();
  if (op == Op::input_gradient) held.weight_stash = pools.weight_stash.take();
  instruction.stash = held.stash;
  instruction.keep = held.keep;
  instruction.weight_stash = held.weight_stash;
  if (index == use.last || (forward && use.recompute >= 0)) pools.stash.put(held.stash);
  if (held.keep >= 0 && (makes_gradient(op) || index == use.last))
    pools.keep.put(std::exchange(held.keep, -1));
  if (op == Op::weight_gradient) pools.weight_stash.put(held.weight_stash);
}

void place_slots(const Plan& plan, const RowUses& uses, Program& program) {
  std::map<std::int32_t, ChunkPools> pools;
  for (const std::int32_t chunk : layout::chunks_of_stage(plan, program.place.stage)) pools[chunk];
  std::vector<HeldSlots> held(uses.uses.size());
  for (std::size_t index = 0; index < program.instructions.size(); ++index) {
    Instruction& instruction = program.instructions[index];
    const std::size_t use = index_of(uses.use_of_action[index]);
    const std::int32_t chunk = instruction.action.chunk;
    take_slots(uses.uses[use], static_cast<std::int32_t>(index), chunk == plan.chunks() - 1,
               instruction, pools[chunk], held[use]);
    instruction.last_use = static_cast<std::int32_t>(index) == uses.uses[use].last;
  }
  for (const auto& [chunk, pool] : pools)
    program.slots.push_back({chunk, pool.stash.peak(), pool.keep.peak(), pool.weight_stash.peak()});
}

void mark_final(const Plan& plan, const Row& row, Program& program) {
  const std::int32_t last_chunk = plan.chunks() - 1;
  for (const Slots& slots : program.slots) {
    const std::int64_t gradient = layout::last_gradient(row, slots.chunk);
    if (gradient < 0) continue;  // forward passes alone add to no sum
    program.instructions[index_of(gradient)].final = true;
    if (slots.chunk != last_chunk) continue;
    program.instructions[index_of(layout::last_forward(row, last_chunk))].final_tied = true;
  }
}

/// Program::boundaries: walks the row with as many sends incomplete as are allowed.
std::int32_t count_boundaries(const Program& program) {
  std::map<ReplicaKey, std::int32_t> in_flight;
  std::int32_t alive = 0, sending = 0, posted = 0, peak = 0;
  for (const Instruction& instruction : program.instructions) {
    const bool forward = instruction.action.op == Op::forward;
    const bool gradient = makes_gradient(instruction.action.op);
    const bool first_write =
        (forward || gradient) && instruction.receive < 0 && !instruction.local_input;
    alive += instruction.post_until - posted;
    posted = instruction.post_until;
    peak = std::max(peak, alive + sending);
    std::int32_t* peer = instruction.send < 0
                             ? nullptr
                             : &in_flight[peer_of(program.sends[index_of(instruction.send)])];
    if (peer != nullptr && *peer == kSendsInFlight) --*peer, --sending;
    if (first_write) ++alive;
    if (forward && (instruction.send >= 0 || instruction.local_output)) ++alive;  // its output
    peak = std::max(peak, alive + sending);
    if (peer != nullptr) --alive, ++*peer, ++sending;
    if (gradient && instruction.send < 0 && !instruction.local_output) --alive;
    if (instruction.last_use) --alive;
  }
  return peak;
}

Program lower_row(const Plan& plan, std::int32_t stage, std::int32_t replica,
                  const std::vector<Message>& incoming) {
  const Row& row = plan.row(stage, replica);
  Program program;
  program.place = {.stage = stage, .replica = replica, .slice = 0};
  program.instructions.resize(row.size());
  for (std::size_t index = 0; index < row.size(); ++index)
    program.instructions[index].action = row[index];
  const RowUses uses = uses_of(row);
  place_receives(uses, incoming, program);
  place_sends(plan, program);
  mark_hand_overs(plan, program);
  place_slots(plan, uses, program);
  mark_final(plan, row, program);
  program.boundaries = count_boundaries(program);
  return program;
}

}  // namespace

std::vector<std::size_t> row_begins(const Plan& plan) {
  std::vector<std::size_t> begins{0};
  for (const layout::Stage& stage : plan.stages)
    begins.push_back(begins.back() + stage.replicas.size());
  return begins;
}

std::optional<Message> message_of(const Plan& plan, const Action& action) {
  const bool forward = action.op == Op::forward;
  if (!forward && !makes_gradient(action.op)) return std::nullopt;
  const std::int32_t chunk = forward ? action.chunk + 1 : action.chunk - 1;
  if (chunk < 0 || chunk >= plan.chunks()) return std::nullopt;
  const std::int32_t stage = plan.stage_of_chunk[index_of(chunk)];
  if (stage == plan.stage_of_chunk[index_of(action.chunk)]) return std::nullopt;
  return Message{forward ? Direction::activation : Direction::gradient, chunk, action.micro_batch,
                 stage, plan.replica_for(action.micro_batch, stage)};
}

Program lower(const Plan& plan, std::int32_t stage, std::int32_t replica) {
  std::vector<Message> incoming;
  for (const ReplicaKey& peer : senders_to(plan, stage, replica))
    add_messages_from(plan, peer, {stage, replica}, incoming);
  return lower_row(plan, stage, replica, incoming);
}

std::vector<Program> lower_all(const Plan& plan) {
  const std::vector<std::size_t> begins = row_begins(plan);
  const auto stages = static_cast<std::int32_t>(plan.stages.size());
  std::vector<std::vector<Message>> incoming(begins.back());
  for (std::int32_t stage = 0; stage < stages; ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
      for (const Action& action : plan.schedule[begins[index_of(stage)] + index_of(replica)])
        if (std::optional<Message> message = message_of(plan, action)) {
          auto& inbox = incoming[begins[index_of(message->stage)] + index_of(message->replica)];
          message->stage = stage;
          message->replica = replica;
          inbox.push_back(*message);
        }
  std::vector<Program> programs;
  programs.reserve(begins.back());
  for (std::int32_t stage = 0; stage < stages; ++stage)
    for (std::int32_t replica = 0; replica < plan.replicas(stage); ++replica)
      programs.push_back(lower_row(plan, stage, replica, incoming[programs.size()]));
  return programs;
}

UnderWay most_under_way(const Program& program) {
  UnderWay most;
  std::int32_t received = 0;
  for (const Instruction& instruction : program.instructions) {
    most.receives = std::max(most.receives, instruction.post_until - received);
    if (instruction.receive >= 0) ++received;
  }
  std::map<ReplicaKey, std::int32_t> to;
  for (const Message& message : program.sends) {
    std::int32_t& sends = to[{message.stage, message.replica}];
    if (sends == kSendsInFlight) continue;
    ++sends;
    ++most.sends;
  }
  return most;
}

Plan evaluation_plan(const Plan& plan, std::int64_t count) {
  EW_CHECK(count >= 0 && count <= plan.micro_batches, "{} of {} micro-batches", count,
           plan.micro_batches);
  const std::vector<std::size_t> begins = row_begins(plan);
  const auto stages = static_cast<std::int64_t>(plan.stages.size());
  Plan evaluation = plan;
  evaluation.micro_batches = count;
  evaluation.route.resize(index_of(count * stages));
  evaluation.schedule.assign(begins.back(), {});
  for (std::int64_t group = 0; group < count; group += stages)
    for (std::int32_t chunk = 0; chunk < plan.chunks(); ++chunk) {
      const std::int32_t stage = plan.stage_of_chunk[index_of(chunk)];
      for (std::int64_t micro = group; micro < std::min(count, group + stages); ++micro) {
        const std::size_t row = begins[index_of(stage)] + index_of(plan.replica_for(micro, stage));
        evaluation.schedule[row].push_back({Op::forward, chunk, static_cast<std::int32_t>(micro)});
      }
    }
  return evaluation;
}

}  // namespace elaswave::pipeline
