// Fiber: a call stack that can be left in the middle and entered again. The simulated ranks run on
// fibers, all on one thread. Internal to parallel/comm. A switch saves callee-saved registers, the
// SSE and x87 control words and the C++ runtime's exception state (which is per thread, but belongs
// to the rank), and tells AddressSanitizer and ThreadSanitizer. No system call. THREADS: all fibers
// of one FiberMain on one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "io/base/error.h"

namespace elaswave::comm {

/// Register and runtime state of a stack that is not running.
struct FiberContext {
  void* stack_pointer = nullptr;
  void* caught_exceptions =
      nullptr;  // the two fields of __cxa_eh_globals (Itanium C++ ABI: Exception
  unsigned int uncaught_exceptions = 0;  // Handling, section 2.2.2)
  void* asan_fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  std::size_t stack_bytes = 0;
  void* tsan_fiber = nullptr;
};

class Fiber {
 public:
  /// `body` must not let an exception escape. The stack ends in a guard page.
  static Result<std::unique_ptr<Fiber>> make(std::int64_t stack_bytes, std::function<void()> body);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs the body until it suspends or returns. REQUIRES: not finished; called outside this fiber.
  void resume();
  /// Returns to who called resume(). REQUIRES: called inside this fiber.
  void suspend();
  bool finished() const { return finished_; }

 private:
  Fiber() = default;
  static void entry(Fiber* fiber);
  friend void fiber_entry(Fiber* fiber);

  std::function<void()> body_;
  FiberContext own_;
  FiberContext resumer_;
  void* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace elaswave::comm
