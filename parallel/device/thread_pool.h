// Our own pool of compute threads. Work is cut into tasks by the caller from shapes alone, so which
// thread runs a task never changes a result.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace elaswave::device {

/// `threads` threads in all, the caller included: a pool of one starts none and runs tasks inline,
/// in order. Idle threads sleep; a call costs a few microseconds and allocates nothing. THREADS:
/// run() and run_indexed() are for one caller at a time; tasks must not call them.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Runs task(0) .. task(count - 1), each once, in any order and on any thread, and returns when
  /// all have returned. What tasks wrote is visible to the caller then. Tasks must not throw.
  template <typename Task>
  void run(std::int64_t count, Task&& task) {
    run_indexed(count, [&task](std::int64_t index, int) { task(index); });
  }

  /// As run() with task(index, worker); `worker` in [0, threads()) names the thread, for scratch
  /// memory that belongs to one thread. The caller is worker 0.
  template <typename Task>
  void run_indexed(std::int64_t count, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    dispatch(count, {.call = [](void* object, std::int64_t index,
                                int worker) { (*static_cast<Plain*>(object))(index, worker); },
                     .object = const_cast<void*>(static_cast<const void*>(&task))});
  }

 private:
  // A borrowed callable: std::function would allocate for every capture beyond two words.
  struct TaskRef {
    void (*call)(void* object, std::int64_t index, int worker) = nullptr;
    void* object = nullptr;
  };
  struct State;
  void dispatch(std::int64_t count, TaskRef task);

  std::unique_ptr<State> state_;
};

}  // namespace elaswave::device
