// What every action of a plan waits for when sends are rendezvous, and whether all of them can run.
// Internal to this folder. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "parallel/pipeline/program.h"
#include "parallel/pipeline/schedule.h"

namespace elaswave::pipeline {

/// An action waits for the action before it in its row, for the sender of what it receives to have
/// sent it, and, when it sends itself, for the receiver to have posted the receive of the message
/// kSendsInFlight earlier. A receive is posted when the row comes to a fixed action. So every wait
/// is for a fixed number of actions of one row to be done: the order in which ranks get on does not
/// matter, and one run shows whether all end.
class WaitGraph {
 public:
  /// REQUIRES: `programs` are those of lower_all(plan); `plan` outlives the graph.
  WaitGraph(const layout::Plan& plan, const std::vector<Program>& programs);

  /// Runs it. Names a stuck action when some are left, and the circle that it waits in.
  ScheduleFault find_circle() const;

 private:
  enum class Reason : std::uint8_t { none, data, room };

  /// The first `done` actions of `row` must have run.
  struct Wait {
    std::uint32_t row = 0;
    std::int32_t done = 0;
    Reason reason = Reason::none;
  };
  using Waits = std::array<Wait, 2>;

  struct Link {
    std::size_t row;  // stuck
    Wait wait;        // for a row that is stuck too
  };

  std::span<const Waits> waits_of(std::size_t row) const {
    return std::span(waits_).subspan(begins_[row], begins_[row + 1] - begins_[row]);
  }
  const Wait* unmet(const std::vector<std::int32_t>& done, std::size_t row) const;
  std::vector<std::int32_t> run() const;
  std::vector<Link> circle_from(const std::vector<std::int32_t>& done, std::size_t row) const;
  std::string say(const std::vector<std::int32_t>& done, const Link& link) const;
  std::string name(std::size_t row) const;

  const layout::Plan& plan_;
  std::vector<std::size_t> begins_;  // of each row in waits_
  std::vector<Waits> waits_;
};

}  // namespace elaswave::pipeline
