// How fast ranks were in the last steps, as agreed at their commit points: what shares of
// micro-batches are decided from. Equal on all members.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "io/base/types.h"

namespace elaswave::app {

class Speeds {
 public:
  /// What a micro-batch took each member in one step, 0: nothing ran there.
  void add(std::span<const int> world_ranks, std::span<const std::int64_t> cost_ns) {
    std::vector<std::int64_t> by_rank(static_cast<std::size_t>(world_ranks.back()) + 1, 0);
    for (std::size_t i = 0; i < world_ranks.size(); ++i)
      by_rank[static_cast<std::size_t>(world_ranks[i])] = cost_ns[i];
    steps_.push_back(std::move(by_rank));
    if (steps_.size() > kWindow) steps_.pop_front();
  }
  /// True when enough steps of the present shares were seen, and the last change is long ago
  /// enough.
  bool settled(Step step) const { return steps_.size() == kWindow && raw(step) >= hold_until_; }
  /// By world rank: the least of the last steps, so that a rank counts as slow only when it was
  /// slow in all of them.
  std::vector<std::int64_t> costs() const {
    std::vector<std::int64_t> least = steps_.front();
    for (const auto& step : steps_)
      for (std::size_t rank = 0; rank < least.size(); ++rank)
        least[rank] = std::min(least[rank], step[rank]);
    return least;
  }
  /// Shares were changed after `step`, or could not be: twice as long as before nothing changes
  /// again.
  void changed(Step step) {
    steps_.clear();
    hold_until_ = raw(step) + hold_;
    hold_ = std::min(2 * hold_, kLongestHold);
  }

 private:
  static constexpr std::size_t kWindow = 5;
  static constexpr std::int64_t kLongestHold = 1024;  // steps
  std::deque<std::vector<std::int64_t>> steps_;
  std::int64_t hold_until_ = 0, hold_ = 8;
};

}  // namespace elaswave::app
