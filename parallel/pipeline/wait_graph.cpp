#include "parallel/pipeline/wait_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "parallel/pipeline/lowering.h"

namespace elaswave::pipeline {
namespace {

using layout::Plan;
using layout::to_text;

constexpr std::size_t kLinksShown = 6;
constexpr std::int32_t kNobody = -1;

/// Where each message is made and awaited.
struct Transfer {
  std::uint32_t sender = 0, receiver = 0;  // rows
  std::int32_t sent_after = 0;             // actions of the sender
  std::int32_t posted_after = 0;           // actions of the receiver
};

/// Transfers by (direction, micro-batch, receiving chunk).
class Transfers {
 public:
  Transfers(const Plan& plan, const std::vector<Program>& programs)
      : chunks_(plan.stage_of_chunk.size()), table_(2 * index_of(plan.micro_batches) * chunks_) {
    for (std::size_t row = 0; row < programs.size(); ++row) {
      const Program& program = programs[row];
      std::int32_t posted = 0;
      for (std::size_t index = 0; index < program.instructions.size(); ++index) {
        const Instruction& instruction = program.instructions[index];
        for (; posted < instruction.post_until; ++posted) {
          Transfer& transfer = at(program.receives[index_of(posted)]);
          transfer.receiver = static_cast<std::uint32_t>(row);
          transfer.posted_after = static_cast<std::int32_t>(index);
        }
        if (instruction.send < 0) continue;
        Transfer& transfer = at(program.sends[index_of(instruction.send)]);
        transfer.sender = static_cast<std::uint32_t>(row);
        transfer.sent_after = static_cast<std::int32_t>(index) + 1;
      }
    }
  }

  Transfer& at(const Message& message) {
    const std::size_t cell = index_of(message.micro_batch) * chunks_ + index_of(message.chunk);
    return table_[2 * cell + static_cast<std::size_t>(message.direction)];
  }

