#include "tests/support/program_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "parallel/pipeline/program.h"

namespace elaswave::test {
namespace {

using layout::Action;
using layout::Op;
using layout::Plan;
using pipeline::Direction;
using pipeline::Instruction;
using pipeline::Message;
using pipeline::Program;

using Key = std::pair<int, int>;   // stage, replica
using Cell = std::pair<int, int>;  // chunk, micro-batch

struct Content {
  Direction direction = Direction::activation;
  int chunk = -1, micro_batch = -1;
  bool operator==(const Content&) const = default;
};

struct Send {
  int matrix = -1;
  Content content;
  bool complete = false;
};

struct Receive {
  Message message;
  int matrix = -1;
  bool arrived = false;
};

/// From one rank to another, in order.
struct Pair {
  std::deque<Send*> sends;
  std::deque<Receive*> receives;
};

struct Rank {
  Program program;
  std::size_t at = 0;
  std::vector<Content> matrices;
  std::set<int> free;
  std::size_t least_free = 0;
  std::deque<Receive> receives;           // as many as posted
  std::deque<Send> sends;                 // all made so far
  std::map<Key, std::deque<Send*>> held;  // sends whose matrix is not given back yet
  std::map<Cell, int> inputs, gradients;  // handed over, received, or in use
  std::map<std::pair<int, int>, Cell> stash, keep, weight_stash;  // [chunk, slot]
  std::multiset<std::tuple<Op, int, int>> done;
};

class Model {
 public:
  Model(const Plan& plan, Delivery delivery, std::uint64_t seed)
      : plan_(plan), delivery_(delivery), random_(seed) {
    for (int stage = 0; stage < static_cast<int>(plan.stages.size()); ++stage)
      for (int replica = 0; replica < plan.replicas(stage); ++replica) {
        Rank& rank = ranks_[{stage, replica}];
        rank.program = pipeline::lower(plan, stage, replica);
        rank.matrices.resize(static_cast<std::size_t>(rank.program.boundaries));
        for (int matrix = 0; matrix < rank.program.boundaries; ++matrix) rank.free.insert(matrix);
        rank.least_free = rank.free.size();
        keys_.emplace_back(stage, replica);
      }
  }

  ModelRun run() {
    for (bool moved = true; moved && fault_.empty();) {
      moved = false;
      std::shuffle(keys_.begin(), keys_.end(), random_);
      for (const Key& key : keys_) {
        moved |= deliver_to(key);
        const int steps = 1 + static_cast<int>(random_() % 3);
        for (int step = 0; step < steps && fault_.empty(); ++step) moved |= advance(key);
      }
    }
    ModelRun result{.ended = true, .fault = fault_};
    for (const auto& [key, rank] : ranks_)
      result.ended &= rank.at == rank.program.instructions.size();
    if (result.ended && fault_.empty()) check_end();
    result.fault = fault_;
    return result;
  }

 private:
  void blame(const Key& key, const std::string& what) {
    if (fault_.empty())
      fault_ = fmt::format("stage {} replica {}: {}", key.first, key.second, what);
  }

  int take(const Key& key, Rank& rank) {
    if (rank.free.empty()) {
      blame(key, "out of boundary matrices");
      rank.free.insert(static_cast<int>(rank.matrices.size()));
      rank.matrices.emplace_back();
    }
    const int matrix = *rank.free.begin();
    rank.free.erase(rank.free.begin());
    rank.least_free = std::min(rank.least_free, rank.free.size());
    return matrix;
  }

  void give(const Key& key, Rank& rank, int matrix) {
    rank.matrices[static_cast<std::size_t>(matrix)] = {};
    if (!rank.free.insert(matrix).second) blame(key, "a matrix given back twice");
  }

  void expect(const Key& key, bool holds, const char* what, const Action& action) {
    if (!holds) blame(key, fmt::format("{} at {}", what, layout::to_text(action)));
  }

  /// Completes what is matched in one random pair that ends at `key`.
  bool deliver_to(const Key& key) {
    std::vector<Pair*> pairs;
    for (auto& [ends, pair] : pairs_)
      if (ends.second == key && !pair.sends.empty() && !pair.receives.empty())
        pairs.push_back(&pair);
    if (pairs.empty()) return false;
    Pair& pair = *pairs[random_() % pairs.size()];
    Send& send = *pair.sends.front();
    Receive& receive = *pair.receives.front();
    pair.sends.pop_front();
    pair.receives.pop_front();
    const Content wanted{receive.message.direction, receive.message.chunk,
                         receive.message.micro_batch};
    if (send.content != wanted) blame(key, "a message is not the one expected");
    ranks_[key].matrices[static_cast<std::size_t>(receive.matrix)] = send.content;
    send.complete = receive.arrived = true;
    return true;
  }

