#include "parallel/device/pending_work.h"

#include <system_error>

#include "io/base/error.h"
#include "io/base/log.h"

namespace elaswave::device {

void PendingWork::start(std::function<void()> work) {
  EW_CHECK(!pending(), "a second piece of work beside its caller");
  try {
    work_ = std::async(std::launch::async, work);
  } catch (const std::system_error& problem) {
    log_warn("no thread for work beside the step ({}): the step waits for it", problem.what());
    work();
  }
}

void PendingWork::finish() {
  if (!pending()) return;
  work_.get();
  work_ = std::shared_future<void>();
}

void PendingWork::wait() const noexcept {
  if (pending()) work_.wait();
}

}  // namespace elaswave::device
