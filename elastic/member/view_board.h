// Where the agent's thread leaves what was decided and the step loop finds it. The board is written
// before the world's waits are woken: whoever catches StepAborted finds the reason here, fenced()
// first (a fenced rank adopts nothing any more). THREADS: any.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "elastic/member/view.h"
#include "io/base/clock.h"

namespace elaswave::member {

/// A view with what is known about how it came.
struct Decision {
  View view;
  std::vector<std::int32_t> lost;  // since the view before
  Nanoseconds suspected_at = 0;    // on the clock of the world
  Nanoseconds decided_at = 0;
};

class ViewBoard {
 public:
  explicit ViewBoard(View first) { newest_.view = std::move(first); }

  void post(Decision decision) {
    const std::lock_guard lock(mutex_);
    newest_ = std::move(decision);
  }
  void fence(std::string why) {
    const std::lock_guard lock(mutex_);
    if (!fenced_) fenced_ = std::move(why);
  }
  Decision newest() const {
    const std::lock_guard lock(mutex_);
    return newest_;
  }
  /// Why this process is no member any more; nothing while it is one.
  std::optional<std::string> fenced() const {
    const std::lock_guard lock(mutex_);
    return fenced_;
  }

 private:
  mutable std::mutex mutex_;
  Decision newest_;
  std::optional<std::string> fenced_;
};

}  // namespace elaswave::member
