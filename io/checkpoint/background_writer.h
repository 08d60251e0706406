// Work that goes on beside training: one job at a time, on a thread of its own; or at once, in the
// caller, where time is simulated and threads would make runs differ.
// THREADS: one caller. The destructor waits for the job under way.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace elaswave::checkpoint {

enum class Beside { thread, caller };

class BackgroundWriter {
 public:
  explicit BackgroundWriter(Beside beside) : beside_(beside) {}
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;
  ~BackgroundWriter() { wait(); }

  /// Does the job in the caller when the system has no thread left. REQUIRES: not running(); the
  /// job throws nothing.
  void start(const std::function<void()>& job);
  bool running() const { return running_.load(std::memory_order_acquire); }
  /// Returns when nothing runs. What the job wrote is visible then, as after running() == false.
  void wait();

 private:
  Beside beside_;
  std::atomic<bool> running_ = false;
  std::thread thread_;
};

}  // namespace elaswave::checkpoint
