#include "io/checkpoint/background_writer.h"

#include <utility>

#include "io/base/error.h"

namespace elaswave::checkpoint {

void BackgroundWriter::start(std::function<void()> job) {
  EW_CHECK(!running(), "a second job beside training");
  if (beside_ == Beside::caller) return job();
  wait();
  running_.store(true, std::memory_order_release);
  thread_ = std::thread([this, job = std::move(job)] {
    job();
    running_.store(false, std::memory_order_release);
  });
}

void BackgroundWriter::wait() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace elaswave::checkpoint