  bool advance(const Key& key) {
    Rank& rank = ranks_[key];
    if (rank.at == rank.program.instructions.size()) return false;
    const Instruction& instruction = rank.program.instructions[rank.at];
    if (static_cast<int>(rank.receives.size()) < instruction.post_until) {
      post(key, rank);
      return true;
    }
    if (instruction.receive >= 0) {
      if (instruction.receive >= static_cast<int>(rank.receives.size())) {
        blame(key, "waits for a receive it has not posted");
        return false;
      }
      if (!rank.receives[static_cast<std::size_t>(instruction.receive)].arrived) return false;
    }
    if (instruction.send >= 0 && !room(key, rank, instruction)) return false;
    execute(key, rank, instruction);
    ++rank.at;
    return true;
  }

  void post(const Key& key, Rank& rank) {
    const Message& message = rank.program.receives[rank.receives.size()];
    rank.receives.push_back({.message = message, .matrix = take(key, rank)});
    pairs_[{{message.stage, message.replica}, key}].receives.push_back(&rank.receives.back());
  }

  bool room(const Key& key, Rank& rank, const Instruction& instruction) {
    const Message& message = rank.program.sends[static_cast<std::size_t>(instruction.send)];
    auto& held = rank.held[{message.stage, message.replica}];
    if (static_cast<int>(held.size()) < pipeline::kSendsInFlight) return true;
    if (!held.front()->complete) return false;
    give(key, rank, held.front()->matrix);
    held.pop_front();
    return true;
  }

  void execute(const Key& key, Rank& rank, const Instruction& instruction) {
    const Action& action = instruction.action;
    const Cell cell{action.chunk, action.micro_batch};
    rank.done.insert({action.op, action.chunk, action.micro_batch});
    take_arrival(key, rank, instruction);
    use_slots(key, rank, instruction);
    const Content input{Direction::activation, action.chunk, action.micro_batch};
    expect(key, rank.inputs.contains(cell), "no input", action);
    if (!fault_.empty()) return;
    expect(key, rank.matrices[static_cast<std::size_t>(rank.inputs[cell])] == input, "wrong input",
           action);
    if (action.op == Op::forward && action.chunk + 1 < plan_.chunks())
      pass_on(key, rank, instruction, take(key, rank),
              {Direction::activation, action.chunk + 1, action.micro_batch});
    if (action.op == Op::backward || action.op == Op::input_gradient) {
      const Content gradient{Direction::gradient, action.chunk, action.micro_batch};
      expect(key, rank.gradients.contains(cell), "no gradient", action);
      if (!fault_.empty()) return;
      const int matrix = rank.gradients[cell];
      expect(key, rank.matrices[static_cast<std::size_t>(matrix)] == gradient, "wrong gradient",
             action);
      rank.gradients.erase(cell);
      if (action.chunk > 0)
        pass_on(key, rank, instruction, matrix,
                {Direction::gradient, action.chunk - 1, action.micro_batch});
      else
        give(key, rank, matrix);
    }
    if (instruction.last_use) {
      give(key, rank, rank.inputs[cell]);
      rank.inputs.erase(cell);
    }
  }

  void take_arrival(const Key& key, Rank& rank, const Instruction& instruction) {
    const Action& action = instruction.action;
    const bool forward = action.op == Op::forward;
    if (!forward && action.op != Op::backward && action.op != Op::input_gradient) return;
    auto& arrivals = forward ? rank.inputs : rank.gradients;
    const Cell cell{action.chunk, action.micro_batch};
    if (instruction.receive >= 0) {
      const Receive& receive = rank.receives[static_cast<std::size_t>(instruction.receive)];
      expect(key, arrivals.emplace(cell, receive.matrix).second, "given twice", action);
    } else if (!instruction.local_input) {
      expect(key, action.chunk == (forward ? 0 : plan_.chunks() - 1), "nothing given", action);
      const int matrix = take(key, rank);
      rank.matrices[static_cast<std::size_t>(matrix)] = {
          forward ? Direction::activation : Direction::gradient, action.chunk, action.micro_batch};
      arrivals.emplace(cell, matrix);
    }
  }

  void pass_on(const Key& key, Rank& rank, const Instruction& instruction, int matrix,
               const Content& content) {
    if (!fault_.empty()) return;
    rank.matrices[static_cast<std::size_t>(matrix)] = content;
    if (instruction.local_output) {
      auto& arrivals = content.direction == Direction::activation ? rank.inputs : rank.gradients;
      arrivals.emplace(Cell{content.chunk, content.micro_batch}, matrix);
      return;
    }
    expect(key, instruction.send >= 0, "makes nothing of its result", instruction.action);
    if (!fault_.empty()) return;
    const Message& message = rank.program.sends[static_cast<std::size_t>(instruction.send)];
    const Key peer{message.stage, message.replica};
    rank.sends.push_back(
        {.matrix = matrix, .content = content, .complete = delivery_ == Delivery::buffered});
    rank.held[peer].push_back(&rank.sends.back());
    pairs_[{key, peer}].sends.push_back(&rank.sends.back());
  }