 private:
  std::size_t chunks_;
  std::vector<Transfer> table_;
};

}  // namespace

WaitGraph::WaitGraph(const Plan& plan, const std::vector<Program>& programs) : plan_(plan) {
  Transfers transfers(plan, programs);
  begins_.push_back(0);
  for (const Program& program : programs) {
    // The last kSendsInFlight transfers to each peer, the next to fall out at [count mod size].
    struct History {
      std::array<Transfer, kSendsInFlight> last;
      std::size_t count = 0;
    };
    std::map<std::uint32_t, History> histories;
    for (const Instruction& instruction : program.instructions) {
      Waits waits;
      if (instruction.receive >= 0) {
        const Transfer& transfer = transfers.at(program.receives[index_of(instruction.receive)]);
        waits[0] = {transfer.sender, transfer.sent_after, Reason::data};
      }
      if (instruction.send >= 0) {
        const Transfer& transfer = transfers.at(program.sends[index_of(instruction.send)]);
        History& history = histories[transfer.receiver];
        Transfer& oldest = history.last[history.count % history.last.size()];
        if (history.count >= history.last.size())
          waits[1] = {oldest.receiver, oldest.posted_after, Reason::room};
        oldest = transfer;
        ++history.count;
      }
      waits_.push_back(waits);
    }
    begins_.push_back(waits_.size());
  }
}

/// What keeps the next action of a row from running; null: nothing.
const WaitGraph::Wait* WaitGraph::unmet(const std::vector<std::int32_t>& done,
                                        std::size_t row) const {
  for (const Wait& wait : waits_of(row)[index_of(done[row])])
    if (wait.reason != Reason::none && done[wait.row] < wait.done) return &wait;
  return nullptr;
}

/// How many actions of each row run before nothing can.
std::vector<std::int32_t> WaitGraph::run() const {
  const std::size_t rows = begins_.size() - 1;
  std::vector<std::int32_t> done(rows, 0);
  // Rows that wait for an action: a list for each action, linked by row, as a row waits only once.
  std::vector<std::int32_t> first(waits_.size(), kNobody), next(rows, kNobody);
  std::vector<std::size_t> ready;
  for (std::size_t row = rows; row-- > 0;) ready.push_back(row);
  while (!ready.empty()) {
    const std::size_t row = ready.back();
    ready.pop_back();
    const std::size_t length = begins_[row + 1] - begins_[row];
    while (index_of(done[row]) < length) {
      if (const Wait* wait = unmet(done, row)) {
        std::int32_t& head = first[begins_[wait->row] + index_of(wait->done) - 1];
        next[row] = std::exchange(head, static_cast<std::int32_t>(row));
        break;
      }
      std::int32_t& head = first[begins_[row] + index_of(done[row]++)];
      for (std::int32_t waiter = std::exchange(head, kNobody); waiter != kNobody;
           waiter = next[index_of(waiter)])
        ready.push_back(index_of(waiter));
    }
  }
  return done;
}

/// Follows the waits from a stuck row. A stuck row waits for a stuck row, so they close a circle.
std::vector<WaitGraph::Link> WaitGraph::circle_from(const std::vector<std::int32_t>& done,
                                                    std::size_t row) const {
  std::vector<std::int32_t> place(done.size(), kNobody);
  std::vector<Link> links;
  while (place[row] == kNobody) {
    place[row] = static_cast<std::int32_t>(links.size());
    links.push_back({row, *unmet(done, row)});
    row = links.back().wait.row;
  }
  links.erase(links.begin(), links.begin() + place[row]);
  return links;
}

std::string WaitGraph::name(std::size_t row) const {
  std::size_t stage = 0;
  while (row >= plan_.stages[stage].replicas.size()) row -= plan_.stages[stage++].replicas.size();
  return fmt::format("stage {}, replica {}", stage, row);
}

std::string WaitGraph::say(const std::vector<std::int32_t>& done, const Link& link) const {
  const Wait& wait = link.wait;
  const auto& other = plan_.schedule[wait.row];
  const std::string stuck = to_text(plan_.schedule[link.row][index_of(done[link.row])]);
  const std::string there = to_text(other[index_of(done[wait.row])]);
  if (wait.reason == Reason::room)
    return fmt::format(
        "{} has no room to send: {} messages wait for {} to await them, which is to do {} first",
        stuck, kSendsInFlight, name(wait.row), there);
  const std::string wanted = to_text(other[index_of(wait.done) - 1]);
  if (wanted == there) return fmt::format("{} waits for {} of {}", stuck, wanted, name(wait.row));
  return fmt::format("{} waits for {} of {}, which is to do {} first", stuck, wanted,
                     name(wait.row), there);
}

ScheduleFault WaitGraph::find_circle() const {
  const std::vector<std::int32_t> done = run();
  std::size_t row = 0;
  while (row < done.size() && index_of(done[row]) == begins_[row + 1] - begins_[row]) ++row;
  if (row == done.size()) return {};
  std::vector<Link> links = circle_from(done, row);
  // The culprit is the action put before what its circle wants of its row; of several, the one put
  // furthest before.
  std::size_t culprit = 0;
  std::int32_t most = 0;
  for (std::size_t index = 0; index < links.size(); ++index) {
    const Wait& into = links[index].wait;
    const std::int32_t before = into.done - 1 - done[into.row];
    if (before <= most) continue;
    most = before;
    culprit = (index + 1) % links.size();
  }
  std::rotate(links.begin(), links.begin() + static_cast<std::ptrdiff_t>(culprit), links.end());
  ScheduleFault fault{links[0].row, index_of(done[links[0].row]), "the step cannot end: "};
  for (std::size_t index = 0; index < std::min(links.size(), kLinksShown); ++index) {
    if (index > 0) fault.what += "; ";
    fault.what += say(done, links[index]);
  }
  if (links.size() > kLinksShown)
    fault.what += fmt::format("; and {} more until the circle closes", links.size() - kLinksShown);
  return fault;
}

}  // namespace elaswave::pipeline
