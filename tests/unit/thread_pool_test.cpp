#include "parallel/device/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

namespace elaswave::device {
namespace {

// Every task once and nothing else, for counts below, at and above the number of threads; plain
// (not atomic) counters, so that a task run twice at a time is also a data race.
TEST(ThreadPool, RunsEachTaskOnce) {
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 8, 9, 64, 1000}) {
      std::vector<int> runs(static_cast<std::size_t>(count) + 1, 0);
      pool.run(count, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
      for (std::int64_t task = 0; task < count; ++task)
        ASSERT_EQ(runs[static_cast<std::size_t>(task)], 1) << threads << " threads, task " << task;
      EXPECT_EQ(runs.back(), 0);
    }
  }
}

// Results of one round are read, unsynchronised, by the next: the end of run() must order memory.
TEST(ThreadPool, ManyRoundsSeeEachOther) {
  constexpr int kTasks = 13;
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<std::int64_t> values(kTasks, 0);
    constexpr int kRounds = 3000;
    for (int round = 0; round < kRounds; ++round)
      pool.run(kTasks, [&](std::int64_t task) {
        std::int64_t& value = values[static_cast<std::size_t>((task + round) % kTasks)];
        value += round;
      });
    for (const std::int64_t value : values) EXPECT_EQ(value, kRounds * (kRounds - 1) / 2);
  }
}

// A round that starts while threads of the last one are still going to sleep, with and without a
// pause.
TEST(ThreadPool, WakesSleepers) {
  ThreadPool pool(4);
  std::atomic<int> runs{0};
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 3));
    pool.run(8, [&](std::int64_t) { runs.fetch_add(1, std::memory_order_relaxed); });
  }
  EXPECT_EQ(runs.load(), 160);
}

// A worker number belongs to one thread at a time: plain per-worker sums lose nothing.
TEST(ThreadPool, WorkerNumbersAreExclusive) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    std::vector<std::int64_t> sums(static_cast<std::size_t>(threads), 0);
    std::atomic<bool> out_of_range{false};
    constexpr std::int64_t kTasks = 20000;
    pool.run_indexed(kTasks, [&](std::int64_t task, int worker) {
      if (worker < 0 || worker >= threads)
        out_of_range = true;
      else
        sums[static_cast<std::size_t>(worker)] += task;
    });
    EXPECT_FALSE(out_of_range);
    EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), std::int64_t{0}),
              kTasks * (kTasks - 1) / 2);
  }
}

TEST(ThreadPool, OneThreadRunsInlineInOrder) {
  ThreadPool pool(1);
  std::vector<std::int64_t> order;
  bool elsewhere = false;
  const auto caller = std::this_thread::get_id();
  pool.run_indexed(5, [&](std::int64_t task, int worker) {
    order.push_back(task);
    elsewhere = elsewhere || worker != 0 || std::this_thread::get_id() != caller;
  });
  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  EXPECT_FALSE(elsewhere);
}

// All threads take part: tasks that wait for each other end only when each has a thread of its own.
TEST(ThreadPool, TasksRunAtTheSameTime) {
  ThreadPool pool(3);
  std::atomic<int> arrived{0};
  pool.run(3, [&](std::int64_t) {
    arrived.fetch_add(1);
    while (arrived.load() < 3) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 3);
}

// Constant callables and large captures are borrowed, not copied.
TEST(ThreadPool, TakesAnyCallable) {
  ThreadPool pool(2);
  std::atomic<std::int64_t> sum{0};
  const auto task = [&sum](std::int64_t index) { sum += index; };
  pool.run(10, task);
  EXPECT_EQ(sum.load(), 45);
}

TEST(ThreadPoolDeath, RefusesNoThreads) {
  EXPECT_DEATH(ThreadPool(0), "0 threads");
}

}  // namespace
}  // namespace elaswave::device