  void use_slots(const Key& key, Rank& rank, const Instruction& instruction) {
    const Action& action = instruction.action;
    const Cell cell{action.chunk, action.micro_batch};
    const Op op = action.op;
    const auto slots = std::find_if(rank.program.slots.begin(), rank.program.slots.end(),
                                    [&](const auto& each) { return each.chunk == action.chunk; });
    const auto use = [&](auto& memory, int slot, int count, bool write) {
      expect(key, slot >= 0 && slot < count, "slot out of range", action);
      Cell& content = memory[{action.chunk, slot}];
      if (write) content = cell;
      expect(key, content == cell, "a slot holds something else", action);
    };
    use(rank.stash, instruction.stash, slots->stash, op == Op::forward || op == Op::recompute);
    if (action.chunk == plan_.chunks() - 1 && op != Op::weight_gradient)
      use(rank.keep, instruction.keep, slots->keep, op == Op::forward);
    else
      expect(key, instruction.keep < 0, "keep where there is none", action);
    if (op == Op::input_gradient || op == Op::weight_gradient)
      use(rank.weight_stash, instruction.weight_stash, slots->weight_stash,
          op == Op::input_gradient);
  }

  void check_end() {
    std::multiset<std::tuple<Op, int, int>> all;
    for (auto& [key, rank] : ranks_) {
      all.insert(rank.done.begin(), rank.done.end());
      if (!rank.inputs.empty() || !rank.gradients.empty()) blame(key, "a matrix is left over");
      if (rank.least_free != 0) blame(key, "more boundary matrices than ever alive");
      for (auto& [peer, held] : rank.held)
        for (const Send* send : held) {
          if (!send->complete) blame(key, "a send never completed");
          give(key, rank, send->matrix);
        }
      if (rank.free.size() != rank.matrices.size()) blame(key, "a matrix was lost");
    }
    const bool forward_only = std::all_of(
        all.begin(), all.end(), [](auto& each) { return std::get<0>(each) == Op::forward; });
    for (int chunk = 0; chunk < plan_.chunks(); ++chunk)
      for (int micro = 0; micro < static_cast<int>(plan_.micro_batches); ++micro) {
        const auto count = [&](Op op) { return all.count({op, chunk, micro}); };
        const std::size_t backward = count(Op::backward), input = count(Op::input_gradient);
        if (count(Op::forward) != 1 || input != count(Op::weight_gradient) ||
            backward + input != (forward_only ? 0u : 1u))
          blame({-1, -1}, fmt::format("chunk {} of micro-batch {} not done once", chunk, micro));
      }
  }

  const Plan& plan_;
  Delivery delivery_;
  std::mt19937_64 random_;
  std::map<Key, Rank> ranks_;
  std::vector<Key> keys_;
  std::map<std::pair<Key, Key>, Pair> pairs_;
  std::string fault_;
};

/// Whether what a neighbouring chunk of the same stage must have done before is done.
bool follows_its_stage(const Plan& plan, const std::map<Cell, std::string>& letters,
                       const Action& action) {
  const auto stage_of = [&](int chunk) {
    const bool exists = chunk >= 0 && chunk < plan.chunks();
    return exists ? plan.stage_of_chunk[static_cast<std::size_t>(chunk)] : -1;
  };
  const auto done = [&](int chunk, const char* any_of) {
    if (stage_of(chunk) != stage_of(action.chunk)) return true;
    const auto found = letters.find({chunk, action.micro_batch});
    return found != letters.end() && found->second.find_first_of(any_of) != std::string::npos;
  };
  if (action.op == Op::forward) return done(action.chunk - 1, "F");
  const bool gradient = action.op == Op::backward || action.op == Op::input_gradient;
  return !gradient || done(action.chunk + 1, "BI");
}

}  // namespace

ModelRun run_programs(const Plan& plan, Delivery delivery, std::uint64_t seed) {
  return Model(plan, delivery, seed).run();
}

bool rows_are_complete(const Plan& plan) {
  std::map<Cell, std::string> letters;
  for (int stage = 0; stage < static_cast<int>(plan.stages.size()); ++stage)
    for (int replica = 0; replica < plan.replicas(stage); ++replica)
      for (const Action& action : plan.row(stage, replica)) {
        if (action.chunk < 0 || action.chunk >= plan.chunks()) return false;
        if (action.micro_batch < 0 || action.micro_batch >= plan.micro_batches) return false;
        if (plan.stage_of_chunk[static_cast<std::size_t>(action.chunk)] != stage) return false;
        if (plan.replica_for(action.micro_batch, stage) != replica) return false;
        if (!follows_its_stage(plan, letters, action)) return false;
        letters[{action.chunk, action.micro_batch}] += layout::letter(action.op);
      }
  if (letters.size() != static_cast<std::size_t>(plan.chunks() * plan.micro_batches)) return false;
  const auto among = [&](const std::set<std::string>& allowed) {
    return std::all_of(letters.begin(), letters.end(),
                       [&](const auto& each) { return allowed.contains(each.second); });
  };
  return among({"FB", "FIW", "FRB", "FRIW"}) || among({"F"});
}

}  // namespace elaswave::test
