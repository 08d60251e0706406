#include "tests/support/cuda/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "io/base/error.h"
#include "parallel/comm/fiber.h"

namespace elaswave::emulator {

CurrentThread current;

namespace {

constexpr std::int64_t kStackBytes = 128 * 1024;
constexpr int kNobody = -1;

enum class State : std::uint8_t { not_started, runnable, at_warp, at_block, done };

struct Thread {
  State state = State::not_started;
  Meeting meeting = Meeting::block_barrier;
  std::source_location at;
  comm::Fiber* fiber = nullptr;
  unsigned meetings = 0;
};

bool same_place(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

// Forwards or backwards: with one of the two, a reader runs before the writer that it forgot to
// wait for.
struct Order {
  bool backwards = false;
  unsigned operator()(unsigned i, unsigned count) const { return backwards ? count - 1 - i : i; }
};

// Runs one block at a time. Threads run until they meet or exit; a fiber whose thread exits takes
// on the next that has not begun, so a kernel without meetings needs one fiber.
class BlockRunner {
 public:
  BlockRunner();
  void run(const Launch& launch, uint3 block, std::uint64_t choice);
  void wait_for_block(std::source_location at);
  Brought wait_for_warp(Meeting meeting, std::uint64_t bits, std::source_location at);

 private:
  struct Worker {
    std::unique_ptr<comm::Fiber> fiber;
    int thread = kNobody;
  };

  unsigned lanes(unsigned warp) const {
    return std::min(kWarpSize, launch_->threads - warp * kWarpSize);
  }
  Worker& idle_worker();
  void work(Worker& worker);
  void enter(unsigned thread);
  void start_warp(unsigned warp);
  void run_warp(unsigned warp);
  bool release_warp(unsigned warp);
  bool release_block();
  void suspend(State state, Meeting meeting, std::source_location at);

  const Launch* launch_ = nullptr;
  std::byte* shared_end_ = nullptr;  // followed by a page nobody may touch
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
  // Of each warp two rows of what lanes brought, used in turn: a lane that has left a meeting can
  // come to the next, not to the one after, before the last has read what was brought.
  std::array<std::array<std::uint64_t, 2 * kWarpSize>, kMaxThreads / kWarpSize> brought_{};
  Order lane_order_;
  Order warp_order_;
  unsigned starting_warp_ = 0;
  unsigned started_ = 0;  // lanes of it
};

BlockRunner::BlockRunner() {
  const std::size_t guard = 4096;
  const std::size_t room = (kMaxSharedBytes + guard - 1) / guard * guard;
  void* mapping =
      mmap(nullptr, room + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) emulator_error("no memory for a block's shared memory");
  shared_end_ = static_cast<std::byte*>(mapping) + room;
  if (mprotect(shared_end_, guard, PROT_NONE) != 0) emulator_error("mprotect failed");
}

BlockRunner::Worker& BlockRunner::idle_worker() {
  if (idle_.empty()) {
    auto worker = std::make_unique<Worker>();
    auto fiber = comm::Fiber::make(kStackBytes, [this, at = worker.get()] { work(*at); });
    if (!fiber) emulator_error(fiber.error().text().c_str());
    worker->fiber = std::move(*fiber);
    idle_.push_back(worker.get());
    workers_.push_back(std::move(worker));
  }
  Worker& worker = *idle_.back();
  idle_.pop_back();
  return worker;
}

void BlockRunner::work(Worker& worker) {
  for (;;) {
    while (started_ < lanes(starting_warp_)) {
      const unsigned lane = lane_order_(started_++, lanes(starting_warp_));
      const unsigned index = starting_warp_ * kWarpSize + lane;
      worker.thread = static_cast<int>(index);
      threads_[index].fiber = worker.fiber.get();
      current.index.x = index;
      launch_->body();
      threads_[index].state = State::done;
    }
    worker.thread = kNobody;
    idle_.push_back(&worker);
    worker.fiber->suspend();
  }
}

void BlockRunner::enter(unsigned thread) {
  current.index.x = thread;
  threads_[thread].fiber->resume();
}

void BlockRunner::start_warp(unsigned warp) {
  starting_warp_ = warp;
  started_ = 0;
  while (started_ < lanes(warp)) idle_worker().fiber->resume();
}

void BlockRunner::run_warp(unsigned warp) {
  do {
    for (unsigned i = 0; i < lanes(warp); ++i) {
      const unsigned thread = warp * kWarpSize + lane_order_(i, lanes(warp));
      if (threads_[thread].state == State::runnable) enter(thread);
    }
  } while (release_warp(warp));
}

// Lets the lanes that met go on. False: none has met.
bool BlockRunner::release_warp(unsigned warp) {
  const unsigned first = warp * kWarpSize;
  const Thread* met = nullptr;
  for (unsigned i = first; i < first + lanes(warp); ++i)
    if (threads_[i].state == State::at_warp) met = &threads_[i];
  if (met == nullptr) return false;
  for (unsigned i = first; i < first + lanes(warp); ++i) {
    Thread& thread = threads_[i];
    if (thread.state == State::done) continue;
    if (thread.state != State::at_warp || thread.meeting != met->meeting ||
        !same_place(thread.at, met->at)) {
      current.index.x = i;
      kernel_error(fmt::format("divergence: while this thread waits here, thread {} of its warp "
                               "waits in line {}",
                               met - threads_.data(), met->at.line())
                       .c_str(),
                   thread.at);
    }
  }
  for (unsigned i = first; i < first + lanes(warp); ++i)
    if (threads_[i].state != State::done) threads_[i].state = State::runnable;
  return true;
}

// Lets the threads at the barrier go on. False: all have exited.
bool BlockRunner::release_block() {
  const Thread* met = nullptr;
  for (const Thread& thread : threads_)
    if (thread.state == State::at_block) met = &thread;
  if (met == nullptr) return false;
  for (Thread& thread : threads_) {
    if (thread.state == State::done) continue;
    if (!same_place(thread.at, met->at)) {
      current.index.x = static_cast<unsigned>(&thread - threads_.data());
      kernel_error(fmt::format("divergence: while this thread waits at this barrier, thread {} "
                               "waits at that of line {}",
                               met - threads_.data(), met->at.line())
                       .c_str(),
                   thread.at);
    }
    thread.state = State::runnable;
  }
  return true;
}

void BlockRunner::run(const Launch& launch, uint3 block, std::uint64_t choice) {
  launch_ = &launch;
  lane_order_.backwards = (choice & 1) != 0;
  warp_order_.backwards = (choice & 2) != 0;
  threads_.assign(launch.threads, Thread{});
  current.block = block;
  current.dynamic_shared = shared_end_ - (launch.shared_bytes + 15) / 16 * 16;
  std::memset(current.dynamic_shared, 0xFF, launch.shared_bytes);  // NaN: it is not cleared
  const unsigned warps = (launch.threads + kWarpSize - 1) / kWarpSize;
  bool first = true;
  do {
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned warp = warp_order_(i, warps);
      if (first) start_warp(warp);
      // The first pass over the lanes has been the start.
      if (!first || release_warp(warp)) run_warp(warp);
    }
    first = false;
  } while (release_block());
}

void BlockRunner::suspend(State state, Meeting meeting, std::source_location at) {
  Thread& thread = threads_[current.index.x];
  thread.state = state;
  thread.meeting = meeting;
  thread.at = at;
  ++thread.meetings;
  thread.fiber->suspend();
}

void BlockRunner::wait_for_block(std::source_location at) {
  suspend(State::at_block, Meeting::block_barrier, at);
}

Brought BlockRunner::wait_for_warp(Meeting meeting, std::uint64_t bits, std::source_location at) {
  const unsigned self = current.index.x;
  const unsigned warp = self / kWarpSize;
  std::uint64_t* row = brought_[warp].data() + (threads_[self].meetings % 2 == 0 ? 0 : kWarpSize);
  row[self % kWarpSize] = bits;
  suspend(State::at_warp, meeting, at);
  std::uint32_t present = 0;
  for (unsigned lane = 0; lane < lanes(warp); ++lane)
    if (threads_[warp * kWarpSize + lane].meetings >= threads_[self].meetings)
      present |= 1u << lane;
  return {row, present};
}

BlockRunner& runner() {
  static BlockRunner runner;  // its fibers serve every kernel of the process
  return runner;
}

}  // namespace

void meet_block(std::source_location at) {
  runner().wait_for_block(at);
}

Brought meet_warp(Meeting meeting, std::uint64_t bits, std::source_location at) {
  return runner().wait_for_warp(meeting, bits, at);
}

void run_kernel(const Launch& launch, std::uint64_t seed) {
  current.kernel = &launch.at;
  current.block_dim = dim3(launch.threads, 1, 1);
  current.grid_dim = launch.grid;
  const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  std::uint64_t state = seed;
  const Order order{(seed & 1) != 0};
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t at = order.backwards ? blocks - 1 - i : i;
    const uint3 block{static_cast<unsigned>(at % launch.grid.x),
                      static_cast<unsigned>(at / launch.grid.x % launch.grid.y),
                      static_cast<unsigned>(at / launch.grid.x / launch.grid.y)};
    // Knuth, The Art of Computer Programming 2, 3.3.4, table 1, line 26.
    state = state * 6364136223846793005u + 1442695040888963407u;
    runner().run(launch, block, state >> 60);
  }
  current.kernel = nullptr;
}

void kernel_error(const char* what, std::source_location at) {
  std::fprintf(stderr,
               "emulator: %s:%u: %s; kernel launched at %s:%u, block (%u, %u, %u), thread %u\n",
               at.file_name(), at.line(), what, current.kernel->file_name(), current.kernel->line(),
               current.block.x, current.block.y, current.block.z, current.index.x);
  std::abort();
}

void emulator_error(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

}  // namespace elaswave::emulator
