#include "parallel/device/thread_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "io/base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace elaswave::device {

namespace {

// Polls before a thread goes to sleep. About ten microseconds: longer than the gap between two
// kernels of a step, shorter than what a neighbour on an oversubscribed core would notice.
constexpr int kSpinPolls = 400;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Returns once `word` no longer holds `old`: a bounded spin, then the kernel's wait.
void wait_until_changed(const std::atomic<int>& word, int old) {
  for (int poll = 0; poll < kSpinPolls; ++poll) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace

// One job at a time. `ticket` holds (job number << 32 | tasks not yet claimed), so that a claim by
// compare-exchange succeeds only for the job it was read from: a thread that wakes late finds
// either no tasks or those of the newer job, never a stale one. The fields `task` and `count` are
// written only while no task is unclaimed or running, and read only after a claim.
struct ThreadPool::State {
  TaskRef task;
  std::int64_t count = 0;
  alignas(64) std::atomic<std::uint64_t> ticket{0};
  alignas(64) std::atomic<int> unfinished{0};
  alignas(64) std::atomic<int> wake{
      0};  // changes with every job; an int, so that waits are futexes
  std::atomic<bool> stopping{false};
  std::uint64_t job = 0;
  int threads = 1;
  std::vector<std::thread> workers;

  // Claims and runs tasks until none is left.
  void drain(int worker) {
    int done = 0;
    std::uint64_t seen = ticket.load(std::memory_order_acquire);
    while ((seen & 0xFFFFFFFFu) != 0) {
      if (!ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
      task.call(task.object, count - static_cast<std::int64_t>(seen & 0xFFFFFFFFu), worker);
      ++done;
      seen = ticket.load(std::memory_order_acquire);
    }
    // Only now: the job cannot end, nor the fields change, while this thread holds unreported
    // tasks.
    if (done != 0 && unfinished.fetch_sub(done, std::memory_order_acq_rel) == done)
      unfinished.notify_all();
  }

  void work(int worker) {
    for (;;) {
      const int seen = wake.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_acquire)) return;
      drain(worker);
      wait_until_changed(wake, seen);
    }
  }

  void ring() {
    wake.fetch_add(1, std::memory_order_release);
    wake.notify_all();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  EW_CHECK(threads >= 1, "a thread pool of {} threads", threads);
  state_->threads = threads;
  state_->workers.reserve(static_cast<std::size_t>(threads - 1));
  for (int worker = 1; worker < threads; ++worker)
    state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_release);
  state_->ring();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const {
  return state_->threads;
}

void ThreadPool::dispatch(std::int64_t count, TaskRef task) {
  State& state = *state_;
  EW_CHECK(count >= 0 && count <= INT32_MAX, "{} tasks in one call", count);
  if (state.threads == 1 || count <= 1) {
    for (std::int64_t index = 0; index < count; ++index) task.call(task.object, index, 0);
    return;
  }
  state.task = task;
  state.count = count;
  state.unfinished.store(static_cast<int>(count), std::memory_order_relaxed);
  state.ticket.store(++state.job << 32 | static_cast<std::uint64_t>(count),
                     std::memory_order_release);
  state.ring();
  state.drain(0);
  for (int left; (left = state.unfinished.load(std::memory_order_acquire)) != 0;)
    wait_until_changed(state.unfinished, left);
}

}  // namespace elaswave::device
