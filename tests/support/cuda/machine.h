// The state of the emulated runtime: memory, streams, events, what is planted. Internal to the
// emulator.
#pragma once

#include <driver_types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tests/support/cuda/emulator.h"
#include "tests/support/cuda/memory.h"

/// Records of an event are numbered from 1.
struct EmulatedEvent {
  std::uint64_t recorded = 0;
  std::uint64_t passed = 0;
  bool timed = false;
  std::int64_t time = 0;  // of the record passed last, ns
  bool complete() const { return passed == recorded; }
};

/// Owned by who created the event; work that refers to it keeps the state alive.
struct CUevent_st {
  std::shared_ptr<EmulatedEvent> state;
};

struct CUstream_st {
  struct Work {
    std::function<void()> run;             // null: waits for `event`
    std::shared_ptr<EmulatedEvent> event;  // of a wait
    std::uint64_t record = 0;              // waits for this record
    std::int64_t issued = 0;               // host's time, ns
    bool is_wait() const { return !run; }
    bool ready() const { return !is_wait() || event->passed >= record; }
  };
  std::deque<Work> queue;
  bool destroyed = false;  // goes when its work is done
  std::int64_t time = 0;   // at which it has come by what it did, ns
};

namespace elaswave::emulator {

class Machine {
 public:
  static Machine& get();

  std::recursive_mutex& mutex() { return mutex_; }
  DeviceMemory& memory() { return memory_; }
  const Options& options() const { return options_; }

  void reset(const Options& options);
  /// What the call that begins must return at once: the poison, a planted failure, or success.
  cudaError_t begin_call();
  /// Notes the status for cudaGetLastError() and returns it.
  cudaError_t end_call(cudaError_t status);
  cudaError_t take_last_error();
  void plant_failure(std::uint64_t call, cudaError_t error);
  void plant_poison(std::uint64_t kernel, cudaError_t error);
  void plant_poison_at_call(std::uint64_t call, cudaError_t error);
  void kernels_take(std::int64_t nanoseconds) { kernel_time_ = nanoseconds; }
  std::int64_t kernel_time() const { return kernel_time_; }
  void set_host_time(std::int64_t nanoseconds) { host_time_ = nanoseconds; }
  void plant_full() { full_ = true; }
  bool take_full() { return std::exchange(full_, false) || refuses_; }
  void refuse() { refuses_ = true; }
  bool refuses() const { return refuses_; }

  void enqueue(cudaStream_t stream, std::function<void()> run) {
    stream->queue.push_back({.run = std::move(run), .event = {}, .issued = host_time_});
  }
  void enqueue_wait(cudaStream_t stream, const std::shared_ptr<EmulatedEvent>& event) {
    stream->queue.push_back(
        {.run = {}, .event = event, .record = event->recorded, .issued = host_time_});
  }
  cudaStream_t add_stream();
  bool remove_stream(cudaStream_t stream);
  bool knows(cudaStream_t stream) const;
  void add_event() { ++events_; }
  void remove_event() { --events_; }
  std::size_t live_handles() const;
  std::size_t pending_work() const;
  std::uint64_t kernels_run() const { return kernels_run_; }

  /// Runs work until `done`, or until the context is poisoned. Work of other streams may run too.
  template <typename Done>
  void run_until(Done done) {
    if (done() || poison_ != cudaSuccess) return;
    memory_.open();
    while (!done() && poison_ == cudaSuccess)
      if (!run_one()) emulator_error("streams wait for each other");
    memory_.close();
  }
  /// Runs a piece of work or two, or none.
  void run_some();
  /// Runs a kernel now; part of the work of a stream.
  void execute(const Launch& launch);

 private:
  Machine();
  bool run_one();
  std::uint64_t random(std::uint64_t below);

  std::recursive_mutex mutex_;
  Options options_;
  DeviceMemory memory_;
  std::vector<std::unique_ptr<CUstream_st>> streams_;
  std::size_t events_ = 0;
  std::size_t favourite_ = 0;  // the stream that runs when it can
  std::uint64_t random_state_ = 1;
  std::uint64_t kernels_run_ = 0;
  std::int64_t kernel_time_ = 0, host_time_ = 0;  // ns
  cudaError_t poison_ = cudaSuccess;
  cudaError_t last_error_ = cudaSuccess;
  std::uint64_t failing_call_ = 0;  // 0: none is planted
  cudaError_t failure_ = cudaSuccess;
  std::uint64_t poisoning_call_ = 0;
  std::uint64_t poisoning_kernel_ = 0;
  cudaError_t planted_poison_ = cudaSuccess;
  bool full_ = false;
  bool refuses_ = false;
};

}  // namespace elaswave::emulator
