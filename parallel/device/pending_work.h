// Work beside its caller, on a thread of its own, one piece at a time.
#pragma once

#include <functional>
#include <future>

namespace elaswave::device {

/// THREADS: one caller. Where it goes it waits for the work.
class PendingWork {
 public:
  /// Does it in the caller where the system has no thread left. REQUIRES: not pending(). What the
  /// caller wrote before is seen by the work.
  void start(std::function<void()> work);
  /// Under way, ended and not yet finished with, or failed.
  bool pending() const { return work_.valid(); }
  /// Returns when no work is under way; what it wrote is seen then. Throws what the work threw,
  /// this time and every time after.
  void finish();
  /// As finish(), but throws nothing and leaves a failure to be told.
  void wait() const noexcept;

 private:
  std::shared_future<void> work_;
};

}  // namespace elaswave::device
