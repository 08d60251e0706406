#include "parallel/comm/threaded_call.h"

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

namespace elaswave::comm {

HasReturned start_on_thread(std::function<void()> call) {
  auto returned = std::make_shared<std::atomic<bool>>(false);
  std::thread([call = std::move(call), returned] {
    call();
    returned->store(true, std::memory_order_release);
  }).detach();
  return [returned] { return returned->load(std::memory_order_acquire); };
}

}  // namespace elaswave::comm
