#include "io/checkpoint/background_writer.h"

#include <system_error>

#include "io/base/error.h"
#include "io/base/log.h"

namespace elaswave::checkpoint {

void BackgroundWriter::start(const std::function<void()>& job) {
  EW_CHECK(!running(), "a second job beside training");
  if (beside_ == Beside::caller) return job();
  wait();
  running_.store(true, std::memory_order_release);
  try {
    thread_ = std::thread([this, job] {
      job();
      running_.store(false, std::memory_order_release);
    });
  } catch (const std::system_error& problem) {
    running_.store(false, std::memory_order_release);
    log_warn("no thread for a checkpoint ({}): training waits for it", problem.what());
    job();
  }
}

void BackgroundWriter::wait() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace elaswave::checkpoint
